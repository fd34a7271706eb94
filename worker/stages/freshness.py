"""Right before a message leaves: is each member still broken, and is each window fresh?

A message may wait between fetch and deliver: for a mail server, for the morning, for a cap. So each of its reconnections is checked:

- window older than ``URI_MAX_AGE`` (15 minutes): MX is asked for a new one;
- last answer of MX older than 1 minute: the member is read again;
- otherwise the stored URI is used.

On Platform the answer with a window does not contain the member's status. So there the member is read before each message, however
fresh its window is, and before a new window is asked for. That is Platform's one additional request: fetch asks for the window alone.

With ``PUBLIC_BASE_URL`` the message carries our link, and its URI is chosen at the click (:mod:`worker.stages.click`). So no URI is
minted or decrypted here; the member is read by the same rules.

If a member is back, its reconnection ends. If MX fails for one member, its reconnection is left out of the message
(:mod:`worker.policy.mx_failures`). Only a fault of MX as a whole defers the message.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
import structlog

from worker.channels import MOST_NAMED
from worker.errors import SettingsError
from worker.mx.answers import Failure, HostileUri, MemberRead, MemberState, Window
from worker.mx.client import window_tells_status
from worker.mx.uris import check_uri
from worker.policy.cadence import CadencePosition
from worker.policy.moments import NEVER
from worker.policy.mx_failures import Close, MxUnavailable, Retry, after_asking
from worker.policy.selection import Reason
from worker.policy.states import ReconnectionState
from worker.runtime import Runtime
from worker.stages.attribution import Attribution, failure_of
from worker.stages.breaker import Breaker
from worker.stages.recovered import well_by
from worker.store.members import MUTED, Well
from worker.store.notifications.claimed import NotificationItem
from worker.store.transactions.deliver_results import ClosedReconnection, Requeued
from worker.store.windows import NewWindow

log = structlog.get_logger()

Kind = TypeVar("Kind")

#: How long an answer of MX about a member is trusted.
TRUSTED_FOR = timedelta(minutes=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    """A reconnection that the message may name. ``renewal``: the window that replaced the old one."""

    item: NotificationItem
    #: MX's, a secret. ``None``: the message carries our own link.
    uri: str | None
    renewal: NewWindow | None = None

    def __repr__(self) -> str:
        return f"Fresh({self.item.reconnection_id})"


FreshnessResult = Fresh | ClosedReconnection | Requeued | MxUnavailable


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The results of checking the reconnections of a message."""

    results: Sequence[FreshnessResult] = ()
    #: Reconnections that the message only counts ("and 12 more").
    unnamed: tuple[NotificationItem, ...] = ()

    def _of(self, kind: type[Kind]) -> tuple[Kind, ...]:
        return tuple(each for each in self.results if isinstance(each, kind))

    @property
    def fresh(self) -> tuple[Fresh, ...]:
        """Reconnections that the message may name."""
        return self._of(Fresh)

    @property
    def about(self) -> tuple[NotificationItem, ...]:
        """Reconnections that the message is about, named or only counted."""
        return (*(fresh.item for fresh in self.fresh), *self.unnamed)

    @property
    def closed(self) -> tuple[ClosedReconnection, ...]:
        """Reconnections that ended."""
        return self._of(ClosedReconnection)

    @property
    def requeued(self) -> tuple[Requeued, ...]:
        """Reconnections that are left out of this message and are due again."""
        return self._of(Requeued)

    @property
    def renewals(self) -> tuple[NewWindow, ...]:
        """New windows."""
        return tuple(fresh.renewal for fresh in self.fresh if fresh.renewal is not None)

    @property
    def upstream_failure(self) -> MxUnavailable | None:
        """The fault of MX as a whole that defers the message, if there is one."""
        return next(iter(self._of(MxUnavailable)), None)


