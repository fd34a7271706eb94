"""The effect of a channel's answer on a message and on its reconnections.

| outcome | the message | its reconnections | attempt counted? |
|---|---|---|---|
| `Sent` | `sent` | `notified` | no |
| `Unknown`, with ``AMBIGUOUS_SENDS=hold`` | `unknown` | `notified` | no |
| `Unknown`, with ``AMBIGUOUS_SENDS=resend`` | `pending`; `failed` after ``MAX_ATTEMPTS`` | `ready` | yes |
| `BadAddress` | `suppressed`, the address is not used again | `due` at once, for another address | no |
| `Failed` | `failed` | `due`: at once if another address or channel is left, else on the next reminder's day | no |
| `TryLater`, this message | `pending`, by the schedule; `failed` after ``MAX_ATTEMPTS`` | `ready` | yes |
| `TryLater`, the whole channel (the row above, if it concerns this message alone) | `pending` | `ready` | no |
| `ChannelDown` | `pending`, and the channel's breaker opens | `ready` | no |
| not sent: the address went away | `suppressed` | `due` at once, for another address or channel | no |

The next step of a reconnection after its message ended is in :mod:`worker.stages.next_steps`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
import structlog

from worker.channels import BadAddress, ChannelDown, Failed, Outcome, Sent, TryLater, Unknown
from worker.policy.channel_choice import ONE_ADDRESS, Route, choose
from worker.policy.retries import next_attempt
from worker.policy.states import NotificationState
from worker.runtime import Runtime
from worker.stages.freshness import Checked
from worker.stages.linking import MadeLink
from worker.stages.next_steps import steps_after
from worker.store.notifications.claimed import ClaimedNotification, NotificationItem
from worker.store.transactions.deliver_results import DeliveryResult
from worker.store.users import User

log = structlog.get_logger()

_N = NotificationState


@dataclass(kw_only=True, slots=True)
class DeliveryJob:
    """One message to one user."""

    notification: ClaimedNotification
    user: User
    #: The message was refused before while others were accepted (:mod:`worker.channels.one_message`).
    only_this_message: bool = False
    #: The check right before the message leaves; ``None`` until then.
    checked: Checked | None = None
    #: The link that this try carries; ``None`` before it is made, and without ``PUBLIC_BASE_URL``.
    link: MadeLink | None = None
    #: "Dispatch begins" is committed. From here on the message may have left.
    dispatched: bool = False
    #: No answer says whether the message left, so its user may have the link.
    may_have_left: bool = False

    @property
    def about(self) -> tuple[NotificationItem, ...]:
        """The reconnections that the message is about."""
        if self.checked is not None:
            return self.checked.about
        return tuple(item for item in self.notification.items if item.waiting)


class DeliveryOutcomes:
    """Classified answers become results that the store can write."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._settings = runtime.settings

    def result_of(  # noqa: PLR0911 - one return for each outcome
        self, job: DeliveryJob, outcome: Outcome, *, address: str
    ) -> DeliveryResult:
        """The result of an outcome for the message and its reconnections."""
        now, notification, waiting = self._runtime.clock.now(), job.notification, job.about
        match outcome:
            case Sent():
                return self.end(notification, waiting, _N.SENT, outcome.code, told=True)
            case Unknown():
                return self.unknown(job, outcome.code)
            case BadAddress():
                if outcome.doubtful:
                    why = (
                        "the push service does not take it here; if there are more, look at APNS_SANDBOX and APNS_TOPIC"
                    )
                    log.warning("device_disabled", channel=notification.channel, outcome=outcome.code, why=why)
                return self.end(
                    notification, waiting, _N.SUPPRESSED, outcome.code, at=now, address=address, refused_address=address
                )
            case Failed():
                at = now if self._has_another_route(job, address) else None
                return self.end(notification, waiting, _N.FAILED, outcome.code, at=at, address=address)
            case TryLater() if outcome.whole_channel:
                wait = next_attempt(1, now=now, rng=self._runtime.rng, after=outcome.after)
                return deferred_until(notification, outcome.code, wait)
            case TryLater():
                return self.retry(notification, waiting, outcome.code, now, after=outcome.after)
            case ChannelDown():
                return deferred_until(notification, outcome.code, notification.next_attempt_at)

    def unknown(self, job: DeliveryJob, code: str) -> DeliveryResult:
        """The message may have left, and no answer says whether it did. Its link is kept, even if the message is sent again."""
        job.may_have_left = True
        if self._settings.ambiguous_sends == "resend":
            return self.retry(job.notification, job.about, code, self._runtime.clock.now(), after=None)
        return self.end(job.notification, job.about, _N.UNKNOWN, code, told=True, certain=False)

    def _has_another_route(self, job: DeliveryJob, address: str) -> bool:
        """Whether another device or another channel is left, now that this address failed."""
        user, channel = job.user, job.notification.channel
        failed = {*user.failed_channels, channel} if channel in ONE_ADDRESS else user.failed_channels
        tried = {*user.failed_devices, (channel, address)}
        route = choose(user.contact, configured=self._runtime.channels.keys(), failed=failed, tried=tried)
        return isinstance(route, Route)

    def retry(
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
            return self.end(notification, waiting, _N.FAILED, code)
        at = next_attempt(attempts, now=now, rng=self._runtime.rng, after=after)
        return DeliveryResult(
            notification=notification, state=_N.PENDING, outcome=code, next_attempt_at=at, attempts=attempts, spent=True
        )

    def end(
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
        """The message ended. Its reconnections are due at ``at`` if given, else when the cadence says."""
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
            tried_device=address if notification.channel not in ONE_ADDRESS else None,
            spent=at is None,
        )


def with_what_was_left_out(job: DeliveryJob, result: DeliveryResult) -> DeliveryResult:
    """The result, together with the reconnections that the message left out. If the message cannot have left, its link is withdrawn.
    All of this is written in one transaction.
    """
    checked = job.checked
    if job.link is not None and not job.may_have_left and result.state is not _N.SENT:
        result = msgspec.structs.replace(result, withdrawn_link=job.link.stored.token_hash)
    if checked is None:
        return result
    return msgspec.structs.replace(result, closed=checked.closed, requeued=checked.requeued, renewals=checked.renewals)


def deferred_until(notification: ClaimedNotification, code: str, at: datetime) -> DeliveryResult:
    """Pending again at ``at``; no attempt is counted."""
    return DeliveryResult(
        notification=notification, state=_N.PENDING, outcome=code, next_attempt_at=at, attempts=notification.attempts
    )
