"""The client: asks MX, classifies the answer, retries within seconds, and always returns a value.

::

    mx = MxClient(settings())
    answer = await mx.oauth_window("USR-…", "MBR-…")
    match answer:
        case Window(): ...

Nothing here logs. No value or exception carries a key. Only :class:`~worker.mx.answers.Window` carries a URI.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import msgspec
from yarl import URL

from worker.mx.answers import (
    Failure,
    Gone,
    HostileUri,
    MemberAnswer,
    MemberList,
    MemberListAnswer,
    MemberRead,
    MemberState,
    RefusedClient,
    RejectedRequest,
    RetryLater,
    Unsupported,
    UserList,
    UserListAnswer,
    Window,
    WindowAnswer,
)
from worker.mx.atrium import Atrium
from worker.mx.flavours import Flavour
from worker.mx.pacing import NoPermit, Pacing
from worker.mx.platform import Platform
from worker.mx.retrying import NEVER_ARRIVED, NOT_ASKED, begin_within, persist, tries_for
from worker.mx.transport import MAX_BODY, MAX_LIST_BODY, HttpResponse, Transport
from worker.settings import Settings

_Answer = TypeVar(
    "_Answer", WindowAnswer, MemberAnswer, UserListAnswer, MemberListAnswer, RetryLater | RefusedClient | None
)

#: A web server that is not MX may answer 404, or redirect. After this many such answers in a row, the next one is believed only if the
#: list of users proves that MX answers.
MOST_GONE = 20

#: When it has its window, a click waits at most this long for the state of its member (seconds).
READ_PATIENCE = 1.0

_ONLY_MX_SAYS = (Window, HostileUri, MemberRead, Unsupported, UserList, MemberList)

#: By ``MX_API``.
_FLAVOURS: dict[str, type[Flavour]] = {"atrium": Atrium, "platform": Platform}

#: Valid GUIDs that belong to nobody.
_NO_USER = "USR-00000000-0000-0000-0000-000000000000"
_NO_MEMBER = "MBR-00000000-0000-0000-0000-000000000000"


def window_tells_status(settings: Settings) -> bool:
    """Whether MX's answer with a window also has the state of the member, by ``MX_API``."""
    return _FLAVOURS[settings.mx_api].window_tells_status


class Mx(Protocol):
    """The calls to MX that stages make."""

    async def oauth_window(self, user_guid: str, member_guid: str) -> WindowAnswer:
        """A fresh OAuth window for a member. Each call may create OAuth state at MX: ask only for what will be used."""

    async def urgent_window(self, user_guid: str, member_guid: str, *, within: float) -> WindowAnswer:
        """As :meth:`oauth_window`, for a user who waits: before all other requests, within so many seconds, with one quick retry."""

    async def read_member(self, user_guid: str, member_guid: str) -> MemberAnswer:
        """A member as MX sees it now; at most every 3 s for one member."""

    async def list_users(self, page: int, per_page: int) -> UserListAnswer:
        """One page of all users, as :meth:`MxClient.list_users`."""

    async def list_members(self, user_guid: str, page: int, per_page: int) -> MemberListAnswer:
        """One page of a user's members, as :meth:`MxClient.list_members`."""

    async def probe(self) -> Failure | None:
        """``None`` if MX accepts us, else the failure."""

    def doubt(self) -> None:
        """Believe the next 404 or redirect only if MX lists its users."""

    async def close(self) -> None:
        """Close every connection."""


