"""Is it the user's connection, or the bank?

If far more members of one institution break within an hour than usual, it is most likely an outage of the institution. Messages would
send thousands of users to a bank that cannot serve them. So the messages are held, an error is logged, and when the hold ends the
messages go out on a ramp over an hour. An institution without a break in the last two weeks that is
older than three days is never held: what is usual for it is not known.

Example: usually 4 members an hour break. 50 in one hour are a burst (at least 50, and at least 10 times 4).

Some applications learn of breaks once a day. Example: a file that names 60 members of a bank every night. So a break does not count towards
a burst if the application's dates say that it is older than an hour. And the usual number is at least that of the busiest hour of the
second-busiest day, even if all other hours are quiet.
"""

from collections.abc import Mapping
from datetime import timedelta

#: A burst is counted over this time. A hold lasts as long, and each sweep that still counts a burst extends it.
WINDOW = timedelta(hours=1)
#: The history from which the usual number is taken, and how much of it there must be.
HISTORY, LEAST_HISTORY = timedelta(days=14), timedelta(days=3)
#: Fewer breaks than this are no burst, however quiet an institution usually is.
LEAST_BREAKS = 50
#: How many times the usual number a burst is.
FACTOR = 10
#: Over how long a time the held messages go out.
RAMP = timedelta(hours=1)


def normal(hours: Mapping[int, int], history: timedelta) -> float:
    """How many breaks within :data:`WINDOW` are usual: the mean, or, if it is more, the busiest hour of the second-busiest day.

    ``hours``: the breaks of each hour; the key is how many hours it is before the window. ``history``: the length of time that they
    cover. A day is 24 hours, counted back from the window. The busiest day is left out, because it may have been an outage.
    """
    days: dict[int, int] = {}
    for hour, breaks in hours.items():
        days[hour // 24] = max(breaks, days.get(hour // 24, 0))
    usual = sorted(days.values(), reverse=True)[1:2]
    return max([sum(hours.values()) / max(history / WINDOW, 1.0), *usual])


def is_burst(breaks: int, *, per_window_normally: float) -> bool:
    """Whether so many breaks within :data:`WINDOW` are a burst."""
    return breaks >= LEAST_BREAKS and breaks >= FACTOR * per_window_normally


def on_the_ramp(position: float) -> timedelta:
    """After how long the held user at ``position`` (0 to 1) is written to.

    10 % of them are written to in the first 20 minutes, 30 % in the next, 60 % in the last.
    """
    third = RAMP / 3
    if position < 0.1:  # noqa: PLR2004 - the ramp's shape, as the docstring gives it
        return third * (position / 0.1)
    if position < 0.4:  # noqa: PLR2004
        return third + third * ((position - 0.1) / 0.3)
    return 2 * third + third * ((position - 0.4) / 0.6)
