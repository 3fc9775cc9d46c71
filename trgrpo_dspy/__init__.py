"""Training-Free GRPO for DSPy: improve a program by experiences written into its instructions.

`TrainingFreeGRPO` is the optimizer; `evaluate` and `compare` measure programs with intervals; `attach` carries a
library from one program to another.
"""

from .errors import FatalError, InfrastructureError, RunStopped, SchemaVersionError, TrainingFreeGRPOError
from .evaluation import Evaluation, compare, evaluate
from .instructions import attach, read_library
from .library import Experience, ExperienceLibrary
from .optimizer import TrainingFreeGRPO
from .reflector import Reflector
from .result import DetailedResults

__all__ = [
    "DetailedResults",
    "Evaluation",
    "Experience",
    "ExperienceLibrary",
    "FatalError",
    "InfrastructureError",
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
