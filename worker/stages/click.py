"""A click on a link: what the user gets, and what it does to the reconnection.

1. Record the press. A stored window is handed out in the same transaction if it is younger than ``URI_MAX_AGE``, no click had it, and
   its URI was in no message.
2. Else ask MX for a window for this click, ahead of all other requests (:mod:`worker.mx.pacing`). No transaction is open meanwhile.
3. Write what MX answered. The same answers end the reconnection as in fetch: back already, unsupported, gone, a URI that must not
   reach a user, a rejected request. A fault of MX or of the bank is no failed attempt: the user tries again, and is owed a
   message if no click is served within an hour (:mod:`worker.policy.cadence`).

A press proves nothing, since mail scanners press buttons too. It only makes the member be checked sooner.

**A double click.** Two presses from one load of the page within a minute are one click and lead to one URI. The second waits for the
first, even if another process handles that. If that process died, the second asks MX itself, 13 s after the first was pressed. If both
get a window, the one that is stored first counts.

**MX is paused.** While the breaker is open, clicks still ask MX: a user is waiting, and one request burdens MX no more than a probe. A click
that is served does not close the breaker; fetch's own probe does. A pause by an operator of everything or of the institution stops clicks as well.
"""

import asyncio
import time
from datetime import datetime, timedelta

import msgspec
import structlog

from worker.errors import SettingsError
from worker.mx.answers import Window
from worker.mx.retrying import NOT_ASKED
from worker.mx.uris import check_uri
from worker.policy.links import hash_of, is_nonce, new_token
from worker.policy.mx_failures import Close, FailureKind, MxUnavailable, Retry, after_asking
from worker.policy.recovery import AFTER_CLICK
from worker.policy.states import OPEN, ReconnectionState
from worker.runtime import Runtime
from worker.stages.attribution import failure_of
from worker.stages.breaker import Breaker
from worker.stages.fetch_outcomes import FetchOutcomes
from worker.store.clicks import Press
from worker.store.pauses import MX, PauseStore
from worker.store.queries.link_page import BankNow
from worker.store.reconnections.claims import ClaimedReconnection
from worker.store.transactions.click import Begun, ClickClose, ClickStore, PressResult
from worker.store.windows import NewWindow

log = structlog.get_logger()

#: How long MX may take to answer while a customer waits (seconds).
ASK_SECONDS = 10.0
#: A click without an answer after this time is given up, because its process must have died (seconds).
GIVEN_UP_AFTER = ASK_SECONDS + 3.0
#: The second press of a double click asks the database after this many seconds whether the first is answered, then at growing
#: intervals up to the longest. Each question is a statement, and while MX is slow many presses wait.
_FIRST_WAIT, _WAIT_GROWTH, _LONGEST_WAIT = 0.075, 1.4, 0.7

_S = ReconnectionState


class LeadsTo(msgspec.Struct, frozen=True):
    """The user is led to their bank."""

    #: A secret.
    uri: str

    def __repr__(self) -> str:
        return "LeadsTo()"


class Back(msgspec.Struct, frozen=True):
    """The bank is connected already."""

    name: str


class TryAgain(msgspec.Struct, frozen=True):
    """MX or the bank failed, or an operator paused the work: the link still works. ``after``: how long MX asked to wait, if it did."""

    after: timedelta | None = None


class TooMany(msgspec.Struct, frozen=True):
    """Too many windows were minted for this link; MX is asked for no more before ``until``."""

    until: datetime


class Ended(msgspec.Struct, frozen=True):
    """Nothing can be done by this link any more. ``why``: the state that the reconnection ended in."""

    why: str


class Choose(msgspec.Struct, frozen=True):
    """The link is about several banks, and none was named."""


class NoLink(msgspec.Struct, frozen=True):
    """The token is unknown, or expired."""


Answer = LeadsTo | Back | TryAgain | TooMany | Ended | Choose | NoLink


async def click(runtime: Runtime, token: str, *, reconnection_id: int | None, nonce: str) -> Answer:
    """Answer one press of a link's button.

    ``reconnection_id``: the bank whose button it is. With ``None``, or an id that the link is not about, it is the link's only bank.
    ``nonce``: the form's, one for each load of the page. Text that is no nonce counts as a page load of its own.
    """
    return await _Click(runtime).press(token, reconnection_id, nonce)


