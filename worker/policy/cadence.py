"""When may a person be told, and how often?

Grace after the break, quiet hours on the person's own clock, caps over what was already sent, and the days of the reminders.
All of it is decided before a URI is minted: a reconnection is due at the moment that :func:`earliest` gives.

A first message whose answer was lost may not have arrived. It is followed by another a day later, at the same place of the cadence;
the reminders after it keep their days. Example with reminders on days 3 and 7: day 0 (unknown), day 1, day 3, day 7. One message too
many is the worst of it: neither the second first message nor a reminder is followed up.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo

from worker.settings.values import Cap, QuietHours

#: How long after the last reminder a reconnection stays open before it is given up.
PATIENCE_AFTER_LAST = timedelta(days=7)

#: How long after a first message that may not have arrived another follows.
FOLLOW_UP_AFTER = timedelta(days=1)

_DAY = timedelta(days=1)
#: Clocks change at these moments only: whole quarters of an hour, UTC.
_QUARTER = timedelta(minutes=15)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Zones that are not all outside the quiet hours at one moment of so long a time never are.
_SEARCH = timedelta(days=2)


def earliest(
    now: datetime, *, zones: Sequence[tzinfo], quiet: QuietHours | None, caps: Sequence[Cap], sent: Sequence[datetime]
) -> datetime:
    """The first moment from ``now`` on at which a person may be written to, given when they were written to before.

    It is outside the quiet hours in all ``zones``. Where no moment is, the last zone is left out, and so on: the first one, the
    likeliest, always counts, and nobody is silent for ever.
    """
    moment = now
    while True:
        allowed = _after_quiet_hours(_after_caps(moment, caps, sent), zones, quiet)
        if allowed == moment:
            return moment
        moment = allowed


def why_later(now: datetime, *, zones: Sequence[tzinfo], quiet: QuietHours | None) -> str:
    """What :func:`earliest` waits for where it is later than ``now``, in a word: quiet hours first, then a cap."""
    return "quiet_hours" if quiet and is_quiet(now, zones, quiet) else "message_cap"


def end_of_grace(broken_since: datetime, grace: timedelta) -> datetime:
    """The first moment at which a break is worth a message: many mend by themselves within minutes."""
    return broken_since + grace


def next_reminder(first_notified_at: datetime, step: int, days: Sequence[int]) -> datetime:
    """When round ``step`` is due (0 was the first message); past the last, when the reconnection is given up."""
    if step < len(days):
        return first_notified_at + timedelta(days=days[step])
    return first_notified_at + timedelta(days=days[-1]) + PATIENCE_AFTER_LAST


def follow_up(now: datetime, *, before: datetime) -> datetime | None:
    """When a first message of ``now`` that may not have arrived is followed by another; ``None`` unless that is ``before``."""
    at = now + FOLLOW_UP_AFTER
    return at if at < before else None


def _after_caps(moment: datetime, caps: Sequence[Cap], sent: Sequence[datetime]) -> datetime:
    for cap in caps:
        if len(sent) < cap.count:
            continue
        latest = sorted((at for at in sent if at > moment - cap.within), reverse=True)
        if len(latest) >= cap.count:
            moment = max(moment, latest[cap.count - 1] + cap.within)
    return moment


def is_quiet(moment: datetime, zones: Sequence[tzinfo], quiet: QuietHours) -> bool:
    """Whether a person may be in their quiet hours: whether a clock in one of the zones is."""
    return _after_quiet_hours(moment, zones, quiet) > moment


def _after_quiet_hours(moment: datetime, zones: Sequence[tzinfo], quiet: QuietHours | None) -> datetime:
    if quiet is None:
        return moment
    if len(zones) == 1:  # as nearly everybody has
        return _after_quiet_hours_in(moment, zones[0], quiet)
    for count in range(len(zones), 1, -1):
        found = _outside_in_all(moment, zones[:count], quiet)
        if found is not None:
            return found
    return _after_quiet_hours_in(moment, zones[0], quiet)


def _outside_in_all(moment: datetime, zones: Sequence[tzinfo], quiet: QuietHours) -> datetime | None:
    until = moment + _SEARCH
    while moment <= until:
        latest = max(_after_quiet_hours_in(moment, zone, quiet) for zone in zones)
        if latest == moment:
            return moment
        moment = latest
    return None


def _is_quiet_in(moment: datetime, zone: tzinfo, quiet: QuietHours) -> bool:
    local = moment.astimezone(zone).time()
    if quiet.start < quiet.end:
        return quiet.start <= local < quiet.end
    return local >= quiet.start or local < quiet.end


def _after_quiet_hours_in(moment: datetime, zone: tzinfo, quiet: QuietHours) -> datetime:
    while _is_quiet_in(moment, zone, quiet):
        local = moment.astimezone(zone)
        left = (datetime.combine(local.date(), quiet.end) - local.replace(tzinfo=None)) % _DAY
        if (moment + left).astimezone(zone).utcoffset() != local.utcoffset():
            # The clocks change on the way and may skip the end or pass it twice: no further than they surely stay as they are.
            left = min(left, _QUARTER - (moment - _EPOCH) % _QUARTER)
        moment += left
    return moment
