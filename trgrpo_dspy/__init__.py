"""Training-Free GRPO for DSPy: improve a program by experiences written into its instructions.

`TrainingFreeGRPO` is the optimizer; `evaluate` and `compare` measure programs with intervals; `attach` carries a
library from one program to another.

The names are loaded when the first is asked for (`api.py`): `trgrpo --help` and what reads files alone need no DSPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import *  # noqa: F403

__all__ = [  # noqa: F405
    "Budget",
    "DetailedResults",
    "Estimate",
    "Evaluation",
    "Experience",
    "ExperienceLibrary",
    "FatalError",
    "InfrastructureError",
    "JournalError",
    "RayExecutor",
    "Reflector",
    "RunStopped",
    "SchemaVersionError",
    "TrainingFreeGRPO",
    "TrainingFreeGRPOError",
    "attach",
    "compare",
    "diff",
    "evaluate",
    "read_library",
]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Load the public names."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    api = importlib.import_module(".api", __name__)
    globals().update({public: getattr(api, public) for public in __all__})
    return globals()[name]


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})
