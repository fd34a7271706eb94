"""When may a person be told, and how often?

Grace after the break, quiet hours on the person's own clock, caps over what was already sent, and the days of the reminders.
All of it is decided before a URI is minted: a reconnection is due at the moment that :func:`earliest` gives.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from worker.setting_types import Cap, QuietHours

#: How long after the last reminder an episode stays open before it is given up.
PATIENCE_AFTER_LAST = timedelta(days=7)

#: The finest grain of any time zone's change; a step that always leaves a gap of local time behind.
_GRAIN = timedelta(minutes=15)


def earliest(
    now: datetime, *, zone: ZoneInfo, quiet: QuietHours | None, caps: Sequence[Cap], sent: Sequence[datetime]
) -> datetime:
    """The first moment from ``now`` on at which a person may be written to, given when they were written to before."""
    moment = now
    while True:
        allowed = _after_quiet_hours(_after_caps(moment, caps, sent), zone, quiet)
        if allowed == moment:
            return moment
        moment = allowed


def end_of_grace(broken_since: datetime, grace: timedelta) -> datetime:
    """The first moment at which a break is worth a message: many mend by themselves within minutes."""
    return broken_since + grace


def next_round(first_notified_at: datetime, step: int, days: Sequence[int]) -> datetime:
    """When round ``step`` is due (0 was the first message); past the last, when the episode is given up."""
    if step < len(days):
        return first_notified_at + timedelta(days=days[step])
    return first_notified_at + timedelta(days=days[-1]) + PATIENCE_AFTER_LAST


def zone_of(name: str | None, default: str) -> ZoneInfo:
    """A user's time zone, or the default where it is missing or unknown."""
    try:
        return ZoneInfo(name or default)
    except (KeyError, ValueError, OSError):
        return ZoneInfo(default)


def _after_caps(moment: datetime, caps: Sequence[Cap], sent: Sequence[datetime]) -> datetime:
    for cap in caps:
        latest = sorted((at for at in sent if at > moment - cap.within), reverse=True)
        if len(latest) >= cap.count:
            moment = max(moment, latest[cap.count - 1] + cap.within)
    return moment


def is_quiet(moment: datetime, zone: ZoneInfo, quiet: QuietHours) -> bool:
    """Whether the person's clock stands inside the quiet hours."""
    local = moment.astimezone(zone).time()
    if quiet.start < quiet.end:
        return quiet.start <= local < quiet.end
    return local >= quiet.start or local < quiet.end


def _after_quiet_hours(moment: datetime, zone: ZoneInfo, quiet: QuietHours | None) -> datetime:
    if quiet is None or not is_quiet(moment, zone, quiet):
        return moment
    local = moment.astimezone(zone)
    day = local.date() if local.time() < quiet.end else local.date() + timedelta(days=1)
    end = datetime.combine(day, quiet.end, tzinfo=zone).astimezone(UTC)
    # An end that the clocks skip, or pass twice, may lie a little off; from there the quarters are tried.
    end = max(end, moment + timedelta(microseconds=1))
    while is_quiet(end, zone, quiet):
        end += _GRAIN
    return end
