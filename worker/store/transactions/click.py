"""The transactions of a click: its beginning, with a stored window if there is one for it, and its end. MX is asked between them.

The link is locked first, then the reconnection, then its click and windows. Click and windows are locked only while the reconnection is, so
their order does not matter. The lock of the link makes its presses wait for each other, so that two of them cannot both be the twentieth
mint. Transactions after MX's answer do not lock the link.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import Enum, auto

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.events import EventType
from worker.policy.links import BankState
from worker.policy.moments import FIRST
from worker.policy.states import Mover, ReconnectionState
from worker.store.clicks import Clicks, Press
from worker.store.events.recording import record_about
from worker.store.links import LinkAt, Links
from worker.store.members import Well
from worker.store.notifications.transitions import NotificationTransitions
from worker.store.queries.link_page import BankNow, LinkReads
from worker.store.reconnections.changes import close
from worker.store.reconnections.clicked import Clicked
from worker.store.reconnections.transitions import Transitions
from worker.store.sql.database import Database
from worker.store.sql.moments import database_now
from worker.store.transactions.click_statements import ClickStatements, PressedReconnection
from worker.store.windows import NewWindow, Windows


class PressResult(Enum):
    """The result of a press before MX is asked."""

    #: The token is unknown, or expired.
    NO_LINK = auto()
    #: The link is about several banks, and none was named.
    CHOOSE = auto()
    #: The reconnection is over.
    OVER = auto()
    #: An operator paused everything, or this institution.
    PAUSED = auto()
    #: Too many windows were asked for.
    TOO_MANY = auto()
    #: A stored window was handed out to the click.
    HANDED_OUT = auto()
    #: The press belongs to a click that was begun before.
    DOUBLE = auto()
    #: MX is to be asked.
    MINT = auto()


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """The beginning of a click. Which fields are set depends on ``result``."""

    result: PressResult
    now: datetime | None = None
    bank: BankNow | None = None
    press: Press | None = None
    #: Encrypted.
    encrypted_uri: str | None = None
    #: ``TOO_MANY``: until when.
    until: datetime | None = None

    def __repr__(self) -> str:
        return f"Begun({self.result})"


class ClickClose(msgspec.Struct, frozen=True, kw_only=True):
    """How a reconnection ends by MX's answer to a click."""

    state: ReconnectionState
    outcome: str
    reopen_at: datetime | None = None
    well: Well | None = None