class Freshness:
    """Checks reconnections right before their message leaves."""

    def __init__(self, runtime: Runtime, breaker: Breaker, *, may_ask: bool) -> None:
        self._runtime = runtime
        self._attribution = Attribution(breaker)
        self._window_tells_status = window_tells_status(runtime.settings)
        #: Whether MX may be asked; otherwise a message that is not fresh waits.
        self.may_ask = may_ask
        #: Results of failures that may turn out to be MX's, by the reconnection's id.
        self._left_out: dict[int, Requeued | ClosedReconnection] = {}

    async def check(self, waiting: Sequence[NotificationItem]) -> Checked:
        """Check these reconnections. A message names ten at most, so MX is asked until ten are fresh, not for all 3,000."""
        now = self._runtime.clock.now()
        results: list[FreshnessResult] = []
        unchecked = list(waiting)
        while unchecked and (room := MOST_NAMED - sum(isinstance(each, Fresh) for each in results)) > 0:
            batch, unchecked = unchecked[:room], unchecked[room:]
            results += await asyncio.gather(*(self._check_one(item, now) for item in batch))
            if any(isinstance(each, MxUnavailable) for each in results):
                break
        unnamed = []
        for item in unchecked:
            if (left_out := _left_out_unasked(item, now)) is not None:
                results.append(left_out)
            else:
                unnamed.append(item)
        return Checked(results=results, unnamed=tuple(unnamed))

    def take_blamed(self) -> list[Requeued | ClosedReconnection]:
        """The results of a streak's failures, if the breaker opens now. The store undoes them."""
        return [self._left_out.pop(reconnection_id) for reconnection_id in self._attribution.take_blamed()]

    async def _check_one(self, item: NotificationItem, now: datetime) -> FreshnessResult:
        if (left_out := _left_out_unasked(item, now)) is not None:
            return left_out
        age, limit = now - item.fetched_at, self._runtime.settings.uri_max_age
        is_needed = self._runtime.settings.public_base_url is None
        too_old = is_needed and (item.encrypted_uri is None or bool(limit and age > limit))
        if age <= TRUSTED_FOR and not too_old and self._window_tells_status:
            return self._fit_to_send(item, now)
        if not self.may_ask:
            return MxUnavailable(code="mx_paused")
        if too_old and self._window_tells_status:
            return await self._minted_anew(item, now)
        if (end_or_failure := await self._read_and_end_if_back(item, now)) is not None:
            return end_or_failure
        return await self._minted_anew(item, now) if too_old else self._fit_to_send(item, now)

    async def _minted_anew(self, item: NotificationItem, now: datetime) -> FreshnessResult:
        answer = await self._runtime.mx.oauth_window(item.user_guid, item.asked_guid)
        if not isinstance(answer, Window):
            return self._result_of_failure(item, answer, now)
        self._attribution.served()
        return self._ending_if_back(item, answer.member) or self._renewed(item, answer, now)

    async def _read_and_end_if_back(self, item: NotificationItem, now: datetime) -> FreshnessResult | None:
        """Read the member; ``None`` if it is still broken."""
        answer = await self._runtime.mx.read_member(item.user_guid, item.asked_guid)
        if not isinstance(answer, MemberRead):
            return self._result_of_failure(item, answer, now)
        self._attribution.served()
        return self._ending_if_back(item, answer.member)

    def _fit_to_send(self, item: NotificationItem, now: datetime) -> FreshnessResult:
        """The stored URI, checked once more before it leaves."""
        if self._runtime.settings.public_base_url is not None:
            return Fresh(item=item, uri=None)
        try:
            uri = self._runtime.vault.decrypt(item.encrypted_uri or "")
        except SettingsError as error:
            log.error("uri_unreadable", why=str(error))  # noqa: TRY400 - one line says it all
            return _requeued(item, "uri_unreadable", at=now, attempts=item.attempts)
        problem = check_uri(uri, host_is_allowed=self._runtime.settings.uri_host_is_allowed)
        if problem is not None:
            log.warning("quarantined", member=item.member_guid, outcome=problem)
            return _ending(item, ReconnectionState.QUARANTINED, problem, NEVER)
        return Fresh(item=item, uri=uri)

    def _renewed(self, item: NotificationItem, window: Window, now: datetime) -> Fresh:
        encrypted_uri = self._runtime.vault.encrypt(window.uri)
        renewal = NewWindow(
            reconnection_id=item.reconnection_id, member_guid=window.member.guid, encrypted_uri=encrypted_uri
        )
        renewed_item = msgspec.structs.replace(item, encrypted_uri=encrypted_uri, fetched_at=now)
        return Fresh(item=renewed_item, uri=window.uri, renewal=renewal)

    def _ending_if_back(self, item: NotificationItem, member: MemberState) -> ClosedReconnection | None:
        well = well_by(
            member,
            member_guid=item.member_guid,
            broken_since=item.broken_since,
            reason=item.reason,
            skip_aggregation=self._runtime.settings.mx_skip_aggregation,
        )
        return _ending(item, ReconnectionState.RECONNECTED, "back_before_message", well=well) if well else None

    def _result_of_failure(
        self, item: NotificationItem, answer: Failure | HostileUri, now: datetime
    ) -> FreshnessResult:
        """The result of a failure of MX for one reconnection."""
        failure = failure_of(answer)
        if self._attribution.failed(failure, item.reconnection_id):
            self.may_ask = False
            return MxUnavailable(code=failure.code)
        limit, rng = self._runtime.settings.max_attempts, self._runtime.rng
        outcome = after_asking(failure, attempts=item.attempts, max_attempts=limit, now=now, rng=rng)
        match outcome:
            case MxUnavailable():
                return outcome
            case Retry(code=code, at=at, attempts=attempts):
                left_out: Requeued | ClosedReconnection = _requeued(item, code, at=at, attempts=attempts)
            case Close(code=code, state=state, reopen_at=reopen_at, attempts=attempts):
                left_out = _ending(item, state, code, reopen_at, attempts=attempts)
        if self._attribution.may_be_mx(item.reconnection_id):
            self._left_out[item.reconnection_id] = left_out
        return left_out


