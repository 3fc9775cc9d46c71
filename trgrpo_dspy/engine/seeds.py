"""Where all chance comes from: seeds derived from the run's one seed and from names."""

from __future__ import annotations

import hashlib

__all__ = ["derive_seed"]


def derive_seed(*parts: int | str) -> int:
    """Hash the parts to 63 bits: the same on every machine, never 0, distinct for distinct parts.

    63 bits because DSPy's `BestOfN` and `Refine` add 1, 2, ... to a `rollout_id`: neighbours must not collide.
    """
    digest = hashlib.blake2b(ascii(parts).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 1) | 1
