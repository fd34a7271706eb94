"""How a shift takes its rows."""

from enum import Enum, auto


class Mode(Enum):
    """What a shift is for."""

    #: Everything that is due, slice after slice.
    WORK = auto()
    #: One row, to see whether the other side serves us again.
    PROBE = auto()
    #: One small slice of rows whose workers died, as this process's only work (policy/suspicion.py).
    SUSPECTS = auto()
