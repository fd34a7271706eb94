"""When may a user be told, and how often?

Four rules: grace after the break, quiet hours in the user's time zone, caps on what was already sent, and the days of the reminders.
They are applied before a URI is minted. Grace and reminders set the moment at which a reconnection is due; :func:`earliest` moves it out of
quiet hours and past caps.

**Position.** A reconnection counts its messages twice (:class:`CadencePosition`). ``step`` counts every message that was tried. It is
part of the message's key, so it never decreases. ``base_step`` counts those messages that did not use up a reminder. The difference is
the index into ``REMINDER_DAYS``.

**Unknown.** If the answer to a first message was lost, the message may not have arrived. Another one follows a day later and does not
use up a reminder. Example with reminders on days 3 and 7: day 0 (unknown), day 1, day 3, day 7. Neither the message of day 1 nor a
reminder is followed up, so a user gets at most one message too many.

**Owed.** If a click failed for MX's or the bank's fault, and none succeeded within an hour, its user is owed a message: it is due at
once, outside the days of the reminders, and uses up none of them. Fetch asks MX for a window first, so it leaves when MX serves again.
If another message tells the user first, nothing is owed any more.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

from worker.settings.values import Cap, QuietHours

#: How long after the last reminder a reconnection stays open before it is given up.
PATIENCE_AFTER_LAST = timedelta(days=7)

#: A first message that may not have arrived is followed by another after this time.
FOLLOW_UP_AFTER = timedelta(days=1)

_DAY = timedelta(days=1)
#: Clocks change only at whole quarters of an hour, UTC.
_QUARTER = timedelta(minutes=15)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: How far ahead to search for a moment outside the quiet hours in all zones. If there is none within this time, there never is one.
_SEARCH = timedelta(days=2)


def earliest(
    now: datetime, *, zones: Sequence[tzinfo], quiet: QuietHours | None, caps: Sequence[Cap], sent: Sequence[datetime]
) -> datetime:
    """The first moment from ``now`` on at which a user may be written to.

    It is outside the quiet hours in all ``zones``, and within ``caps`` given that messages were ``sent`` at those moments. ``zones``
    are ordered, the likeliest first. If no moment is outside the quiet hours in all of them, the last zone is dropped, and so on. The
    first zone always counts.
    """
    moment = now
    while True:
        allowed = _after_quiet_hours(_after_caps(moment, caps, sent), zones, quiet)
        if allowed == moment:
            return moment
        moment = allowed


def why_later(now: datetime, *, zones: Sequence[tzinfo], quiet: QuietHours | None) -> str:
    """Why :func:`earliest` returned a later moment than ``now``: ``quiet_hours`` if it is quiet now, else ``message_cap``."""
    return "quiet_hours" if quiet and is_quiet(now, zones, quiet) else "message_cap"


class CadencePosition(NamedTuple):
    """The position of a reconnection in the cadence.

    Example with ``REMINDER_DAYS=0,3,7,14,30``. ``CadencePosition(2, 0)``: the messages of days 0 and 3 were tried, and the next one belongs
    to day 7.

    - The next one is sent: ``CadencePosition(3, 0)``, and day 14 follows.
    - It bounces, and another channel is left: ``CadencePosition(3, 1)``. The message on the other channel still belongs to day 7.
    """

    #: Messages that were tried.
    step: int
    #: Those of them that used up no reminder.
    base_step: int

    @property
    def reminder(self) -> int:
        """The index into ``REMINDER_DAYS`` of the message that comes next; 0 is the first message."""
        return self.step - self.base_step

    def after_one_that_counts(self) -> "CadencePosition":
        """A message was sent, or failed for good: it used up its reminder. ``(2, 0)`` becomes ``(3, 0)``."""
        return CadencePosition(self.step + 1, self.base_step)

    def after_one_that_does_not_count(self) -> "CadencePosition":
        """A message had no chance, or left this reconnection out: its reminder is still to come. ``(2, 0)`` becomes ``(3, 1)``."""
        return CadencePosition(self.step + 1, self.base_step + 1)

    def before_one_that_does_not_count(self) -> "CadencePosition":
        """A message is sent out of turn and uses up no reminder: ``(2, 0)`` becomes ``(2, 1)``, and after it ``(3, 1)``.

        So the reminder that was next before it is next after it, on its own day.
        """
        return CadencePosition(self.step, min(self.base_step + 1, self.step))


def next_reminder(first_notified_at: datetime, reminder: int, days: Sequence[int]) -> datetime:
    """When the message with index ``reminder`` is due; past the last one, when the reconnection is given up.

    Example: first notified on the 1st, ``days`` 0, 3, 7. Reminder 1: the 4th. Reminder 2: the 8th. Reminder 3: the 15th, a week
    after the last, when it is given up.
    """
    if reminder < len(days):
        return first_notified_at + timedelta(days=days[reminder])
    return first_notified_at + timedelta(days=days[-1]) + PATIENCE_AFTER_LAST


def follow_up(now: datetime, *, before: datetime) -> datetime | None:
    """When to follow up a first message that was tried ``now`` and may not have arrived: a day later.

    ``None`` if the next message is due by then, at ``before``: it serves as the follow-up.
    """
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
    """Whether ``moment`` is within the quiet hours in any of the zones."""
    return _after_quiet_hours(moment, zones, quiet) > moment


def _after_quiet_hours(moment: datetime, zones: Sequence[tzinfo], quiet: QuietHours | None) -> datetime:
    if quiet is None:
        return moment
    if len(zones) == 1:  # nearly every user has one zone
        return _after_quiet_hours_in(moment, zones[0], quiet)
    for count in range(len(zones), 1, -1):
        outside_quiet = _outside_in_all(moment, zones[:count], quiet)
        if outside_quiet is not None:
            return outside_quiet
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
        until_quiet_ends = (datetime.combine(local.date(), quiet.end) - local.replace(tzinfo=None)) % _DAY
        if (moment + until_quiet_ends).astimezone(zone).utcoffset() != local.utcoffset():
            # The clocks change on the way, so the end of the quiet hours may be skipped or come twice. Advance only to the next whole
            # quarter of an hour: no clock changes before it.
            until_quiet_ends = min(until_quiet_ends, _QUARTER - (moment - _EPOCH) % _QUARTER)
        moment += until_quiet_ends
    return moment
