"""Training-Free GRPO for DSPy: improve a program by experiences written into its instructions.

`TrainingFreeGRPO` is the optimizer; `evaluate` and `compare` measure programs with intervals; `attach` carries a
library from one program to another.

A name is loaded when it is first asked for: `trgrpo --help` and what reads files alone need no DSPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine.executors.ray_executor import RayExecutor as RayExecutor
    from .errors import FatalError as FatalError
    from .errors import InfrastructureError as InfrastructureError
    from .errors import JournalError as JournalError
    from .errors import RunStopped as RunStopped
    from .errors import SchemaVersionError as SchemaVersionError
    from .errors import TrainingFreeGRPOError as TrainingFreeGRPOError
    from .evaluation.evaluate import compare as compare
    from .evaluation.evaluate import evaluate as evaluate
    from .evaluation.measurement import Evaluation as Evaluation
    from .evaluation.result import DetailedResults as DetailedResults
    from .learning.reflector import Reflector as Reflector
    from .library.experience import Experience as Experience
    from .library.library import ExperienceLibrary as ExperienceLibrary
    from .library.library import diff as diff
    from .meter.estimate import Estimate as Estimate
    from .meter.meter import Budget as Budget
    from .optimizer import TrainingFreeGRPO as TrainingFreeGRPO
    from .program.carrying import attach as attach
    from .program.carrying import read_library as read_library

_NAMES = {
    "engine.executors.ray_executor": ("RayExecutor",),
    "errors": (
        *("FatalError", "InfrastructureError", "JournalError", "RunStopped", "SchemaVersionError"),
        "TrainingFreeGRPOError",
    ),
    "evaluation.evaluate": ("compare", "evaluate"),
    "evaluation.measurement": ("Evaluation",),
    "evaluation.result": ("DetailedResults",),
    "learning.reflector": ("Reflector",),
    "library.experience": ("Experience",),
    "library.library": ("ExperienceLibrary", "diff"),
    "meter.estimate": ("Estimate",),
    "meter.meter": ("Budget",),
    "optimizer": ("TrainingFreeGRPO",),
    "program.carrying": ("attach", "read_library"),
}
"""The public names, by the module that defines them; the imports above say the same to type checkers."""
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULE_OF)
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Load a public name."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    return globals()[name]


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})
