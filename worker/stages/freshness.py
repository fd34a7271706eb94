"""Fresh at the moment of speaking: nobody who is back is written to, and nobody gets a link that is old.

A message may wait between the fetch and its delivery: for a mail server, for the morning, for a cap. Right before it leaves, a
window older than ``URI_MAX_AGE`` is minted anew, and a member whose last answer is older than a minute is read once more.

What stands in the way of one reconnection takes it out of the message, and nothing else: it ends, or is due again with an attempt
of its own (:mod:`worker.stages.mx_failures`). Only a fault of MX as a whole postpones the message.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
import structlog

from worker.channels import MOST_NAMED
from worker.errors import SettingsError
from worker.mx.answers import Failure, HostileUri, MemberRead, MemberState, RefusedClient, RetryLater, Window
from worker.mx.uris import check_uri
from worker.policy.selection import Reason
from worker.policy.states import ReconnectionState
from worker.policy.streaks import OUT_OF
from worker.runtime import Runtime
from worker.stages.breaker import Breaker
from worker.stages.mx_failures import Again, Everyone, Over, becomes, blames_mx
from worker.stages.recovered import well_by
from worker.store.deliver_settling import Ending, Passage, Renewal, Requeued
from worker.store.members import Well
from worker.store.moments import NEVER

log = structlog.get_logger()

Kind = TypeVar("Kind")

#: What MX said of a member counts for so long.
TRUSTED_FOR = timedelta(minutes=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    """The reconnection may be spoken of; ``renewal`` is the window that took the old one's place."""

    passage: Passage
    #: A secret.
    uri: str
    renewal: Renewal | None = None

    def __repr__(self) -> str:
        return f"Fresh({self.passage.reconnection_id})"