class MxClient:
    """The client of one process and one event loop; it opens its connections with the first call.

    ``deadline``: seconds that one call may take, with all retries and waits; reading the last answer may take one more.
    ``pacing``: how fast all processes together may ask; without it, as fast as the connections allow.
    ``ssl_context``: used instead of the system's trust store.

    Raises :class:`~worker.errors.SettingsError` if a proxy variable of the environment is not a proxy's URL.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        deadline: float = 45.0,
        pacing: Pacing | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._flavour = _FLAVOURS[settings.mx_api](settings)
        self._host_is_allowed = settings.uri_host_is_allowed
        self._deadline = deadline
        self._pacing = pacing
        self._has_a_rate = pacing is not None and settings.mx_requests_per_second is not None
        self._gone_in_a_row = 0
        self._asking = asyncio.Lock()
        self._transport = Transport(
            settings.mx_base_url,
            self._flavour.headers,
            max_connections=settings.mx_max_connections,
            ssl_context=ssl_context,
            asks_before_sending=self._has_a_rate,
        )

    def __repr__(self) -> str:
        return f"MxClient({self._flavour!r})"

    def oauth_window(self, user_guid: str, member_guid: str) -> Coroutine[Any, Any, WindowAnswer]:
        """A fresh OAuth window for a member. Each call may create OAuth state at MX: ask only for what will be used."""
        url = self._flavour.window_url(user_guid, member_guid)
        return self._ask(url, self._classify_window, member_guid, body=self._flavour.window_body)

    async def urgent_window(self, user_guid: str, member_guid: str, *, within: float) -> WindowAnswer:
        """As :meth:`oauth_window`, for a user who waits: before all other requests, within so many seconds, with one quick retry.

        A user who is back already should not be led to the bank again. So if the answer with the window lacks the state of the member, the
        member is read in parallel: one more request, and hardly any time. If that read fails or is slow, the window is returned without it.
        """
        if self._flavour.window_tells_status:
            return await self._urgent_window(user_guid, member_guid, within)
        read = asyncio.create_task(self._urgent_state(user_guid, member_guid, within))
        try:
            answer = await self._urgent_window(user_guid, member_guid, within)
            if isinstance(answer, Window):
                await asyncio.wait({read}, timeout=READ_PATIENCE)
            state = read.result() if read.done() else None
        finally:
            read.cancel()
        if state is None or not isinstance(answer, Window):
            return answer
        return msgspec.structs.replace(answer, member=msgspec.structs.replace(state, guid=answer.member.guid))

    async def _urgent_window(self, user_guid: str, member_guid: str, within: float) -> WindowAnswer:
        url = self._flavour.window_url(user_guid, member_guid)
        return await self._urgently(url, self._classify_window, member_guid, within, body=self._flavour.window_body)

    async def _urgent_state(self, user_guid: str, member_guid: str, within: float) -> MemberState | None:
        """The state of the member; ``None`` if the read failed."""
        url = self._flavour.member_url(user_guid, member_guid)
        answer = await self._urgently(url, self._classify_member, member_guid, within)
        return answer.member if isinstance(answer, MemberRead) else None

    async def _urgently(
        self,
        url: URL,
        classify: Callable[[HttpResponse, str], _Answer],
        asked: str,
        within: float,
        *,
        body: bytes | None = None,
    ) -> _Answer | Failure:
        until = time.monotonic() + within
        begin_by = time.monotonic() + begin_within(within)
        try:
            async with asyncio.timeout(within):
                answer = await self._ask_once(url, classify, asked, until, begin_by, urgent=True, body=body)
                if isinstance(answer, RetryLater) and answer.code in NEVER_ARRIVED and time.monotonic() < begin_by:
                    answer = await self._ask_once(url, classify, asked, until, begin_by, urgent=True, body=body)
                return await self._heed(answer, asked)
        except TimeoutError:
            return RetryLater(code="timeout")

    def read_member(self, user_guid: str, member_guid: str) -> Coroutine[Any, Any, MemberAnswer]:
        """A member as MX sees it now; at most every 3 s for one member."""
        return self._ask(self._flavour.member_url(user_guid, member_guid), self._classify_member, member_guid)

    def list_users(self, page: int, per_page: int) -> Coroutine[Any, Any, UserListAnswer]:
        """One page of all users, the first page being 1.

        ``per_page``: from 10 to 1,000. ``pagination.per_page`` of the answer is the page size in force: MX silently uses 25
        for a size out of its range. MX always has this list: a 404 is :data:`~worker.mx.answers.NOT_MX`.
        """
        return self._ask(self._flavour.users_url(page, per_page), self._classify_user_list, "", most=MAX_LIST_BODY)

    def list_members(self, user_guid: str, page: int, per_page: int) -> Coroutine[Any, Any, MemberListAnswer]:
        """One page of a user's members, as :meth:`list_users`; ``Gone`` if MX does not know the user."""
        url = self._flavour.members_url(user_guid, page, per_page)
        return self._ask(url, self._classify_member_list, user_guid, most=MAX_LIST_BODY)

    async def probe(self) -> Failure | None:
        """``None`` if MX accepts us, else the failure.

        It asks for the window of a member that does not exist, so nothing changes at MX. MX's 404 shows that key, client id and address
        were accepted.
        """
        self.doubt()
        answer = await self.oauth_window(_NO_USER, _NO_MEMBER)
        self._gone_in_a_row = 0
        return None if isinstance(answer, Gone | Window | HostileUri) else answer

    def doubt(self) -> None:
        """Believe the next 404 or redirect only if MX lists its users."""
        self._gone_in_a_row = MOST_GONE

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def _believed(self, answer: Gone | RejectedRequest) -> Failure:
        """The answer itself, which any server may give; or the failure that shows that it may not come from MX.

        A wrong ``MX_BASE_URL`` would mark every member as gone, or quarantine it. So after :data:`MOST_GONE` such answers, with none in
        between that only MX gives, the list of users is asked for, once for all callers that wait.
        """
        self._gone_in_a_row += 1
        async with self._asking:
            if self._gone_in_a_row <= MOST_GONE:
                return answer
            found = await self._ask(self._flavour.users_url(), self._classify_users, "")
            if found is not None:
                return found
            self._gone_in_a_row = 0
        return answer

    def _classify_users(self, reply: HttpResponse, _asked: str) -> RetryLater | RefusedClient | None:
        return self._flavour.classify_users(*reply)

    def _classify_user_list(self, reply: HttpResponse, _asked: str) -> UserListAnswer:
        return self._flavour.classify_user_list(*reply)

    def _classify_member_list(self, reply: HttpResponse, asked: str) -> MemberListAnswer:
        return self._flavour.classify_member_list(*reply, asked=asked)

    def _classify_window(self, reply: HttpResponse, asked: str) -> WindowAnswer:
        return self._flavour.classify_window(*reply, asked=asked, host_is_allowed=self._host_is_allowed)

    def _classify_member(self, reply: HttpResponse, asked: str) -> MemberAnswer:
        return self._flavour.classify_member(*reply, asked=asked)

    async def _ask(
        self,
        url: URL,
        classify: Callable[[HttpResponse, str], _Answer],
        asked: str,
        *,
        body: bytes | None = None,
        most: int = MAX_BODY,
    ) -> _Answer | Failure:
        """Ask with retries. ``asked``: the member or the user; empty for the list of users, whose answer needs no other proof."""
        until = time.monotonic() + self._deadline
        begin_by = time.monotonic() + begin_within(self._deadline)

        def once() -> Coroutine[Any, Any, _Answer | RetryLater]:
            return self._ask_once(url, classify, asked, until, begin_by, body=body, most=most)

        answer: _Answer | Failure = await once()
        if tries_for(answer) > 1:  # rare, so tenacity's objects are made only then
            answer = await persist(answer, once, begin_by=begin_by)
        return await self._heed(answer, asked)

    async def _heed(self, answer: _Answer | Failure, asked: str) -> _Answer | Failure:
        """Count answers that any server may give, and replace one by a failure if it may not come from MX."""
        if isinstance(answer, _ONLY_MX_SAYS):
            self._gone_in_a_row = 0
        if isinstance(answer, Gone) or (isinstance(answer, RejectedRequest) and asked != _NO_MEMBER):
            return await self._believed(answer) if asked else answer
        return answer

    async def _ask_once(
        self,
        url: URL,
        classify: Callable[[HttpResponse, str], _Answer],
        asked: str,
        until: float,
        begin_by: float,
        *,
        urgent: bool = False,
        body: bytes | None = None,
        most: int = MAX_BODY,
    ) -> _Answer | RetryLater:
        """One request, when pacing permits it. It begins by ``begin_by`` and ends by ``until`` (``time.monotonic()``).

        ``most``: octets of the answer.
        """
        now = time.monotonic()
        if self._pacing is None:
            reply = await self._transport.send(url, body=body, within=until - now, most=most)
            return reply if isinstance(reply, RetryLater) else classify(reply, asked)
        try:
            async with self._pacing.permit(within=begin_by - now, urgent=urgent) as permit:
                reply = await self._transport.send(
                    url,
                    body=body,
                    within=until - time.monotonic(),
                    most=most,
                    before_sending=permit.before_sending if self._has_a_rate else None,
                )
                answer = reply if isinstance(reply, RetryLater) else classify(reply, asked)
                permit.heard(answer)
                return answer
        except NoPermit as late:
            return RetryLater(code=NOT_ASKED, after=late.after or None, upstream=False)
