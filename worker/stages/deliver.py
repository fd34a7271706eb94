"""Deliver: tell the customer, once.

Before a message leaves, its dispatch is put on record; after that, an answer that never comes leaves it ``unknown`` rather than
sent again. How the episodes behind it go on is settled together with the message.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
import structlog

from worker.channels import BadAddress, Bank, ChannelDown, Failed, Message, Outcome, Sent, TryLater, Unknown
from worker.policy import notices
from worker.policy.cadence import earliest, follow_up, next_round, why_later
from worker.policy.channel_choice import EMAIL, Route, choose
from worker.policy.recovery import next_look
from worker.policy.retries import next_attempt
from worker.policy.selection import Reason
from worker.policy.states import NotificationState, ReconnectionState
from worker.runtime import Runtime
from worker.settings import Settings
from worker.stages.breaker import PROBE_AFTER, Breaker, Gate, log_stopped
from worker.stages.dispatch_log import DispatchLog, LeaseLost, NotRecorded
from worker.stages.freshness import Checked, Fresh, Freshness
from worker.stages.mode import Mode
from worker.stages.planning import zone_of_message, zones_of_person
from worker.stages.refusing import in_words, noted, serves_us
from worker.stages.shift import Shift, Slice, summary
from worker.store.deliver_settling import Delivered, NextRound, Passage, Sending
from worker.store.delivering import DeliverStore
from worker.store.pauses import MX, PauseStore, delivery_scope
from worker.store.people import Person
from worker.store.refusals import NOT_REACHED

log = structlog.get_logger()

#: Messages that one probe takes at most, until one of them is sent or refused.
MOST_TRIED = 20

#: Push messages under way at once. Mails wait for a connection of their own; as many again stand ready for the next free one.
PUSH_AT_ONCE = 100

_N, _R = NotificationState, ReconnectionState


@dataclass(kw_only=True, slots=True)
class Errand:
    """One message to one person."""

    sending: Sending
    person: Person
    #: What was made sure of right before the message leaves; ``None`` until then.
    checked: Checked | None = None
    #: "Dispatch began" is committed: from here on the message may have left, whatever else happens.
    dispatched: bool = False

    @property
    def about(self) -> tuple[Passage, ...]:
        """The reconnections that the message is about."""
        if self.checked is not None:
            return self.checked.about
        return tuple(passage for passage in self.sending.passages if passage.waiting)


class Deliver:
    """The stage, as the shift sees it."""

    def __init__(
        self,
        runtime: Runtime,
        breakers: dict[str, Breaker],
        *,
        mx_breaker: Breaker,
        mx_serves: bool = True,
        mode: Mode = Mode.WORK,
        probed: str = "",
        figures: Counter[str] | None = None,
    ) -> None:
        """``probed`` is the channel that a probe tries."""
        self._runtime = runtime
        self._probed = probed
        self._settings = runtime.settings
        self._store = runtime.database.store(DeliverStore)
        self._dispatch = DispatchLog(self._store)
        self._breakers = breakers
        self._mx_breaker = mx_breaker
        self._freshness = Freshness(runtime, mx_breaker, may_ask=mx_serves)
        self._mode = mode
        #: Rows that the last claim took.
        self.taken = 0
        #: What a probe found out: whether the other side serves us again; ``None``: nothing.
        self.serves: bool | None = None
        self.figures: Counter[str] = Counter() if figures is None else figures
        self.shift = Shift(
            stage=self,
            slots=self._settings.smtp_connections * 2 + (PUSH_AT_ONCE if runtime.channels.keys() - {EMAIL} else 0),
            batch=1 if mode is Mode.PROBE else self._settings.batch_size,
            seconds=self._settings.shift_seconds,
            renew_every=self._settings.lease_seconds / 3,
            stopping=runtime.stopping,
        )

    async def claim(self, n: int) -> Slice[Errand]:
        """Take due notifications; those whose person may not be told right now go back for later."""
        now = self._runtime.clock.now()
        holder, lease = self._runtime.holder, self._settings.lease_seconds
        if self._mode is Mode.PROBE:
            sendings = await self._store.claim_probe(self._probed, holder=holder, lease_seconds=lease, now=now)
        else:
            claim = self._store.claim_suspects if self._mode is Mode.SUSPECTS else self._store.claim
            sendings = await claim(n, holder=holder, lease_seconds=lease, now=now)
        self.taken = len(sendings)
        span = max((cap.within for cap in self._settings.message_caps), default=timedelta(0))
        guids = {sending.user_guid for sending in sendings}
        people = await self._store.people(guids, since=now - span) if guids else {}
        errands, held_up = [], []
        for sending in sendings:
            person = people[sending.user_guid]
            moment = self._moment(person, now)
            if moment > now:
                zones = zones_of_person(person, self._settings).all
                why = why_later(now, zones=zones, quiet=self._settings.quiet_hours)
                held_up.append(_later(sending, why, moment))
            else:
                errands.append(Errand(sending=sending, person=person))
        if held_up:
            await self._store.settle(held_up, now=now)
            self.figures["held up"] += len(held_up)
        return Slice(taken=len(sendings) if self._mode is Mode.WORK else 0, jobs=errands)

    def _moment(self, person: Person, now: datetime) -> datetime:
        settings = self._settings
        zones = zones_of_person(person, settings).all
        return earliest(now, zones=zones, quiet=settings.quiet_hours, caps=settings.message_caps, sent=person.sent)

    async def work(self, job: Errand) -> Delivered:
        """Make sure of what a message says, send it, and judge what became of it."""
        if not job.about:
            return Delivered(sending=job.sending, state=_N.CANCELLED, outcome="overtaken")
        job.checked = await self._freshness.check(job.about)
        everyone = job.checked.everyone
        if everyone is not None:
            at = next_attempt(1, now=self._runtime.clock.now(), dice=self._runtime.dice, after=everyone.after)
            result = _later(job.sending, everyone.code, at)
        elif job.checked.fresh:
            result = await self._tell(job, job.checked)
        else:
            why = next((left.outcome for left in job.checked.requeued), "overtaken")
            result = Delivered(sending=job.sending, state=_N.CANCELLED, outcome=why)
        return _with_what_was_left_out(job, result)

    async def _tell(self, job: Errand, checked: Checked) -> Delivered:
        sending, person, about = job.sending, job.person, job.about
        configured = {sending.channel} & self._runtime.channels.keys()
        route = choose(person.contact, configured=configured, tried=person.failed_devices)
        if not isinstance(route, Route):
            route = choose(person.contact, configured=configured)  # better the device that failed than none
        if not isinstance(route, Route):
            return self._end(sending, about, _N.SUPPRESSED, route.code)
        message = Message(
            key=sending.message_key,
            address=route.address,
            locale=person.locale,
            time_zone=zone_of_message(person, self._settings),
            step=sending.step,
            banks=tuple(_bank(fresh) for fresh in checked.fresh),
            more=len(checked.unnamed),
            ahead=all(passage.reason == Reason.EXPIRES_SOON for passage in about),
        )
        try:
            outcome = await self._runtime.channels[sending.channel].send(message, lambda: self._begin(job))
        except LeaseLost:
            # Whoever took it over has raised the epoch, and the fence discards this; if nobody has, it waits for its turn again.
            return _later(sending, "lease_lost", sending.next_attempt_at)
        except NotRecorded:
            return _later(sending, "dispatch_not_recorded", sending.next_attempt_at)
        return noted(self._answered(job, outcome, address=route.address), outcome)

    def _answered(self, job: Errand, outcome: Outcome, *, address: str) -> Delivered:
        """What an outcome does; a probe that shows that the channel is still refused costs its message nothing."""
        if self._mode is Mode.PROBE:
            self.serves = serves_us(outcome, self._breakers[job.sending.channel].reason)
            if self.serves is False and not isinstance(outcome, Unknown | ChannelDown):
                # The next probe takes another message, so that no single one keeps the channel shut.
                return _later(job.sending, outcome.code, self._runtime.clock.now())
        return self._judge(job, outcome, address=address)

    async def _begin(self, job: Errand) -> None:
        await self._dispatch.begin(job.sending)
        job.dispatched = True

    def _judge(  # noqa: PLR0911 - one return for each outcome
        self, job: Errand, outcome: Outcome, *, address: str
    ) -> Delivered:
        """What an outcome does to the message and to the reconnections behind it."""
        now, sending, waiting = self._runtime.clock.now(), job.sending, job.about
        match outcome:
            case Sent():
                return self._end(sending, waiting, _N.SENT, outcome.code, told=True)
            case Unknown():
                return self._unknown(job, outcome.code)
            case BadAddress():
                if outcome.suspect:
                    why = (
                        "the push service does not take it here; if there are more, look at APNS_SANDBOX and APNS_TOPIC"
                    )
                    log.warning("device_disabled", channel=sending.channel, outcome=outcome.code, why=why)
                return self._end(
                    sending, waiting, _N.SUPPRESSED, outcome.code, at=now, address=address, refused_address=address
                )
            case Failed():
                at = now if self._has_another_way(job, address) else None
                return self._end(sending, waiting, _N.FAILED, outcome.code, at=at, address=address)
            case TryLater() if outcome.whole_channel:
                wait = next_attempt(1, now=now, dice=self._runtime.dice, after=outcome.after)
                return _later(sending, outcome.code, wait)
            case TryLater():
                return self._retry(sending, waiting, outcome.code, now, after=outcome.after)
            case ChannelDown():
                self._breakers[sending.channel].refused(in_words(sending.channel, outcome.code))
                self.shift.halted = True
                return _later(sending, outcome.code, sending.next_attempt_at)

    def _unknown(self, job: Errand, code: str) -> Delivered:
        """The message may have left, and no answer says whether it did."""
        if self._settings.ambiguous_sends == "resend":
            return self._retry(job.sending, job.about, code, self._runtime.clock.now(), after=None)
        return self._end(job.sending, job.about, _N.UNKNOWN, code, told=True, certain=False)

    def _has_another_way(self, job: Errand, address: str) -> bool:
        """Whether another device or another channel is left, now that this address failed."""
        person, channel = job.person, job.sending.channel
        failed = {*person.failed_channels, channel} if channel == EMAIL else person.failed_channels
        tried = {*person.failed_devices, (channel, address)}
        route = choose(person.contact, configured=self._runtime.channels.keys(), failed=failed, tried=tried)
        return isinstance(route, Route)

    def _retry(
        self, sending: Sending, waiting: Sequence[Passage], code: str, now: datetime, *, after: float | None
    ) -> Delivered:
        attempts = sending.attempts + 1
        if attempts >= self._settings.max_attempts:
            return self._end(sending, waiting, _N.FAILED, code)
        at = next_attempt(attempts, now=now, dice=self._runtime.dice, after=after)
        return Delivered(
            sending=sending, state=_N.PENDING, outcome=code, next_attempt_at=at, attempts=attempts, spent=True
        )

    def _end(
        self,
        sending: Sending,
        waiting: Sequence[Passage],
        state: NotificationState,
        code: str,
        *,
        told: bool = False,
        certain: bool = True,
        at: datetime | None = None,
        address: str | None = None,
        refused_address: str | None = None,
    ) -> Delivered:
        """The message is over; the episodes go into their next round, at ``at`` if given, else as the reminders are laid."""
        rounds = onward(
            waiting, now=self._runtime.clock.now(), settings=self._settings, told=told, certain=certain, at=at
        )
        return Delivered(
            sending=sending,
            state=state,
            outcome=code,
            attempts=sending.attempts,
            rounds=rounds,
            refused_address=refused_address,
            tried_device=address if sending.channel != EMAIL else None,
            spent=at is None,
        )

    def crashed(self, job: Errand) -> Delivered:
        """A fault of ours: an answer that was lost where dispatch began, else an attempt."""
        code = "internal_error"
        if job.dispatched:
            return _with_what_was_left_out(job, self._unknown(job, code))
        result = self._retry(job.sending, job.about, code, self._runtime.clock.now(), after=None)
        return _with_what_was_left_out(job, result)

    async def settle(self, done: Sequence[Delivered]) -> None:
        """Write results; where MX turns out to serve nobody, the attempts that this cost are given back."""
        now = self._runtime.clock.now()
        blamed = self._freshness.take_what_blamed_mx()
        for breaker in (*self._breakers.values(), self._mx_breaker):
            await breaker.settle(now, probe=False)
        if self._mode is not Mode.PROBE and any(result.refusal is not None for result in done):
            for streak in await self._store.settle_and_weigh(done, now=now, probe_after=PROBE_AFTER):
                self.shift.halted = True
                if streak.is_new:
                    log_stopped(delivery_scope(streak.channel), streak.reason, given_back=streak.given_back)
        else:
            await self._store.settle(done, now=now)
            if self.serves is False and any(result.refusal is not None for result in done):
                self.serves = await self._store.is_refused_alone(done, now=now)
        if blamed:
            await self._store.give_back(blamed, now=now)
        self.figures.update("retry" if d.state is _N.PENDING else str(d.state) for d in done)

    async def release(self, jobs: Sequence[Errand]) -> None:
        """Hand back what was not dispatched; the answer to what was is lost."""
        try:
            if unsent := [job.sending for job in jobs if not job.dispatched]:
                await self._store.release(unsent)
        finally:
            unknown = [_with_what_was_left_out(job, self._unknown(job, "cut_short")) for job in jobs if job.dispatched]
            if unknown:
                await self.settle(unknown)

    async def renew(self, jobs: Sequence[Errand]) -> None:
        """Mail servers may take minutes to take responsibility."""
        await self._store.renew([job.sending for job in jobs], lease_seconds=self._settings.lease_seconds)


def onward(
    waiting: Sequence[Passage],
    *,
    now: datetime,
    settings: Settings,
    told: bool,
    certain: bool = True,
    at: datetime | None = None,
) -> tuple[NextRound, ...]:
    """How reconnections go on after a message about them: to the next reminder, or, where nobody was told, to another try.

    With ``at`` the step does not count: the message never had a chance, so the cadence has not moved on. Nor does the first message
    of a reconnection count that is not ``certain`` to have arrived: another follows the next day.
    """
    rounds = []
    for passage in waiting:
        base, next_at = _next_message(passage, now, settings, skips=at is not None)
        if told and not certain and passage.first_notified_at is None:
            again = follow_up(now, before=next_at or passage.broken_since)  # after the last notice: before the expiry
            if again is not None:
                base, next_at = base + 1, again
        rounds.append(
            NextRound(
                reconnection_id=passage.reconnection_id,
                state=_R.NOTIFIED if told else _R.DUE,
                step=passage.step + 1,
                base_step=base,
                next_attempt_at=at or next_at,
                told=told,
                next_check_at=next_look(0, now) if told and passage.reason != Reason.EXPIRES_SOON else None,
            )
        )
    return tuple(rounds)


def _next_message(passage: Passage, now: datetime, settings: Settings, *, skips: bool) -> tuple[int, datetime | None]:
    """The step from which the cadence counts, and when its next message is due.

    After the last notice ahead of an expiry there is no next one, and nobody looks whether the customer is back: the expiry or a
    new date ends it.
    """
    base = passage.base_step + skips
    if passage.reason == Reason.EXPIRES_SOON:
        return base, notices.next_notice(passage.broken_since, settings.expiry_notice_days, told_at=now)
    due = next_round(passage.first_notified_at or now, passage.step + 1 - base, settings.reminder_days)
    return base, max(due, now)


def _bank(fresh: Fresh) -> Bank:
    """What the message says of one bank."""
    passage = fresh.passage
    name = passage.institution_name or passage.institution_code or ""
    return Bank(name=name, since=passage.broken_since, link=fresh.uri)


def _with_what_was_left_out(job: Errand, result: Delivered) -> Delivered:
    """What became of the message goes together with what became of the reconnections that it is not about."""
    checked = job.checked
    if checked is None:
        return result
    return msgspec.structs.replace(
        result, endings=checked.endings, requeued=checked.requeued, renewals=checked.renewals
    )


def _later(sending: Sending, code: str, at: datetime) -> Delivered:
    """Pending again, nothing spent."""
    return Delivered(sending=sending, state=_N.PENDING, outcome=code, next_attempt_at=at, attempts=sending.attempts)


async def _probe(
    runtime: Runtime, kind: str, breakers: dict[str, Breaker], *, mx_breaker: Breaker, mx_serves: bool
) -> None:
    """Try a channel that the breaker stopped with one message; if it is taken, the channel goes on."""
    serves = None
    for _ in range(MOST_TRIED):  # some messages need not be sent, or not now
        probe = Deliver(runtime, breakers, mx_breaker=mx_breaker, mx_serves=mx_serves, mode=Mode.PROBE, probed=kind)
        await probe.shift.run()
        serves = probe.serves
        if serves is not None or not probe.taken or runtime.stopping.is_set():
            break
    breaker = breakers[kind]
    if serves is None and NOT_REACHED in breaker.reason:  # nobody is to be told now: asking is enough
        serves = isinstance(await runtime.channels[kind].check(), Sent)
    if serves:
        breaker.went_well()
        await breaker.settle(runtime.clock.now(), probe=True)


async def deliver(runtime: Runtime) -> str:
    """One shift of delivering; returns a short report."""
    started = await runtime.set_clock()
    pauses = runtime.database.store(PauseStore)
    breakers = {kind: Breaker(pauses, delivery_scope(kind)) for kind in runtime.channels}
    mx_serves = await pauses.get(MX) is None
    mx_breaker = Breaker(pauses, MX)
    for kind, breaker in breakers.items():
        if await breaker.admit(started) is Gate.PROBE:
            await _probe(runtime, kind, breakers, mx_breaker=mx_breaker, mx_serves=mx_serves)
    stage = Deliver(runtime, breakers, mx_breaker=mx_breaker, mx_serves=mx_serves)
    await stage.shift.run()
    more = stage.shift.has_more
    until = started + timedelta(seconds=runtime.settings.shift_seconds)
    while not more and not stage.shift.halted and runtime.clock.now() < until and not runtime.stopping.is_set():
        suspects = Deliver(
            runtime,
            breakers,
            mx_breaker=mx_breaker,
            mx_serves=mx_serves,
            mode=Mode.SUSPECTS,
            figures=stage.figures,
        )
        await suspects.shift.run()
        if not suspects.taken:
            break
        more = runtime.clock.now() >= until
    if more and not runtime.stopping.is_set():
        await runtime.wake("deliver", 1)
    return summary(stage.figures, runtime.clock.now() - started)
