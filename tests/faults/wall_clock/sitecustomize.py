"""Another wall clock for one process: put this folder on its ``PYTHONPATH``.

``CLOCK_FILE`` names a file that holds the seconds by which the process's clock is ahead, read at every look at the clock; as
long as there is no such file, the clock is right. Monotonic clocks run on undisturbed, as they do when an operator or NTP sets
the time.
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
        with open(_file, encoding="ascii") as file:  # noqa: PTH123 - no imports beyond need, in every process
            return float(file.read() or 0)
    except OSError:
        return 0.0


class _AlsoReal(type):
    """Moments made by C code are of the real class."""

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
    """Pickle finds a class by its name, and would find ours."""
    return _restore, moment.__reduce__()[1]


if _file:
    copyreg.pickle(_real, _reduce)
    time.time = lambda: _time() + _ahead()
    time.time_ns = lambda: _time_ns() + int(_ahead() * 1e9)
    _Shifted.__name__ = _Shifted.__qualname__ = "datetime"
    _Shifted.__module__ = "datetime"
    dt.datetime = _Shifted  # type: ignore[misc]
