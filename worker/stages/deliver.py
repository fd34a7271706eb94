"""Deliver: send each due message once.

1. Claim due messages. A message whose user may not be told right now is deferred.
2. Check its members with MX (:mod:`worker.stages.freshness`): a member that is back is left out, a window that is too old is replaced.
3. Commit that dispatch begins, and with it the hash of our link (``PUBLIC_BASE_URL``), then send. From that commit on, a lost answer
   makes the message ``unknown``. Then it is sent again only by ``AMBIGUOUS_SENDS=resend`` or ``reconnect retry --unknown``.
4. Write the new states of the message and of its reconnections in one transaction (:mod:`worker.stages.delivery_outcomes`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from time import monotonic

from worker.channels import Bank, ChannelDown, DurableLink, Message, Outcome, Sent, Unknown
from worker.channels.one_message import for_one_message
from worker.mx.client import window_tells_status
from worker.policy.cadence import earliest, why_later
from worker.policy.channel_choice import EMAIL, Route, choose
from worker.policy.retries import next_attempt
from worker.policy.selection import Reason
from worker.policy.states import NotificationState, ReconnectionState
from worker.runtime import Runtime
from worker.stages.breaker import PROBE_AFTER, Breaker, Gate, log_stopped
from worker.stages.delivery_outcomes import DeliveryJob, DeliveryOutcomes, deferred_until, with_what_was_left_out
from worker.stages.dispatch_log import DispatchLog, LeaseLost, NotRecorded
from worker.stages.freshness import Checked, Fresh, Freshness
from worker.stages.linking import MadeLink, make_link
from worker.stages.planning import UNREACHABLE_WAIT, zone_of_message, zones_of_user
from worker.stages.refusing import concerns_only_this_message, in_words, serves_us, with_refusal
from worker.stages.run_mode import RunMode
from worker.stages.runner import Batch, Runner, summary
from worker.store.notifications.claimed import ClaimedNotification
from worker.store.pauses import MX, PauseStore, delivery_scope
from worker.store.refusals import NOT_REACHED
from worker.store.transactions.deliver import DeliverStore
from worker.store.transactions.deliver_results import DeliveryResult
from worker.store.users import User

#: A probe tries at most this many messages until one of them is sent or refused.
MOST_TRIED = 20

#: Push messages under way at once. Of mails there are twice as many under way as connections, so that each free connection has one ready.
PUSH_AT_ONCE = 100

#: If each message takes a reading of its member (Platform), this many more messages are under way for each connection to the mail server.
#: Example: 10 connections, 0.1 s a mail, 0.3 s a reading: 30 readings under way keep them busy.
READ_AHEAD = 4

_N, _R = NotificationState, ReconnectionState


class OutOfTime(Exception):  # noqa: N818 - it names what happened
    """Too little time is left to wait for the mail server's answer, so the message is left to the next task."""