def _left_out_unasked(item: NotificationItem, now: datetime) -> ClosedReconnection | Requeued | None:
    """The result for an item that is left out of the message without asking MX; ``None``: it is not left out.

    - A notice whose date has come: it ends, and the next sweep opens a reconnection for the expired token.
    - A bank about which its user wants no more messages: it is due at once, and fetch defers it.
    - A bank that was paused since the message was planned: it is due at once, and is claimed when the pause ends.
    """
    if item.reason == Reason.EXPIRES_SOON and item.broken_since <= now:
        return _ending(item, ReconnectionState.CANCELLED, "expired_after_notice")
    if item.muted:
        return _requeued(item, MUTED, at=now, attempts=item.attempts)
    if item.held:
        return _requeued(item, "bank_paused", at=now, attempts=item.attempts)
    return None


def _ending(
    item: NotificationItem,
    state: ReconnectionState,
    code: str,
    reopen_at: datetime | None = None,
    *,
    attempts: int | None = None,
    well: Well | None = None,
) -> ClosedReconnection:
    return ClosedReconnection(
        reconnection_id=item.reconnection_id,
        member_guid=item.member_guid,
        state=state,
        outcome=code,
        reopen_at=reopen_at,
        attempts=item.attempts if attempts is None else attempts,
        well=well,
    )


def _requeued(item: NotificationItem, code: str, *, at: datetime, attempts: int) -> Requeued:
    """Due again. The message that leaves it out does not count as its reminder, but its step number is used up."""
    position = CadencePosition(item.step, item.base_step).after_one_that_does_not_count()
    return Requeued(
        reconnection_id=item.reconnection_id,
        outcome=code,
        attempts=attempts,
        next_attempt_at=at,
        step=position.step,
        base_step=position.base_step,
    )
