"""What tests share: a scripted LM, a loopback server, and where the project and the real data lie."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The project."""
DATA = Path(os.environ.get("TRGRPO_DATA") or ROOT.parent / "shared" / "data")
"""Real data, outside the project; tests that need it skip where it is absent."""