class Deliver:
    """The stage, as the runner sees it."""

    def __init__(
        self,
        runtime: Runtime,
        breakers: dict[str, Breaker],
        *,
        mx_breaker: Breaker,
        mx_serves: bool = True,
        ends_at: float | None = None,
        mode: RunMode = RunMode.WORK,
        probed_channel: str = "",
        figures: Counter[str] | None = None,
    ) -> None:
        """``probed_channel`` is the channel that a probe tries. ``ends_at``: see :meth:`Runtime.run_ends_at`."""
        ends_at = runtime.run_ends_at() if ends_at is None else ends_at
        self._runtime = runtime
        self._probed_channel = probed_channel
        self._settings = runtime.settings
        self._store = runtime.database.store(DeliverStore)
        # At most as many mails wait for the commit as there are connections.
        self._dispatch = DispatchLog(self._store, full_size=self._settings.smtp_connections)
        self._outcomes = DeliveryOutcomes(runtime)
        self._breakers = breakers
        self._mx_breaker = mx_breaker
        self._freshness = Freshness(runtime, mx_breaker, may_ask=mx_serves)
        self._mode = mode
        #: Rows that the last claim took.
        self.rows_claimed = 0
        #: Whether a probe found that the channel accepts messages again; ``None``: it found out nothing.
        self.serves: bool | None = None
        self.figures: Counter[str] = Counter() if figures is None else figures
        self.runner = Runner(
            stage=self,
            slots=self._slots(),
            batch=1 if mode is RunMode.PROBE else self._settings.batch_size,
            seconds=ends_at - monotonic(),
            renew_every=self._settings.lease_seconds / 3,
            stopping=runtime.stopping,
        )

    def _slots(self) -> int:
        """Messages under way at once."""
        mails = 2 if window_tells_status(self._settings) else 2 + READ_AHEAD
        pushes = PUSH_AT_ONCE if self._runtime.channels.keys() - {EMAIL} else 0
        return self._settings.smtp_connections * mails + pushes

    async def claim(self, n: int) -> Batch[DeliveryJob]:
        """Take due messages; those whose user may not be told right now are deferred."""
        now = self._runtime.clock.now()
        worker_id, lease = self._runtime.worker_id, self._settings.lease_seconds
        if self._mode is RunMode.PROBE:
            claimed = await self._store.claim_probe(
                self._probed_channel, worker_id=worker_id, lease_seconds=lease, now=now
            )
        else:
            claim = self._store.claim_poison if self._mode is RunMode.POISON else self._store.claim
            claimed = await claim(n, worker_id=worker_id, lease_seconds=lease, now=now)
        self.rows_claimed = len(claimed)
        longest_cap = max((cap.within for cap in self._settings.message_caps), default=timedelta(0))
        guids = {notification.user_guid for notification in claimed}
        users = await self._store.users(guids, since=now - longest_cap) if guids else {}
        refused_channels = {notification.channel for notification in claimed if notification.refused_at is not None}
        acceptances = await self._store.acceptance(refused_channels, now) if refused_channels else {}  # rare
        jobs, deferred = [], []
        for notification in claimed:
            user = users[notification.user_guid]
            moment = self._earliest_moment(user, now)
            if moment > now:
                zones = zones_of_user(user, self._settings).all
                why = why_later(now, zones=zones, quiet=self._settings.quiet_hours)
                deferred.append(deferred_until(notification, why, moment))
            else:
                only_this_message = concerns_only_this_message(notification, acceptances.get(notification.channel))
                jobs.append(DeliveryJob(notification=notification, user=user, only_this_message=only_this_message))
        if deferred:
            await self._store.settle(deferred, now=now)
            self.figures["deferred"] += len(deferred)
        return Batch(jobs, more_may_be_due=len(claimed) >= n and self._mode is RunMode.WORK)

    def _earliest_moment(self, user: User, now: datetime) -> datetime:
        settings = self._settings
        zones = zones_of_user(user, settings).all
        return earliest(now, zones=zones, quiet=settings.quiet_hours, caps=settings.message_caps, sent=user.sent)

    async def work(self, job: DeliveryJob) -> DeliveryResult:
        """Check the members of a message, send it, and classify the answer."""
        if not job.about:
            return DeliveryResult(notification=job.notification, state=_N.CANCELLED, outcome="superseded")
        job.checked = await self._freshness.check(job.about)
        upstream_failure = job.checked.upstream_failure
        if upstream_failure is not None:
            at = next_attempt(1, now=self._runtime.clock.now(), rng=self._runtime.rng, after=upstream_failure.after)
            result = deferred_until(job.notification, upstream_failure.code, at)
        elif job.checked.fresh:
            result = await self._tell(job, job.checked)
        else:
            why = next((requeued.outcome for requeued in job.checked.requeued), "superseded")
            result = DeliveryResult(notification=job.notification, state=_N.CANCELLED, outcome=why)
        return with_what_was_left_out(job, result)

    async def _tell(self, job: DeliveryJob, checked: Checked) -> DeliveryResult:
        notification, user, about = job.notification, job.user, job.about
        configured = {notification.channel} & self._runtime.channels.keys()
        route = choose(user.contact, configured=configured, tried=user.failed_devices)
        if not isinstance(route, Route):
            route = choose(user.contact, configured=configured)  # better the device that failed than none
        if not isinstance(route, Route):
            # Nothing was sent: the step is not used up, and fetch decides anew whether and how the user is told. It waits if this process
            # lacks the channel: fetch in a process that has it would plan the same message again at once, without end.
            wait = timedelta(0) if configured else UNREACHABLE_WAIT
            at = self._runtime.clock.now() + wait
            return self._outcomes.end(notification, about, _N.SUPPRESSED, route.code, at=at)
        job.link = self._link(notification)
        link = job.link.shown if job.link is not None else None
        message = Message(
            key=notification.message_key,
            address=route.address,
            locale=user.locale,
            time_zone=zone_of_message(user, self._settings),
            step=notification.step,
            banks=tuple(_bank(fresh, link) for fresh in checked.fresh),
            more=len(checked.unnamed),
            ahead=all(item.reason == Reason.EXPIRES_SOON for item in about),
            only_this_message=job.only_this_message,
            link=link,
        )
        try:
            outcome = await self._runtime.channels[notification.channel].send(message, lambda: self._begin(job))
        except LeaseLost:
            # If another worker claimed the message, its epoch is higher and this result is discarded. If the lease only ran out, the message
            # is due again.
            return deferred_until(notification, "lease_lost", notification.next_attempt_at)
        except OutOfTime:
            return deferred_until(notification, "out_of_time", notification.next_attempt_at)
        except NotRecorded:
            return deferred_until(notification, "dispatch_not_recorded", notification.next_attempt_at)
        # A 421 or 429 that concerns this message alone must not pause the channel.
        outcome = for_one_message(message, outcome)
        return with_refusal(self._result_of_outcome(job, outcome, address=route.address), outcome)

    def _link(self, notification: ClaimedNotification) -> MadeLink | None:
        return make_link(
            self._settings,
            user_guid=notification.user_guid,
            notification_id=notification.id,
            now=self._runtime.clock.now(),
            rng=self._runtime.rng,
        )

    def _result_of_outcome(self, job: DeliveryJob, outcome: Outcome, *, address: str) -> DeliveryResult:
        """The result of an outcome. If a probe shows that the channel still refuses us, its message is deferred without an attempt."""
        channel = job.notification.channel
        if isinstance(outcome, ChannelDown):
            self._breakers[channel].refused(in_words(channel, outcome.code))
            self.runner.halted = True
        if self._mode is RunMode.PROBE:
            self.serves = serves_us(outcome, self._breakers[channel].reason)
            if self.serves is False and not isinstance(outcome, Unknown):
                # The next probe takes another message, so that no single one keeps the channel shut.
                return deferred_until(job.notification, outcome.code, self._runtime.clock.now())
        return self._outcomes.result_of(job, outcome, address=address)

    async def _begin(self, job: DeliveryJob) -> None:
        if self.runner.out_of_time:  # the wait for a connection left no time to wait for the answer
            raise OutOfTime
        await self._dispatch.begin(job.notification, job.link.stored if job.link is not None else None)
        job.dispatched = True

    def crashed(self, job: DeliveryJob) -> DeliveryResult:
        """An error of this worker: if dispatch began, an answer that was lost; else a failed attempt."""
        code = "internal_error"
        if job.dispatched:
            return with_what_was_left_out(job, self._outcomes.unknown(job, code))
        result = self._outcomes.retry(job.notification, job.about, code, self._runtime.clock.now(), after=None)
        return with_what_was_left_out(job, result)

    async def settle(self, results: Sequence[DeliveryResult]) -> None:
        """Write results. If the breaker of MX opens, what its failures did to reconnections is undone."""
        now = self._runtime.clock.now()
        blamed = self._freshness.take_blamed()
        for breaker in (*self._breakers.values(), self._mx_breaker):
            await breaker.settle(now, probe=False)
        if self._mode is not RunMode.PROBE and any(result.refusal is not None for result in results):
            for streak in await self._store.settle_and_assess(results, now=now, probe_after=PROBE_AFTER):
                self.runner.halted = True
                if streak.is_new:
                    log_stopped(delivery_scope(streak.channel), streak.reason, given_back=streak.given_back)
        else:
            await self._store.settle(results, now=now)
            if self.serves is False and any(result.refusal is not None for result in results):
                self.serves = await self._store.is_refused_alone(results, now=now)
        if blamed:
            await self._store.give_back(blamed, now=now)
        self.figures.update("retry" if result.state is _N.PENDING else str(result.state) for result in results)

    async def release(self, jobs: Sequence[DeliveryJob]) -> None:
        """Hand back messages that were not dispatched. Dispatched ones become ``unknown``, because their answer is lost."""
        await self._dispatch.stop_if_nobody_waits()
        try:
            if unsent := [job for job in jobs if not job.dispatched]:
                links = [job.link.stored for job in unsent if job.link is not None]
                await self._store.release([job.notification for job in unsent], links=links)
        finally:
            unknown = [
                with_what_was_left_out(job, self._outcomes.unknown(job, "cut_short")) for job in jobs if job.dispatched
            ]
            if unknown:
                await self.settle(unknown)

    async def renew(self, jobs: Sequence[DeliveryJob]) -> None:
        """A mail server may take minutes to accept a mail."""
        await self._store.renew([job.notification for job in jobs], lease_seconds=self._settings.lease_seconds)


