"""Another wall clock for one process: put this folder on its ``PYTHONPATH``.

``CLOCK_FILE`` names a file with the number of seconds by which the process's clock is ahead. It is read every time the clock is
read. Without the file the clock is right. Monotonic clocks do not change, as when an operator or NTP sets the time.
"""

import copyreg
import datetime as dt
import os
import time
from typing import Any

_real = dt.datetime
_time, _time_ns = time.time, time.time_ns
_file = os.environ.get("CLOCK_FILE", "")


def _ahead() -> float:
    try:
        with open(_file, encoding="ascii") as file:  # noqa: PTH123 - every process imports this file, so it imports little
            return float(file.read() or 0)
    except OSError:
        return 0.0


class _AlsoReal(type):
    """C code creates moments of the real class; they count as instances too."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _real)


class _Shifted(_real, metaclass=_AlsoReal):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        moment = _real.now(dt.UTC) + dt.timedelta(seconds=_ahead())
        return moment.astimezone(tz) if tz is not None else moment.astimezone().replace(tzinfo=None)

    @classmethod
    def utcnow(cls) -> Any:
        return cls.now(dt.UTC).replace(tzinfo=None)

    @classmethod
    def today(cls) -> Any:
        return cls.now()


def _restore(*state: Any) -> dt.datetime:
    return _real(*state)


def _reduce(moment: dt.datetime) -> tuple[Any, Any]:
    """Pickle finds a class by its name, and would find ours instead of the real one."""
    return _restore, moment.__reduce__()[1]


if _file:
    copyreg.pickle(_real, _reduce)
    time.time = lambda: _time() + _ahead()
    time.time_ns = lambda: _time_ns() + int(_ahead() * 1e9)
    _Shifted.__name__ = _Shifted.__qualname__ = "datetime"
    _Shifted.__module__ = "datetime"
    dt.datetime = _Shifted  # type: ignore[misc]
