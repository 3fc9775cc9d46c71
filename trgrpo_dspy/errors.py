"""The exceptions of this package, all in one tree.

::

    Exception
    └── TrainingFreeGRPOError        base class: catch this one for anything of ours
        ├── InfrastructureError      raise it in a tool: "this attempt met an outage, do not score it"
        ├── FatalError               nothing can go on: wrong key, no credit, unknown model, configuration
        ├── JournalError             a log_dir is in use, damaged, or holds another run
        └── SchemaVersionError       a saved result, library or journal was written by a newer version
    BaseException
    └── RunStopped                   the run is over; stops every further LM call, also through `except Exception`

Bad arguments raise `TypeError` or `ValueError`, naming the argument, the value and what is allowed.
"""

from __future__ import annotations

__all__ = [
    "FatalError",
    "InfrastructureError",
    "JournalError",
    "RunStopped",
    "SchemaVersionError",
    "TrainingFreeGRPOError",
]


class TrainingFreeGRPOError(Exception):
    """Base class of the errors this package raises on its own account."""


class InfrastructureError(TrainingFreeGRPOError):
    """An outage outside the program: a dead connection, a rate limit, a service that does not answer.

    Raise it in a tool (also when the program catches it, as `dspy.ReAct` does) and the attempt is *unscored*:
    it is tried again, and if that does not help it is counted, kept out of every mean and never learned from.
    """


class FatalError(TrainingFreeGRPOError):
    """The run cannot go on: wrong key, no credit, unknown model or a configuration no retry will mend."""

    program: object = None
    """The best program so far, as `compile` would have returned it; None if there is none:
    neither was the input measured nor a step completed."""


class JournalError(TrainingFreeGRPOError):
    """A `log_dir` can't be used: another process has it, it is damaged or full, or it holds another run."""


class SchemaVersionError(TrainingFreeGRPOError, ValueError):
    """What is being loaded was written by a newer version of this package."""


class RunStopped(BaseException):
    """The run has been stopped; raised in place of any further LM call.

    A `BaseException`, so that a program's own `except Exception` does not turn the end of the run into one more
    wrong answer.
    """