class _Click:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._store = runtime.database.store(ClickStore)

    async def press(self, token: str, reconnection_id: int | None, nonce: str) -> Answer:
        begun = await self._store.begin(
            hash_of(token),
            reconnection_id=reconnection_id,
            nonce_hash=hash_of(nonce if is_nonce(nonce) else new_token(self._runtime.rng)),
            max_age=self._settings.uri_max_age or None,
            is_usable=self._is_usable,
        )
        match begun:
            case Begun(result=PressResult.NO_LINK):
                return NoLink()
            case Begun(result=PressResult.TOO_MANY, until=datetime() as until):
                return TooMany(until)
            case Begun(result=PressResult.PAUSED):
                return TryAgain()
            case Begun(result=press_result, bank=BankNow() as bank, press=Press() as press, now=datetime() as now):
                answer = await self._answer(press_result, bank, press, now, begun.encrypted_uri)
                if isinstance(answer, LeadsTo):
                    self._runtime.delayed_wakes.plan("verify", (after.total_seconds() for after in AFTER_CLICK))
                return answer
        return Choose()

    async def _answer(
        self, press_result: PressResult, bank: BankNow, press: Press, now: datetime, encrypted_uri: str | None
    ) -> Answer:
        if press_result is PressResult.OVER:
            return _closed_answer(bank, ReconnectionState(bank.state))
        if press_result is PressResult.HANDED_OUT:
            return self._leads_to(encrypted_uri)
        if press_result is PressResult.DOUBLE:
            return await self._wait_for_first(bank, press, now)
        return await self._ask(bank, press, now)

    async def _wait_for_first(self, bank: BankNow, press: Press, now: datetime) -> Answer:
        """The answer that the first press of a double click gets."""
        began, remaining = time.monotonic(), GIVEN_UP_AFTER - (now - press.clicked_at).total_seconds()
        wait = _FIRST_WAIT
        while True:
            outcome, encrypted_uri = await self._store.outcome_and_uri(press.id)
            if encrypted_uri is not None:
                return self._leads_to(encrypted_uri)
            if outcome is not None:
                state = await self._store.state_now(bank)
                return TryAgain() if state in OPEN else _closed_answer(bank, state)
            if time.monotonic() >= began + remaining:
                return await self._ask(bank, press, now + timedelta(seconds=time.monotonic() - began))
            await asyncio.sleep(wait)
            wait = min(wait * _WAIT_GROWTH, _LONGEST_WAIT)

    async def _ask(self, bank: BankNow, press: Press, now: datetime) -> Answer:
        began = time.monotonic()
        answer = await self._runtime.mx.urgent_window(bank.user_guid, bank.asked_guid, within=ASK_SECONDS)
        now += timedelta(seconds=time.monotonic() - began)
        if isinstance(answer, Window):
            return await self._served(bank, press, answer, now)
        failure = failure_of(answer)
        # No failed attempt is counted for a click, so there is never a last one.
        match after_asking(failure, attempts=0, max_attempts=2, now=now, rng=self._runtime.rng):
            case Close(code=code, state=state, reopen_at=reopen_at):
                if state is _S.QUARANTINED:
                    log.warning("quarantined", member=bank.member_guid, outcome=code)
                end = ClickClose(state=state, outcome=code, reopen_at=reopen_at)
                return _closed_answer(bank, await self._store.close(bank, press, end, now))
            case MxUnavailable() | Retry():
                await self._store.fail(bank, press, failure.code, now, asked=failure.code != NOT_ASKED)
        if failure.kind is FailureKind.REFUSED:  # after fail(): an error here must not lose what the user is owed
            breaker = Breaker(self._runtime.database.store(PauseStore), MX)
            breaker.refused(failure.code)
            await breaker.settle(now, probe=False)
        return TryAgain(None if failure.after is None else timedelta(seconds=failure.after))

    async def _served(self, bank: BankNow, press: Press, answer: Window, now: datetime) -> Answer:
        """MX gave out a window. The member in the same answer may be back already."""
        fetched = FetchOutcomes(self._runtime).of_window(_claim(bank), answer)
        if fetched.state is _S.RECONNECTED:
            end = ClickClose(state=fetched.state, outcome=fetched.outcome, well=fetched.well)
            return _closed_answer(bank, await self._store.close(bank, press, end, now))
        window = NewWindow(
            reconnection_id=bank.reconnection_id,
            member_guid=answer.member.guid,
            encrypted_uri=fetched.encrypted_uri or "",
        )
        encrypted_uri, state = await self._store.served(bank, press, window, now)
        return _closed_answer(bank, state) if state not in OPEN else self._leads_to(encrypted_uri)

    def _leads_to(self, encrypted_uri: str | None) -> Answer:
        """``None``: the reconnection closed a moment ago, or a sweep deleted the URI before the second press read it."""
        return TryAgain() if encrypted_uri is None else LeadsTo(self._runtime.vault.decrypt(encrypted_uri))

    def _is_usable(self, encrypted_uri: str) -> bool:
        """Whether a stored URI can be read, and may reach a user by today's settings."""
        try:
            uri = self._runtime.vault.decrypt(encrypted_uri)
        except SettingsError as error:
            log.error("uri_unreadable", why=str(error))  # noqa: TRY400 - one line says it all
            return False
        return check_uri(uri, host_is_allowed=self._settings.uri_host_is_allowed) is None


def _closed_answer(bank: BankNow, state: ReconnectionState) -> Back | Ended:
    return Back(bank.name) if state is _S.RECONNECTED else Ended(str(state))


def _claim(bank: BankNow) -> ClaimedReconnection:
    """The reconnection as fetch's classification reads it."""
    return ClaimedReconnection(
        id=bank.reconnection_id,
        epoch=bank.epoch,
        member_guid=bank.member_guid,
        user_guid=bank.user_guid,
        asked_guid=bank.asked_guid,
        reason=bank.reason,
        broken_since=bank.broken_since,
        next_attempt_at=bank.broken_since,
        attempts=bank.attempts,
        step=0,
        base_step=0,
        first_notified_at=None,
        facts=None,
    )
