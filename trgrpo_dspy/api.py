"""The public names. `trgrpo_dspy` loads them when one is asked for, so that its command starts without DSPy."""

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
from .library.experience import Experience
from .library.library import ExperienceLibrary, diff
from .meter.estimate import Estimate
from .meter.meter import Budget
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
