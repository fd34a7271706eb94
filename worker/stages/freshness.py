"""Fresh at the moment of speaking: nobody who is back is written to, and nobody gets a link that is old.

A message may wait between the fetch and its delivery: for a mail server, for the morning, for a cap. Right before it leaves, a
window older than ``URI_MAX_AGE`` is minted anew, and a member whose last answer is older than a minute is read once more.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from worker.mx.answers import (
    Gone,
    HostileUri,
    MemberRead,
    MemberState,
    RefusedClient,
    RejectedRequest,
    RetryLater,
    Unsupported,
    Window,
)
from worker.policy.recovery import is_back
from worker.policy.selection import Reason
from worker.policy.states import ReconnectionState
from worker.runtime import Runtime
from worker.stages.fetch import UNSUPPORTED_WAIT
from worker.store.deliver_settling import Ending, Passage, Renewal
from worker.store.moments import NEVER

#: What MX said of a member counts for so long.
TRUSTED_FOR = timedelta(minutes=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    """The passage may be spoken; ``renewal`` is the window that took the old one's place."""

    passage: Passage
    renewal: Renewal | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NotNow:
    """MX cannot be asked right now, so nothing is said right now."""

    code: str
    after: float | None = None
    #: MX refuses us as a whole.
    refused: bool = False


async def refresh(runtime: Runtime, passage: Passage, now: datetime, *, may_ask: bool) -> Fresh | Ending | NotNow:
    """Make sure of one passage right before it is spoken; where MX may not be asked, what is not fresh waits."""
    if passage.reason == Reason.EXPIRES_SOON and passage.broken_since <= now:
        return _ending(
            passage, ReconnectionState.CANCELLED, "expired_after_notice"
        )  # the next sweep opens what it became
    return await _look(runtime, passage, now, may_ask=may_ask)


async def _look(runtime: Runtime, passage: Passage, now: datetime, *, may_ask: bool) -> Fresh | Ending | NotNow:
    age = now - passage.fetched_at
    limit = runtime.settings.uri_max_age
    if age <= TRUSTED_FOR:
        return Fresh(passage=passage)
    if not may_ask:
        return NotNow(code="mx_paused")
    if limit and age > limit:
        answer = await runtime.mx.oauth_window(passage.user_guid, passage.asked_guid)
        if isinstance(answer, Window):
            return _ending_if_back(runtime, passage, answer.member) or _renewed(runtime, passage, answer, now)
        return _without(passage, answer, now)
    read = await runtime.mx.read_member(passage.user_guid, passage.asked_guid)
    if isinstance(read, MemberRead):
        return _ending_if_back(runtime, passage, read.member) or Fresh(passage=passage)
    return _without(passage, read, now)


def _renewed(runtime: Runtime, passage: Passage, window: Window, now: datetime) -> Fresh:
    locked = runtime.vault.lock(window.uri)
    renewal = Renewal(reconnection_id=passage.reconnection_id, member_guid=window.member.guid, locked_uri=locked)
    return Fresh(passage=msgspec.structs.replace(passage, locked_uri=locked, fetched_at=now), renewal=renewal)


def _ending_if_back(runtime: Runtime, passage: Passage, member: MemberState) -> Ending | None:
    back = is_back(
        connection_status=member.connection_status,
        is_being_aggregated=member.is_being_aggregated,
        successfully_aggregated_at=member.successfully_aggregated_at,
        broken_since=passage.broken_since,
        reason=passage.reason,
        skip_aggregation=runtime.settings.mx_skip_aggregation,
    )
    return _ending(passage, ReconnectionState.RECONNECTED, "back_before_message") if back else None


def _without(
    passage: Passage,
    answer: RetryLater | RefusedClient | Unsupported | Gone | RejectedRequest | HostileUri,
    now: datetime,
) -> Ending | NotNow:
    match answer:
        case RetryLater():
            return NotNow(code=answer.code, after=answer.after)
        case RefusedClient():
            return NotNow(code=answer.code, refused=True)
        case Unsupported():
            return _ending(passage, ReconnectionState.UNSUPPORTED, answer.code, now + UNSUPPORTED_WAIT)
        case Gone():
            return _ending(passage, ReconnectionState.GONE, answer.code, NEVER)
        case RejectedRequest() | HostileUri():
            return _ending(passage, ReconnectionState.QUARANTINED, answer.code, NEVER)


def _ending(passage: Passage, state: ReconnectionState, code: str, reopen_at: datetime | None = None) -> Ending:
    return Ending(
        reconnection_id=passage.reconnection_id,
        member_guid=passage.member_guid,
        state=state,
        outcome=code,
        reopen_at=reopen_at,
    )
