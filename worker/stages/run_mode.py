"""Which rows a run claims."""

from enum import Enum, auto


class RunMode(Enum):
    """What a run is for."""

    #: Everything that is due, batch after batch.
    WORK = auto()
    #: One row, to test whether MX or the channel serves us again.
    PROBE = auto()
    #: One small batch of rows whose workers died, as this process's only work (policy/poison.py).
    POISON = auto()
