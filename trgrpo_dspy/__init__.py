"""Training-Free GRPO for DSPy: improve a program by experiences written into its instructions.

`TrainingFreeGRPO` is the optimizer; `evaluate` and `compare` measure programs with intervals; `attach` carries a
library from one program to another.
"""

from .budget import Budget
from .errors import (
    FatalError,
    InfrastructureError,
    JournalError,
    RunStopped,
    SchemaVersionError,
    TrainingFreeGRPOError,
)
from .estimate import Estimate
from .evaluation import compare, evaluate
from .instructions import attach, read_library
from .library import Experience, ExperienceLibrary
from .measurement import Evaluation
from .optimizer import TrainingFreeGRPO
from .ray_executor import RayExecutor
from .reflector import Reflector
from .result import DetailedResults

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
    "evaluate",
    "read_library",
]
__version__ = "0.1.0"