Found = Fresh | Ending | Requeued | Everyone


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What the reconnections of a message turned out to be."""

    found: Sequence[Found] = ()
    #: What the message is about as well, without a name and a link.
    unnamed: tuple[Passage, ...] = ()

    def _of(self, kind: type[Kind]) -> tuple[Kind, ...]:
        return tuple(each for each in self.found if isinstance(each, kind))

    @property
    def fresh(self) -> tuple[Fresh, ...]:
        """What the message may name."""
        return self._of(Fresh)

    @property
    def about(self) -> tuple[Passage, ...]:
        """What the message is about."""
        return (*(fresh.passage for fresh in self.fresh), *self.unnamed)

    @property
    def endings(self) -> tuple[Ending, ...]:
        """What is over."""
        return self._of(Ending)

    @property
    def requeued(self) -> tuple[Requeued, ...]:
        """What is left out of this message, and is due again by itself."""
        return self._of(Requeued)

    @property
    def renewals(self) -> tuple[Renewal, ...]:
        """New windows."""
        return tuple(fresh.renewal for fresh in self.fresh if fresh.renewal is not None)

    @property
    def everyone(self) -> Everyone | None:
        """Why nothing at all can be said now."""
        return next(iter(self._of(Everyone)), None)


class Freshness:
    """Makes sure of reconnections, and learns from MX's answers whether it serves anybody."""

    def __init__(self, runtime: Runtime, breaker: Breaker, *, may_ask: bool) -> None:
        self._runtime = runtime
        self._breaker = breaker
        #: MX may be asked; otherwise what is not fresh waits.
        self.may_ask = may_ask
        #: The latest reconnections that were left out because of a failure that may turn out to be MX's.
        self._blaming_mx: deque[Requeued | Ending] = deque(maxlen=OUT_OF)

    async def check(self, waiting: Sequence[Passage]) -> Checked:
        """What may be spoken of these. MX is asked about those that the message names, not about 3,000 for one message."""
        now = self._runtime.clock.now()
        found: list[Found] = []
        left = list(waiting)
        while left and (room := MOST_NAMED - sum(isinstance(each, Fresh) for each in found)) > 0:
            batch, left = left[:room], left[room:]
            found += await asyncio.gather(*(self._one(passage, now) for passage in batch))
            if any(isinstance(each, Everyone) for each in found):
                break
        out = [each for passage in left if (each := _left_out_unasked(passage, now)) is not None]
        return Checked(found=[*found, *out], unnamed=tuple(p for p in left if _left_out_unasked(p, now) is None))

    def take_what_blamed_mx(self) -> list[Requeued | Ending]:
        """The failures that made the streak, if the breaker opens now; their attempts are given back."""
        if not self._breaker.tripped:
            return []
        blamed = list(self._blaming_mx)
        self._blaming_mx.clear()
        return blamed

    async def _one(self, passage: Passage, now: datetime) -> Found:
        if (left_out := _left_out_unasked(passage, now)) is not None:
            return left_out
        age, limit = now - passage.fetched_at, self._runtime.settings.uri_max_age
        if age <= TRUSTED_FOR:
            return self._fit_to_send(passage, now)
        if not self.may_ask:
            return Everyone(code="mx_paused")
        return await (self._minted_anew if limit and age > limit else self._read_again)(passage, now)

    async def _minted_anew(self, passage: Passage, now: datetime) -> Found:
        answer = await self._runtime.mx.oauth_window(passage.user_guid, passage.asked_guid)
        if not isinstance(answer, Window):
            return self._without(passage, answer, now)
        self._breaker.went_well()
        return self._ending_if_back(passage, answer.member) or self._renewed(passage, answer, now)

    async def _read_again(self, passage: Passage, now: datetime) -> Found:
        answer = await self._runtime.mx.read_member(passage.user_guid, passage.asked_guid)
        if not isinstance(answer, MemberRead):
            return self._without(passage, answer, now)
        self._breaker.went_well()
        return self._ending_if_back(passage, answer.member) or self._fit_to_send(passage, now)

    def _fit_to_send(self, passage: Passage, now: datetime) -> Found:
        """The stored URI, checked once more before it leaves."""
        try:
            uri = self._runtime.vault.unlock(passage.locked_uri or "")
        except SettingsError as error:
            log.error("uri_unreadable", why=str(error))  # noqa: TRY400 - one line says it all
            return _requeued(passage, "uri_unreadable", at=now, attempts=passage.attempts)
        problem = check_uri(uri, host_is_allowed=self._runtime.settings.uri_host_is_allowed)
        if problem is not None:
            log.warning("quarantined", member=passage.member_guid, outcome=problem)
            return _ending(passage, ReconnectionState.QUARANTINED, problem, NEVER)
        return Fresh(passage=passage, uri=uri)

    def _renewed(self, passage: Passage, window: Window, now: datetime) -> Fresh:
        locked = self._runtime.vault.lock(window.uri)
        renewal = Renewal(reconnection_id=passage.reconnection_id, member_guid=window.member.guid, locked_uri=locked)
        fresh = msgspec.structs.replace(passage, locked_uri=locked, fetched_at=now)
        return Fresh(passage=fresh, uri=window.uri, renewal=renewal)

    def _ending_if_back(self, passage: Passage, member: MemberState) -> Ending | None:
        well = well_by(
            member,
            member_guid=passage.member_guid,
            broken_since=passage.broken_since,
            reason=passage.reason,
            skip_aggregation=self._runtime.settings.mx_skip_aggregation,
        )
        return _ending(passage, ReconnectionState.RECONNECTED, "back_before_message", well=well) if well else None

    def _without(self, passage: Passage, answer: Failure | HostileUri, now: datetime) -> Found:
        """What becomes of a reconnection that MX said nothing new of."""
        suspect = blames_mx(answer)
        if suspect and self._breaker.failed(answer.code):
            self.may_ask = False
            return Everyone(code=answer.code)
        if not isinstance(answer, RetryLater | RefusedClient):
            self._breaker.went_well()
        fate = becomes(
            answer,
            attempts=passage.attempts,
            max_attempts=self._runtime.settings.max_attempts,
            now=now,
            rng=self._runtime.dice,
        )
        match fate:
            case Everyone():
                if fate.refused:
                    self._breaker.refused(fate.code)
                    self.may_ask = False
                return fate
            case Again():
                left_out: Requeued | Ending = _requeued(passage, fate.code, at=fate.at, attempts=fate.attempts)
            case Over():
                left_out = _ending(passage, fate.state, fate.code, fate.reopen_at, attempts=fate.attempts)
        if suspect:
            self._blaming_mx.append(left_out)
        return left_out


def _left_out_unasked(passage: Passage, now: datetime) -> Ending | Requeued | None:
    """What is left out of a message whatever MX says.

    A notice whose date came before its message: the next sweep opens what it became. A bank that is held since the message was
    planned: it is due again at once, and claimed when the pause ends.
    """
    if passage.reason == Reason.EXPIRES_SOON and passage.broken_since <= now:
        return _ending(passage, ReconnectionState.CANCELLED, "expired_after_notice")
    if passage.held:
        return _requeued(passage, "bank_paused", at=now, attempts=passage.attempts)
    return None


def _ending(
    passage: Passage,
    state: ReconnectionState,
    code: str,
    reopen_at: datetime | None = None,
    *,
    attempts: int | None = None,
    well: Well | None = None,
) -> Ending:
    return Ending(
        reconnection_id=passage.reconnection_id,
        member_guid=passage.member_guid,
        state=state,
        outcome=code,
        reopen_at=reopen_at,
        attempts=passage.attempts if attempts is None else attempts,
        well=well,
    )


def _requeued(passage: Passage, code: str, *, at: datetime, attempts: int) -> Requeued:
    """The step that the message would have been is passed over, and does not count: no step is ever spoken twice."""
    return Requeued(
        reconnection_id=passage.reconnection_id,
        outcome=code,
        attempts=attempts,
        next_attempt_at=at,
        step=passage.step + 1,
        base_step=passage.base_step + 1,
    )