class ClickStore:
    """The transactions of a click."""

    def __init__(self, database: Database) -> None:
        self._database = database
        rows = database.rows
        self._reads = rows.part(LinkReads)
        self._statements = rows.part(ClickStatements)
        self._links = rows.part(Links)
        self._clicks = rows.part(Clicks)
        self._clicked = rows.part(Clicked)
        self._windows = rows.part(Windows)
        self._transitions = rows.part(Transitions)
        self._notifications = rows.part(NotificationTransitions)

    async def begin(
        self,
        token_hash: str,
        *,
        reconnection_id: int | None,
        nonce_hash: str,
        max_age: timedelta | None,
        is_usable: Callable[[str], bool],
    ) -> Begun:
        """Record a press, and give it a stored window if there is one for it.

        ``max_age``: an older window is not handed out; ``None``: none is too old. ``is_usable``: whether an encrypted URI may be.
        """
        # If the answer to a commit was lost, the transaction runs again and finds its own click.
        own_clicks: set[int] = set()
        begun, lost = await self._begin_at_once(token_hash, reconnection_id, nonce_hash, max_age)
        if begun is not None:
            return begun

        async def work(connection: AsyncConnection) -> Begun:
            link = await self._links.press(connection, token_hash)
            if link is None:
                return Begun(result=PressResult.NO_LINK)
            bank = await self._bank(connection, link, reconnection_id)
            if bank is None:
                return Begun(result=PressResult.CHOOSE)
            reconnection = await self._statements.note(
                connection, bank.reconnection_id, link.id, link.now, max_age=max_age
            )
            bank = msgspec.structs.replace(bank, state=reconnection.state)
            press = await self._clicks.press(connection, link.id, bank.reconnection_id, nonce_hash, link.now)
            # If the answer to the statement was lost, it is unknown whether the click is its own. If another press made it, both ask MX, and
            # the first window counts.
            if press.is_new or lost:
                own_clicks.add(press.id)
                if reconnection.is_open:
                    record_about(connection, EventType.CLICKED, (bank.reconnection_id,))
            begun = Begun(result=PressResult.MINT, now=link.now, bank=bank, press=press)
            if reconnection.is_open and (press.id not in own_clicks or press.outcome is not None):
                return msgspec.structs.replace(begun, result=PressResult.DOUBLE)
            end = await self._end_without_asking(
                connection, link, begun, reconnection, max_age=max_age, is_usable=is_usable
            )
            if end is None:
                return begun
            await self._clicks.finish(connection, press.id, end[0], link.now, asked=False)
            return end[1]

        return await self._database.transaction(work)

    async def _begin_at_once(
        self, token_hash: str, reconnection_id: int | None, nonce_hash: str, max_age: timedelta | None
    ) -> tuple[Begun | None, bool]:
        """The beginning of the usual click, if it is one, and whether the answer to the statement was lost."""
        if self._database.rows.is_sqlite:
            return None, False
        tries = 0

        async def work(connection: AsyncConnection) -> tuple[BankNow, Press] | None:
            nonlocal tries
            tries += 1
            begun = await self._statements.begin(connection, token_hash, reconnection_id, nonce_hash, max_age=max_age)
            if begun is not None:
                record_about(connection, EventType.CLICKED, (begun[0].reconnection_id,))
            return begun

        run = self._database.transaction if self._database.keeps_events else self._database.apart
        begun = await run(work)
        if begun is None:
            return None, tries > 1
        bank, press = begun
        return Begun(result=PressResult.MINT, now=press.clicked_at, bank=bank, press=press), False

    async def _end_without_asking(
        self,
        connection: AsyncConnection,
        link: LinkAt,
        begun: Begun,
        reconnection: PressedReconnection,
        *,
        max_age: timedelta | None,
        is_usable: Callable[[str], bool],
    ) -> tuple[str, Begun] | None:
        """How a click ends if MX need not or may not be asked; ``None``: MX is to be asked."""
        assert begun.bank is not None and begun.press is not None, "a click on a bank"  # noqa: S101, PT018
        bank, press, replace = begun.bank, begun.press, msgspec.structs.replace
        if not reconnection.is_open:
            return str(reconnection.state), replace(begun, result=PressResult.OVER)
        if reconnection.is_paused:
            await self._clicked.owe(connection, bank.reconnection_id, link.now)
            return "paused", replace(begun, result=PressResult.PAUSED)
        if reconnection.may_have_window:
            oldest = FIRST if max_age is None else link.now - max_age
            uri = await self._windows.hand_out(connection, bank.reconnection_id, press.id, fetched_after=oldest)
            if uri is not None and is_usable(uri):
                await self._clicked.serve(connection, bank.reconnection_id, moved_to=None)
                return "stored_window", replace(begun, result=PressResult.HANDED_OUT, encrypted_uri=uri)
            if uri is not None:
                await self._windows.take_back(connection, press.id)
        until = reconnection.no_mint_before
        return None if until is None else ("too_many", replace(begun, result=PressResult.TOO_MANY, until=until))

    async def _bank(self, connection: AsyncConnection, link: LinkAt, named_id: int | None) -> BankNow | None:
        """The named bank, else the only open one, else, if none is open, the only one. ``None``: the user has to choose."""
        if named_id is not None:
            bank = await self._reads.bank(connection, link, named_id)
            if bank is not None:
                return bank
        banks: Sequence[BankNow] = await self._reads.banks(connection, link)
        open_banks = [bank for bank in banks if bank.stands(link.now) in {BankState.BROKEN, BankState.AHEAD}]
        candidates = open_banks or banks
        return candidates[0] if len(candidates) == 1 else None

    async def check_now(self, member_guid: str) -> int:
        """Make this member, or one that moved to this GUID, due for its next check as soon as allowed; how many reconnections."""

        async def work(connection: AsyncConnection) -> int:
            now: datetime = (await connection.execute(select(database_now()))).scalar_one()
            return await self._clicked.check_now(connection, member_guid, now)

        return await self._database.transaction(work)

    async def outcome_and_uri(self, click_id: int) -> tuple[str | None, str | None]:
        """The outcome and the encrypted URI of a click, each ``None`` if there is none yet."""

        async def work(connection: AsyncConnection) -> tuple[str | None, str | None]:
            outcome = await self._clicks.outcome_of(connection, click_id)
            return outcome, None if outcome is None else await self._windows.of_click(connection, click_id)

        return await self._database.apart(work)

    async def state_now(self, bank: BankNow) -> ReconnectionState:
        """The state that the bank's reconnection is in now."""

        async def work(connection: AsyncConnection) -> ReconnectionState:
            return (await self._clicked.lock(connection, bank.reconnection_id)).state

        return await self._database.transaction(work)

    async def served(
        self, bank: BankNow, press: Press, window: NewWindow, now: datetime
    ) -> tuple[str | None, ReconnectionState]:
        """Store a window that MX gave out; returns the encrypted URI of the click, and the state of its reconnection.

        If two presses of a double click both asked MX, the first window counts. Without a URI the reconnection is over.
        """

        moved_to = window.member_guid if window.member_guid != bank.member_guid else None
        parameters = {
            "of": bank.reconnection_id,
            "now_at": moved_to,
            "guid": window.member_guid,
            "locked": window.encrypted_uri,
            "pressed": press.id,
            "of_click": press.id,
            "ended": "window",
            "asked": True,
            "now": now,
        }
        # A new GUID causes an event, which needs a transaction.
        if not self._database.rows.is_sqlite and not (moved_to is not None and self._database.keeps_events):
            stored = await self._database.apart(lambda connection: self._statements.serve(connection, parameters))
            if stored is not None:
                return stored

        async def work(connection: AsyncConnection) -> tuple[str | None, ReconnectionState]:
            standing = await self._clicked.lock(connection, bank.reconnection_id)
            if not standing.is_open:
                await self._clicks.finish(connection, press.id, str(standing.state), now)
                return None, standing.state
            uri = await self._windows.store_clicked(connection, window, press.id, now)
            await self._clicked.serve(connection, bank.reconnection_id, moved_to=moved_to)
            await self._clicks.finish(connection, press.id, "window", now)
            return uri, standing.state

        return await self._database.transaction(work)

    async def close(self, bank: BankNow, press: Press, end: ClickClose, now: datetime) -> ReconnectionState:
        """End the reconnection by MX's answer, in any open state; returns the state in which it ended, now or before.

        A running fetch finds it closed and discards its result. A pending message is sent without it, or cancelled.
        """

        async def work(connection: AsyncConnection) -> ReconnectionState:
            id_ = bank.reconnection_id
            standing = await self._clicked.lock(connection, id_)
            if standing.is_open:
                change = close(
                    id_,
                    standing.state,
                    end.state,
                    now=now,
                    well=end.well,
                    outcome=end.outcome,
                    reopen_at=end.reopen_at,
                )
                await self._transitions.apply(connection, [change], by=Mover.CLICK, now=now)
                await self._notifications.cancel_about(connection, [id_], now, by=Mover.CLICK)
            await self._clicks.finish(connection, press.id, end.outcome, now)
            return end.state if standing.is_open else standing.state

        return await self._database.transaction(work)

    async def fail(self, bank: BankNow, press: Press, outcome: str, now: datetime, *, asked: bool) -> None:
        """Store that MX or the bank failed the click: the user is owed a message if no click is served within an hour."""

        async def work(connection: AsyncConnection) -> None:
            await self._clicked.owe(connection, bank.reconnection_id, press.clicked_at)
            await self._clicks.finish(connection, press.id, outcome, now, asked=asked)

        await self._database.transaction(work)
