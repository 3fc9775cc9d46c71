"""Training-Free GRPO for DSPy: improve a program by experiences written into its instructions.

`TrainingFreeGRPO` is the optimizer; `evaluate` and `compare` measure programs with intervals; `attach` carries a
library from one program to another.
"""

from .engine.executors.ray_executor import RayExecutor
from .errors import (
    FatalError,
    InfrastructureError,
    JournalError,
    RunStopped,
    SchemaVersionError,
    TrainingFreeGRPOError,
)
from .evaluation.evaluate import compare, evaluate
from .evaluation.measurement import Evaluation
from .evaluation.result import DetailedResults
from .learning.reflector import Reflector
from .library import Experience, ExperienceLibrary, diff
from .meter import Budget, Estimate
from .optimizer import TrainingFreeGRPO
from .program.carrying import attach, read_library

__all__ = [
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
