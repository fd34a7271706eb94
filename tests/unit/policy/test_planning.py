"""Simulates one user for sixty days: members break and recover, tokens expire, calls fail, clocks of processes differ.

The simulation calls the same pure decisions as the stages, in the same order, without database or network. Then the user's messages are
checked: none in quiet hours, none above a cap, none about a member that was no longer broken, and each due message in the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import make_settings
from tests.unit.policy.test_cadence import CHANGES, is_capped, many_caps, reads_quiet, zones
from worker.policy import notices
from worker.policy.cadence import earliest
from worker.policy.retries import next_attempt
from worker.policy.selection import MemberFacts, Reason, classify
from worker.policy.states import ReconnectionState
from worker.settings import Settings
from worker.settings.values import Cap, QuietHours
from worker.stages.next_steps import steps_after
from worker.stages.planning import SOON, broken_first
from worker.store.notifications.claimed import NotificationItem
from worker.store.reconnections.claims import ClaimedReconnection
from worker.store.transactions.fetch_results import OTHER_MESSAGE_WAIT

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
SPAN, TICK = 60 * DAY, 30 * MINUTE
#: The most failures in a row, of messages and fetches.
MOST_FAILURES = 3
#: Every process's clock is wrong by at most this many seconds.
SKEW = 90

_R = ReconnectionState


@dataclass
class Bank:
    """A member: the periods in which it is revoked, when its token expires, and when the token is renewed."""

    revoked: list[tuple[datetime, datetime]]
    expires_at: datetime | None
    renewed_at: datetime | None

    def facts(self, now: datetime) -> MemberFacts:
        since = next((start for start, end in self.revoked if start <= now < end), None)
        date = self.expires_at
        if date is not None and self.renewed_at is not None and self.renewed_at <= now:
            date = self.renewed_at + 90 * DAY
        return MemberFacts(connection_status="CONNECTED", token_revoked_at=since, token_expires_at=date)


@dataclass
class OpenReconnection:
    """A row of ``reconnections``, with the columns that planning uses."""

    bank: int
    reason: Reason
    broken_since: datetime
    opened_at: datetime
    next_at: datetime | None
    state: ReconnectionState = _R.DUE
    step: int = 0
    base_step: int = 0
    first_notified_at: datetime | None = None
    closed_at: datetime | None = None
    told: list[tuple[datetime, int]] = field(default_factory=list)
    #: A message was refused permanently. That uses up a reminder.
    refused: bool = False
    #: 1 if its first message ended `unknown`: it may not have arrived, so it uses up no reminder.
    followed_up: int = 0

    @property
    def is_open(self) -> bool:
        return self.closed_at is None

    def end(self, state: ReconnectionState, now: datetime) -> None:
        self.state, self.closed_at, self.next_at = state, now, None


@dataclass
class Pending:
    """The message that waits to be sent."""

    about: list[OpenReconnection]
    at: datetime


class Life:
    """Sixty days of one user."""

    def __init__(self, config: Settings, zone: ZoneInfo, began: datetime, banks: Sequence[Bank], rng: Random) -> None:
        self.config, self.zone, self.banks, self.rng = config, zone, banks, rng
        self.began = began
        self.reconnections: list[OpenReconnection] = []
        self.pending: Pending | None = None
        self.failures = 0
        #: The messages that were sent: when, and about which reconnections.
        self.sent: list[tuple[datetime, list[OpenReconnection]]] = []

    def clock(self, moment: datetime) -> datetime:
        """The time that some process reads at this moment."""
        return moment + timedelta(seconds=self.rng.uniform(-SKEW, SKEW))

    def fails(self) -> bool:
        self.failures = self.failures + 1 if self.failures < MOST_FAILURES and self.rng.random() < 0.2 else 0
        return self.failures > 0

    def run(self) -> None:
        for tick in range(SPAN // TICK):
            moment = self.began + tick * TICK
            self.sweep(self.clock(moment))
            self.fetch(self.clock(moment))
            self.deliver(self.clock(moment))

    def facts(self, reconnection: OpenReconnection, now: datetime) -> MemberFacts:
        return self.banks[reconnection.bank].facts(now)

    def over(self, reconnection: OpenReconnection, now: datetime) -> ReconnectionState | None:
        facts = self.facts(reconnection, now)
        statuses, days = self.config.reconnect_statuses, self.config.expiry_notice_days
        if reconnection.reason is Reason.EXPIRES_SOON:
            end = notices.ending(facts, expires_at=reconnection.broken_since, statuses=statuses, days=days, now=now)
            return end[0] if end else None
        return None if classify(facts, statuses=statuses, now=now).broken else _R.RECONNECTED

    def sweep(self, now: datetime) -> None:
        for reconnection in self.reconnections:
            if reconnection.is_open and (state := self.over(reconnection, now)) is not None:
                reconnection.end(state, now)
            elif reconnection.state is _R.NOTIFIED and reconnection.next_at is not None and reconnection.next_at <= now:
                spoken_steps = reconnection.step - reconnection.base_step
                if spoken_steps >= len(self.config.reminder_days) and reconnection.reason is not Reason.EXPIRES_SOON:
                    reconnection.end(_R.EXHAUSTED, now)
                else:
                    reconnection.state = _R.DUE
        if self.pending is not None and not any(e.state is _R.READY for e in self.pending.about):
            self.pending = None
        for number, bank in enumerate(self.banks):
            self.open(number, bank.facts(now), now)

    def open(self, number: int, facts: MemberFacts, now: datetime) -> None:
        theirs = [reconnection for reconnection in self.reconnections if reconnection.bank == number]
        if any(reconnection.is_open for reconnection in theirs):
            return
        statuses, days = self.config.reconnect_statuses, self.config.expiry_notice_days
        selection = classify(facts, statuses=statuses, now=now)
        if selection.reason is not None:
            since = selection.since or now
            given_up = [e.closed_at for e in theirs if e.state is _R.EXHAUSTED and e.closed_at]
            if given_up and since <= max(given_up):
                return
            at = max(since + self.config.notify_after, now)
            self.reconnections.append(OpenReconnection(number, selection.reason, since, now, at))
        elif notices.is_near(facts, statuses=statuses, days=days, now=now) and facts.token_expires_at:
            first_day = facts.token_expires_at - days[0] * DAY
            if not any(e.closed_at and e.closed_at > first_day for e in theirs):
                self.reconnections.append(
                    OpenReconnection(number, Reason.EXPIRES_SOON, facts.token_expires_at, now, now)
                )

    def allowed(self, now: datetime) -> datetime:
        span = max((cap.within for cap in self.config.message_caps), default=timedelta(0))
        sent = [at for at, _ in self.sent if at > now - span]
        quiet, caps = self.config.quiet_hours, self.config.message_caps
        return earliest(now, zones=(self.zone,), quiet=quiet, caps=caps, sent=sent)

    def fetch(self, now: datetime) -> None:
        def is_due(reconnection: OpenReconnection, states: set[ReconnectionState], by: datetime) -> bool:
            return reconnection.state in states and reconnection.next_at is not None and reconnection.next_at <= by

        if not any(is_due(e, {_R.DUE}, now) for e in self.reconnections):
            return
        claimed = [
            e for e in self.reconnections if is_due(e, {_R.DUE}, now) or is_due(e, {_R.DUE, _R.NOTIFIED}, now + SOON)
        ]
        for reconnection in claimed:
            spoken_steps = reconnection.step - reconnection.base_step
            if (state := self.over(reconnection, now)) is not None:
                reconnection.end(state, now)
            elif spoken_steps >= len(self.config.reminder_days) and reconnection.reason is not Reason.EXPIRES_SOON:
                reconnection.end(_R.EXHAUSTED, now)
        left = [reconnection for reconnection in claimed if reconnection.is_open]
        for reconnection in left:
            reconnection.state = _R.DUE
        moment = now + OTHER_MESSAGE_WAIT if self.pending is not None else self.allowed(now)
        if moment > now:
            for reconnection in left:
                reconnection.next_at = moment
            return
        by_id = {id(reconnection): reconnection for reconnection in left}
        spoken, later = broken_first([_claim(reconnection, now) for reconnection in left], now)
        for claim, at, _ in later:
            by_id[claim.id].next_at = at
        ready = [by_id[claim.id] for claim in spoken]
        for reconnection in list(ready):
            if self.fails():
                ready.remove(reconnection)
                reconnection.next_at = next_attempt(1, now=now, rng=self.rng)
            else:
                reconnection.state = _R.READY
        if ready:
            self.pending = Pending(ready, now)

    def deliver(self, now: datetime) -> None:
        message = self.pending
        if message is None or message.at > now:
            return
        if self.fails():
            message.at = now + self.rng.uniform(0, 6) * HOUR  # the mail server fails, or the channel's breaker is open
            return
        if (moment := self.allowed(now)) > now:
            message.at = moment
            return
        for reconnection in message.about:
            if reconnection.reason is Reason.EXPIRES_SOON and reconnection.broken_since <= now and reconnection.is_open:
                reconnection.end(_R.CANCELLED, now)
        waiting = [reconnection for reconnection in message.about if reconnection.state is _R.READY]
        self.pending = None
        told = bool(waiting) and not self.fails()
        if told:
            self.sent.append((now, waiting))
        another_channel = None if told or self.rng.random() < 0.5 else now
        certain = self.rng.random() < 0.8
        next_steps = steps_after(
            [_passage(e) for e in waiting],
            now=now,
            settings=self.config,
            told=told,
            certain=certain,
            at=another_channel,
        )
        for reconnection, following in zip(waiting, next_steps, strict=True):
            reconnection.followed_up += told and not certain and reconnection.first_notified_at is None
            reconnection.told += [(now, reconnection.step)] if told else []
            reconnection.refused |= not told and another_channel is None
            reconnection.state, reconnection.next_at = following.state, following.next_attempt_at
            reconnection.step, reconnection.base_step = following.step, following.base_step
            reconnection.first_notified_at = reconnection.first_notified_at or (now if told else None)


def _claim(reconnection: OpenReconnection, now: datetime) -> ClaimedReconnection:
    return ClaimedReconnection(
        id=id(reconnection), epoch=0, member_guid="MBR-1", user_guid="USR-1", asked_guid="MBR-1", reason=reconnection.reason,
        broken_since=reconnection.broken_since, next_attempt_at=reconnection.next_at or now, attempts=0, step=reconnection.step,
        base_step=reconnection.base_step, first_notified_at=reconnection.first_notified_at, facts=None,
    )  # fmt: skip


def _passage(reconnection: OpenReconnection) -> NotificationItem:
    return NotificationItem(
        reconnection_id=1, waiting=True, attempts=0, step=reconnection.step, base_step=reconnection.base_step,
        first_notified_at=reconnection.first_notified_at, user_guid="USR-1", member_guid="MBR-1", asked_guid="MBR-1",
        reason=reconnection.reason, institution_name=None, institution_code=None, broken_since=reconnection.broken_since,
        encrypted_uri="x", fetched_at=reconnection.opened_at,
    )  # fmt: skip


_CONFIG = make_settings()

hours = st.integers(0, SPAN // HOUR).map(lambda number: number * HOUR)
breaks = st.lists(st.tuples(hours, st.integers(1, 45 * 24).map(lambda number: number * HOUR)), max_size=3)
banks = st.lists(st.tuples(breaks, st.none() | hours, st.none() | hours), min_size=1, max_size=4)
nights = st.none() | st.just(QuietHours(time(21), time(8))) | st.just(QuietHours(time(14), time(9, 30)))
configs = st.fixed_dictionaries(
    {
        "notify_after": st.sampled_from([timedelta(0), 15 * MINUTE, 6 * HOUR]),
        "reminder_days": st.sampled_from([(0,), (0, 3, 7, 14, 30), (0, 1, 2)]),
        "quiet_hours": nights,
        "message_caps": st.sampled_from([(), (Cap(1, DAY), Cap(3, 7 * DAY))]) | many_caps.map(tuple),
        "expiry_notice_days": st.sampled_from([(), (7, 2), (30, 14, 1), (2, 1)]),
    }
)


# Hypothesis does not shrink a failing example: each run of sixty days takes long.
@settings(deadline=None, max_examples=60, phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False)
@given(
    config=configs, zone=zones, change=st.sampled_from(CHANGES), offset=st.integers(0, 50), people=banks,
    seed=st.integers(0, 10_000),
)  # fmt: skip
def test_a_person_is_told_at_the_right_time_not_too_often_and_in_the_end(
    *, config: dict[str, Any], zone: ZoneInfo, change: datetime, offset: int, people: Any, seed: int
) -> None:
    began = (change - offset * DAY).replace(tzinfo=UTC)
    theirs = [
        Bank(
            [(began + start, began + start + length) for start, length in broken],
            began + expires if expires is not None else None,
            began + renewed if renewed is not None else None,
        )
        for broken, expires, renewed in people
    ]
    life = Life(_CONFIG.model_copy(update=config), zone, began, theirs, Random(seed))
    life.run()
    _nothing_at_night_nor_above_a_cap(life)
    _nothing_that_is_not_so(life)
    _each_round_once(life)
    _everything_in_the_end(life)


def _nothing_at_night_nor_above_a_cap(life: Life) -> None:
    times = [at for at, _ in life.sent]
    quiet = life.config.quiet_hours
    for number, at in enumerate(times):
        assert quiet is None or not reads_quiet(at, life.zone, quiet)
        assert not is_capped(at, life.config.message_caps, times[:number])


def _nothing_that_is_not_so(life: Life) -> None:
    for at, about in life.sent:
        kinds = {reconnection.reason is Reason.EXPIRES_SOON for reconnection in about}
        assert len(kinds) == 1, "a message says that something stopped, or that it will"
        for reconnection in about:
            assert reconnection.opened_at - timedelta(seconds=2 * SKEW) <= at
            assert reconnection.closed_at is None or at <= reconnection.closed_at + timedelta(seconds=2 * SKEW)
            if reconnection.reason is Reason.EXPIRES_SOON:
                assert at < reconnection.broken_since
            else:
                # The member was broken now or at the last sweep: no message is about one that recovered earlier.
                checks = (at, at - TICK / 2, at - TICK - timedelta(seconds=2 * SKEW))
                assert any(
                    classify(life.facts(reconnection, check), statuses=("DENIED",), now=check).broken
                    for check in checks
                )


def _each_round_once(life: Life) -> None:
    for reconnection in life.reconnections:
        steps = [step for _, step in reconnection.told]
        assert steps == sorted(set(steps)), "a step is never spoken twice"
        ahead = reconnection.reason is Reason.EXPIRES_SOON
        most = len(life.config.expiry_notice_days if ahead else life.config.reminder_days)
        assert len(steps) <= most + reconnection.followed_up
        assert reconnection.followed_up <= 1
        assert life.config.expiry_notice_days or not ahead


def _everything_in_the_end(life: Life) -> None:
    """Each is told within two waits for caps and quiet hours: one wait may be for an earlier message that does not mention it."""
    longest = max((cap.within for cap in life.config.message_caps), default=timedelta(0))
    bound = life.config.notify_after + 2 * (longest + 2 * DAY) + 2 * MOST_FAILURES * DAY
    ended = life.began + SPAN
    alone = not any(bank.revoked for bank in life.banks) and len(life.banks) == 1
    for reconnection in life.reconnections:
        until = min(reconnection.closed_at or ended, ended)
        if reconnection.refused or (reconnection.reason is Reason.EXPIRES_SOON and not alone):
            continue  # notices wait while any member is broken
        if (
            until - max(reconnection.opened_at, reconnection.broken_since if not alone else reconnection.opened_at)
            > bound
        ):
            assert reconnection.told, reconnection
            assert reconnection.told[0][0] - reconnection.opened_at <= bound