def _bank(fresh: Fresh, link: DurableLink | None) -> Bank:
    """One bank as the message shows it."""
    item = fresh.item
    name = item.institution_name or item.institution_code or ""
    return Bank(name=name, since=item.broken_since, link=link.page if link is not None else fresh.uri or "")


async def _probe(
    runtime: Runtime, channel: str, breaker: Breaker, *, new_stage: Callable[..., Deliver], ends_at: float
) -> None:
    """Send one message on a channel that the breaker stopped. If it is accepted, the channel is resumed."""
    serves = None
    for _ in range(MOST_TRIED):  # a message that is cancelled or deferred proves nothing about the channel
        probe = new_stage(mode=RunMode.PROBE, probed_channel=channel)
        await probe.runner.run()
        serves = probe.serves
        if serves is not None or not probe.rows_claimed or monotonic() >= ends_at or runtime.stopping.is_set():
            break
    if serves is None and NOT_REACHED in breaker.reason:  # no message could be tried: an answer is enough
        serves = isinstance(await runtime.channels[channel].check(), Sent)
    if serves:
        breaker.went_well()
        await breaker.settle(runtime.clock.now(), probe=True)


async def deliver(runtime: Runtime) -> str:
    """One run of delivering; returns a short report."""
    ends_at = runtime.run_ends_at()
    started = await runtime.set_clock()
    pauses = runtime.database.store(PauseStore)
    breakers = {channel: Breaker(pauses, delivery_scope(channel)) for channel in runtime.channels}
    mx_serves = await pauses.get(MX) is None
    new_stage = partial(
        Deliver, runtime, breakers, mx_breaker=Breaker(pauses, MX), mx_serves=mx_serves, ends_at=ends_at
    )
    for channel, breaker in breakers.items():
        if await breaker.admit(started) is Gate.PROBE:
            await _probe(runtime, channel, breaker, new_stage=new_stage, ends_at=ends_at)
    stage = new_stage()
    await stage.runner.run()
    more = stage.runner.has_more
    while not more and not stage.runner.halted and monotonic() < ends_at and not runtime.stopping.is_set():
        poison = new_stage(mode=RunMode.POISON, figures=stage.figures)
        await poison.runner.run()
        more = monotonic() >= ends_at  # then poison may be left for the successor
        if not poison.rows_claimed:
            break
    if more and not runtime.stopping.is_set():
        await runtime.wake("deliver", 1)
    return summary(stage.figures, runtime.clock.now() - started)
