"""Is it the customer's connection, or the bank?

When members of one institution break in a burst far above its own normal, it is most likely the institution's outage: writing to
everybody would send thousands to a bank that cannot serve them. Their messages are held, somebody here is told, and when the
hold ends they go out on a ramp. An institution whose normal is not known yet is never held.
"""

from datetime import timedelta

#: The span that is looked at for a burst, and over which the hold is renewed while it goes on.
WINDOW = timedelta(hours=1)
#: How far back an institution's normal is taken from, and how much of that there must be.
HISTORY, LEAST_HISTORY = timedelta(days=14), timedelta(days=3)
#: Fewer breaks than this are no burst, however quiet an institution usually is.
LEAST_BREAKS = 50
#: How many times its normal a burst is.
FACTOR = 10
#: How long what was held takes to go out.
RAMP = timedelta(hours=1)


def is_burst(breaks: int, *, per_window_normally: float) -> bool:
    """Whether so many breaks within :data:`WINDOW` are far above an institution's own normal."""
    return breaks >= LEAST_BREAKS and breaks >= FACTOR * per_window_normally


def on_the_ramp(position: float) -> timedelta:
    """When somebody at ``position`` (0 to 1) of those held is written to: a tenth in the first third, six in the last."""
    third = RAMP / 3
    if position < 0.1:  # noqa: PLR2004 - the ramp's shape, as the docstring gives it
        return third * (position / 0.1)
    if position < 0.4:  # noqa: PLR2004
        return third + third * ((position - 0.1) / 0.3)
    return 2 * third + third * ((position - 0.4) / 0.6)
