"""Deliver: tell the customer, once.

Before a message leaves, its dispatch is put on record; after that, an answer that never comes leaves it ``unknown`` rather than
sent again. How the reconnections behind it go on is settled together with the message.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
import structlog

from worker.channels import BadAddress, Bank, ChannelDown, Failed, Message, Outcome, Sent, TryLater, Unknown
from worker.policy import notices
from worker.policy.cadence import earliest, follow_up, next_reminder, why_later
from worker.policy.channel_choice import EMAIL, Route, choose
from worker.policy.recovery import next_check
from worker.policy.retries import next_attempt
from worker.policy.selection import Reason
from worker.policy.states import NotificationState, ReconnectionState
from worker.runtime import Runtime
from worker.settings import Settings
from worker.stages.breaker import PROBE_AFTER, Breaker, Gate, log_stopped
from worker.stages.dispatch_log import DispatchLog, LeaseLost, NotRecorded
from worker.stages.freshness import Checked, Fresh, Freshness
from worker.stages.mode import Mode
from worker.stages.planning import zone_of_message, zones_of_user
from worker.stages.refusing import in_words, noted, serves_us
from worker.stages.runner import Batch, Runner, summary
from worker.store.deliver_settling import ClaimedNotification, DeliveryResult, NextStep, NotificationItem
from worker.store.delivering import DeliverStore
from worker.store.pauses import MX, PauseStore, delivery_scope
from worker.store.people import User
from worker.store.refusals import NOT_REACHED

log = structlog.get_logger()

#: Messages that one probe takes at most, until one of them is sent or refused.
MOST_TRIED = 20

#: Push messages under way at once. Mails wait for a connection of their own; as many again stand ready for the next free one.
PUSH_AT_ONCE = 100

_N, _R = NotificationState, ReconnectionState


@dataclass(kw_only=True, slots=True)
class DeliveryJob:
    """One message to one person."""

    notification: ClaimedNotification
    user: User
    #: What was made sure of right before the message leaves; ``None`` until then.
    checked: Checked | None = None
    #: "Dispatch began" is committed: from here on the message may have left, whatever else happens.
    dispatched: bool = False

    @property
    def about(self) -> tuple[NotificationItem, ...]:
        """The reconnections that the message is about."""
        if self.checked is not None:
            return self.checked.about
        return tuple(item for item in self.notification.items if item.waiting)


class Deliver:
    """The stage, as the runner sees it."""

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
        self.runner = Runner(
            stage=self,
            slots=self._settings.smtp_connections * 2 + (PUSH_AT_ONCE if runtime.channels.keys() - {EMAIL} else 0),
            batch=1 if mode is Mode.PROBE else self._settings.batch_size,
            seconds=self._settings.run_seconds,
            renew_every=self._settings.lease_seconds / 3,
            stopping=runtime.stopping,
        )

    async def claim(self, n: int) -> Batch[DeliveryJob]:
        """Take due notifications; those whose person may not be told right now go back for later."""
        now = self._runtime.clock.now()
        worker_id, lease = self._runtime.worker_id, self._settings.lease_seconds
        if self._mode is Mode.PROBE:
            claimed = await self._store.claim_probe(self._probed, worker_id=worker_id, lease_seconds=lease, now=now)
        else:
            claim = self._store.claim_poison if self._mode is Mode.POISON else self._store.claim
            claimed = await claim(n, worker_id=worker_id, lease_seconds=lease, now=now)
        self.taken = len(claimed)
        span = max((cap.within for cap in self._settings.message_caps), default=timedelta(0))
        guids = {notification.user_guid for notification in claimed}
        people = await self._store.people(guids, since=now - span) if guids else {}
        jobs, deferred = [], []
        for notification in claimed:
            user = people[notification.user_guid]
            moment = self._moment(user, now)
            if moment > now:
                zones = zones_of_user(user, self._settings).all
                why = why_later(now, zones=zones, quiet=self._settings.quiet_hours)
                deferred.append(_deferred(notification, why, moment))
            else:
                jobs.append(DeliveryJob(notification=notification, user=user))
        if deferred:
            await self._store.settle(deferred, now=now)
            self.figures["deferred"] += len(deferred)
        return Batch(taken=len(claimed) if self._mode is Mode.WORK else 0, jobs=jobs)

    def _moment(self, user: User, now: datetime) -> datetime:
        settings = self._settings
        zones = zones_of_user(user, settings).all
        return earliest(now, zones=zones, quiet=settings.quiet_hours, caps=settings.message_caps, sent=user.sent)

    async def work(self, job: DeliveryJob) -> DeliveryResult:
        """Make sure of what a message says, send it, and classify what became of it."""
        if not job.about:
            return DeliveryResult(notification=job.notification, state=_N.CANCELLED, outcome="superseded")
        job.checked = await self._freshness.check(job.about)
        upstream_failure = job.checked.upstream_failure
        if upstream_failure is not None:
            at = next_attempt(1, now=self._runtime.clock.now(), rng=self._runtime.rng, after=upstream_failure.after)
            result = _deferred(job.notification, upstream_failure.code, at)
        elif job.checked.fresh:
            result = await self._tell(job, job.checked)
        else:
            why = next((left.outcome for left in job.checked.requeued), "superseded")
            result = DeliveryResult(notification=job.notification, state=_N.CANCELLED, outcome=why)
        return _with_what_was_left_out(job, result)

    async def _tell(self, job: DeliveryJob, checked: Checked) -> DeliveryResult:
        notification, user, about = job.notification, job.user, job.about
        configured = {notification.channel} & self._runtime.channels.keys()
        route = choose(user.contact, configured=configured, tried=user.failed_devices)
        if not isinstance(route, Route):
            route = choose(user.contact, configured=configured)  # better the device that failed than none
        if not isinstance(route, Route):
            return self._end(notification, about, _N.SUPPRESSED, route.code)
        message = Message(
            key=notification.message_key,
            address=route.address,
            locale=user.locale,
            time_zone=zone_of_message(user, self._settings),
            step=notification.step,
            banks=tuple(_bank(fresh) for fresh in checked.fresh),
            more=len(checked.unnamed),
            ahead=all(item.reason == Reason.EXPIRES_SOON for item in about),
        )
        try:
            outcome = await self._runtime.channels[notification.channel].send(message, lambda: self._begin(job))
        except LeaseLost:
            # Whoever took it over has raised the epoch, and the fence discards this; if nobody has, it waits for its turn again.
            return _deferred(notification, "lease_lost", notification.next_attempt_at)
        except NotRecorded:
            return _deferred(notification, "dispatch_not_recorded", notification.next_attempt_at)
        return noted(self._answered(job, outcome, address=route.address), outcome)

    def _answered(self, job: DeliveryJob, outcome: Outcome, *, address: str) -> DeliveryResult:
        """What an outcome does; a probe that shows that the channel is still refused costs its message nothing."""
        if self._mode is Mode.PROBE:
            self.serves = serves_us(outcome, self._breakers[job.notification.channel].reason)
            if self.serves is False and not isinstance(outcome, Unknown | ChannelDown):
                # The next probe takes another message, so that no single one keeps the channel shut.
                return _deferred(job.notification, outcome.code, self._runtime.clock.now())
        return self._classify(job, outcome, address=address)

    async def _begin(self, job: DeliveryJob) -> None:
        await self._dispatch.begin(job.notification)
        job.dispatched = True

    def _classify(  # noqa: PLR0911 - one return for each outcome
        self, job: DeliveryJob, outcome: Outcome, *, address: str
    ) -> DeliveryResult:
        """What an outcome does to the message and to the reconnections behind it."""
        now, notification, waiting = self._runtime.clock.now(), job.notification, job.about
        match outcome:
            case Sent():
                return self._end(notification, waiting, _N.SENT, outcome.code, told=True)
            case Unknown():
                return self._unknown(job, outcome.code)
            case BadAddress():
                if outcome.doubtful:
                    why = (
                        "the push service does not take it here; if there are more, look at APNS_SANDBOX and APNS_TOPIC"
                    )
                    log.warning("device_disabled", channel=notification.channel, outcome=outcome.code, why=why)
                return self._end(
                    notification, waiting, _N.SUPPRESSED, outcome.code, at=now, address=address, refused_address=address
                )
            case Failed():
                at = now if self._has_another_way(job, address) else None
                return self._end(notification, waiting, _N.FAILED, outcome.code, at=at, address=address)
            case TryLater() if outcome.whole_channel:
                wait = next_attempt(1, now=now, rng=self._runtime.rng, after=outcome.after)
                return _deferred(notification, outcome.code, wait)
            case TryLater():
                return self._retry(notification, waiting, outcome.code, now, after=outcome.after)
            case ChannelDown():
                self._breakers[notification.channel].refused(in_words(notification.channel, outcome.code))
                self.runner.halted = True
                return _deferred(notification, outcome.code, notification.next_attempt_at)

    def _unknown(self, job: DeliveryJob, code: str) -> DeliveryResult:
        """The message may have left, and no answer says whether it did."""
        if self._settings.ambiguous_sends == "resend":
            return self._retry(job.notification, job.about, code, self._runtime.clock.now(), after=None)
        return self._end(job.notification, job.about, _N.UNKNOWN, code, told=True, certain=False)

    def _has_another_way(self, job: DeliveryJob, address: str) -> bool:
        """Whether another device or another channel is left, now that this address failed."""
        user, channel = job.user, job.notification.channel
        failed = {*user.failed_channels, channel} if channel == EMAIL else user.failed_channels
        tried = {*user.failed_devices, (channel, address)}
        route = choose(user.contact, configured=self._runtime.channels.keys(), failed=failed, tried=tried)
        return isinstance(route, Route)

    def _retry(
        self,
        notification: ClaimedNotification,
        waiting: Sequence[NotificationItem],
        code: str,
        now: datetime,
        *,
        after: float | None,
    ) -> DeliveryResult:
        attempts = notification.attempts + 1
        if attempts >= self._settings.max_attempts:
            return self._end(notification, waiting, _N.FAILED, code)
        at = next_attempt(attempts, now=now, rng=self._runtime.rng, after=after)
        return DeliveryResult(
            notification=notification, state=_N.PENDING, outcome=code, next_attempt_at=at, attempts=attempts, spent=True
        )

    def _end(
        self,
        notification: ClaimedNotification,
        waiting: Sequence[NotificationItem],
        state: NotificationState,
        code: str,
        *,
        told: bool = False,
        certain: bool = True,
        at: datetime | None = None,
        address: str | None = None,
        refused_address: str | None = None,
    ) -> DeliveryResult:
        """The message is over; the reconnections go into their next round, at ``at`` if given, else as the reminders are laid."""
        next_steps = steps_after(
            waiting, now=self._runtime.clock.now(), settings=self._settings, told=told, certain=certain, at=at
        )
        return DeliveryResult(
            notification=notification,
            state=state,
            outcome=code,
            attempts=notification.attempts,
            next_steps=next_steps,
            refused_address=refused_address,
            tried_device=address if notification.channel != EMAIL else None,
            spent=at is None,
        )

    def crashed(self, job: DeliveryJob) -> DeliveryResult:
        """A fault of ours: an answer that was lost where dispatch began, else an attempt."""
        code = "internal_error"
        if job.dispatched:
            return _with_what_was_left_out(job, self._unknown(job, code))
        result = self._retry(job.notification, job.about, code, self._runtime.clock.now(), after=None)
        return _with_what_was_left_out(job, result)

    async def settle(self, done: Sequence[DeliveryResult]) -> None:
        """Write results; where MX turns out to serve nobody, the attempts that this cost are given back."""
        now = self._runtime.clock.now()
        blamed = self._freshness.take_what_blamed_mx()
        for breaker in (*self._breakers.values(), self._mx_breaker):
            await breaker.settle(now, probe=False)
        if self._mode is not Mode.PROBE and any(result.refusal is not None for result in done):
            for streak in await self._store.settle_and_assess(done, now=now, probe_after=PROBE_AFTER):
                self.runner.halted = True
                if streak.is_new:
                    log_stopped(delivery_scope(streak.channel), streak.reason, given_back=streak.given_back)
        else:
            await self._store.settle(done, now=now)
            if self.serves is False and any(result.refusal is not None for result in done):
                self.serves = await self._store.is_refused_alone(done, now=now)
        if blamed:
            await self._store.give_back(blamed, now=now)
        self.figures.update("retry" if d.state is _N.PENDING else str(d.state) for d in done)

    async def release(self, jobs: Sequence[DeliveryJob]) -> None:
        """Hand back what was not dispatched; the answer to what was is lost."""
        try:
            if unsent := [job.notification for job in jobs if not job.dispatched]:
                await self._store.release(unsent)
        finally:
            unknown = [_with_what_was_left_out(job, self._unknown(job, "cut_short")) for job in jobs if job.dispatched]
            if unknown:
                await self.settle(unknown)

    async def renew(self, jobs: Sequence[DeliveryJob]) -> None:
        """Mail servers may take minutes to take responsibility."""
        await self._store.renew([job.notification for job in jobs], lease_seconds=self._settings.lease_seconds)


def steps_after(
    waiting: Sequence[NotificationItem],
    *,
    now: datetime,
    settings: Settings,
    told: bool,
    certain: bool = True,
    at: datetime | None = None,
) -> tuple[NextStep, ...]:
    """How reconnections go on after a message about them: to the next reminder, or, where nobody was told, to another try.

    With ``at`` the step does not count: the message never had a chance, so the cadence has not moved on. Nor does the first message
    of a reconnection count that is not ``certain`` to have arrived: another follows the next day.
    """
    next_steps = []
    for item in waiting:
        base, next_at = _next_message(item, now, settings, skips=at is not None)
        if told and not certain and item.first_notified_at is None:
            defer = follow_up(now, before=next_at or item.broken_since)  # after the last notice: before the expiry
            if defer is not None:
                base, next_at = base + 1, defer
        next_steps.append(
            NextStep(
                reconnection_id=item.reconnection_id,
                state=_R.NOTIFIED if told else _R.DUE,
                step=item.step + 1,
                base_step=base,
                next_attempt_at=at or next_at,
                told=told,
                next_check_at=next_check(0, now) if told and item.reason != Reason.EXPIRES_SOON else None,
            )
        )
    return tuple(next_steps)


def _next_message(
    item: NotificationItem, now: datetime, settings: Settings, *, skips: bool
) -> tuple[int, datetime | None]:
    """The step from which the cadence counts, and when its next message is due.

    After the last notice ahead of an expiry there is no next one, and nobody looks whether the customer is back: the expiry or a
    new date ends it.
    """
    base = item.base_step + skips
    if item.reason == Reason.EXPIRES_SOON:
        return base, notices.next_notice(item.broken_since, settings.expiry_notice_days, told_at=now)
    due = next_reminder(item.first_notified_at or now, item.step + 1 - base, settings.reminder_days)
    return base, max(due, now)


def _bank(fresh: Fresh) -> Bank:
    """What the message says of one bank."""
    item = fresh.item
    name = item.institution_name or item.institution_code or ""
    return Bank(name=name, since=item.broken_since, link=fresh.uri)


def _with_what_was_left_out(job: DeliveryJob, result: DeliveryResult) -> DeliveryResult:
    """What became of the message goes together with what became of the reconnections that it is not about."""
    checked = job.checked
    if checked is None:
        return result
    return msgspec.structs.replace(result, closed=checked.closed, requeued=checked.requeued, renewals=checked.renewals)


def _deferred(notification: ClaimedNotification, code: str, at: datetime) -> DeliveryResult:
    """Pending again, nothing spent."""
    return DeliveryResult(
        notification=notification, state=_N.PENDING, outcome=code, next_attempt_at=at, attempts=notification.attempts
    )


async def _probe(
    runtime: Runtime, kind: str, breakers: dict[str, Breaker], *, mx_breaker: Breaker, mx_serves: bool
) -> None:
    """Try a channel that the breaker stopped with one message; if it is taken, the channel goes on."""
    serves = None
    for _ in range(MOST_TRIED):  # some messages need not be sent, or not now
        probe = Deliver(runtime, breakers, mx_breaker=mx_breaker, mx_serves=mx_serves, mode=Mode.PROBE, probed=kind)
        await probe.runner.run()
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
    """One run of delivering; returns a short report."""
    started = await runtime.set_clock()
    pauses = runtime.database.store(PauseStore)
    breakers = {kind: Breaker(pauses, delivery_scope(kind)) for kind in runtime.channels}
    mx_serves = await pauses.get(MX) is None
    mx_breaker = Breaker(pauses, MX)
    for kind, breaker in breakers.items():
        if await breaker.admit(started) is Gate.PROBE:
            await _probe(runtime, kind, breakers, mx_breaker=mx_breaker, mx_serves=mx_serves)
    stage = Deliver(runtime, breakers, mx_breaker=mx_breaker, mx_serves=mx_serves)
    await stage.runner.run()
    more = stage.runner.has_more
    until = started + timedelta(seconds=runtime.settings.run_seconds)
    while not more and not stage.runner.halted and runtime.clock.now() < until and not runtime.stopping.is_set():
        poison = Deliver(
            runtime,
            breakers,
            mx_breaker=mx_breaker,
            mx_serves=mx_serves,
            mode=Mode.POISON,
            figures=stage.figures,
        )
        await poison.runner.run()
        if not poison.taken:
            break
        more = runtime.clock.now() >= until
    if more and not runtime.stopping.is_set():
        await runtime.wake("deliver", 1)
    return summary(stage.figures, runtime.clock.now() - started)
