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

#: Any web server may answer 404 or another 4xx, or redirect. This many such answers in a row are taken for MX's. After the next one MX is asked for
#: its list of users, which only MX has.
MOST_GONE = 20

#: Once a click has its window, it waits at most this long for the read of its member (seconds).
READ_PATIENCE = 1.0

_ONLY_MX_SAYS = (Window, HostileUri, MemberRead, Unsupported, UserList, MemberList)

#: By ``MX_API``.
_FLAVOURS: dict[str, type[Flavour]] = {"atrium": Atrium, "platform": Platform}

#: Valid GUIDs that belong to nobody.
_NO_USER = "USR-00000000-0000-0000-0000-000000000000"
_NO_MEMBER = "MBR-00000000-0000-0000-0000-000000000000"


def window_tells_status(settings: Settings) -> bool:
    """Whether the answer to a request for a window also has the member's status, by ``MX_API``."""
    return _FLAVOURS[settings.mx_api].window_tells_status


class Mx(Protocol):
    """What the stages ask of MX."""

    async def oauth_window(self, user_guid: str, member_guid: str) -> WindowAnswer:
        """A fresh OAuth window for a member. Each call may create OAuth state at MX: ask only for what will be used."""

    async def urgent_window(self, user_guid: str, member_guid: str, *, within: float) -> WindowAnswer:
        """As :meth:`oauth_window`, for a user who waits: before all others, in at most ``within`` seconds, with one quick retry."""

    async def read_member(self, user_guid: str, member_guid: str) -> MemberAnswer:
        """A member as MX sees it now.

        How often one member is read is up to the caller: :mod:`worker.stages.hints` reads it at most every 3 s.
        """

    async def list_users(self, page: int, per_page: int) -> UserListAnswer:
        """One page of all users, as :meth:`MxClient.list_users`."""

    async def list_members(self, user_guid: str, page: int, per_page: int) -> MemberListAnswer:
        """One page of a user's members, as :meth:`MxClient.list_members`."""

    async def probe(self) -> Failure | None:
        """``None`` if MX accepts our requests, else the failure."""

    def doubt(self) -> None:
        """Take the next 404, other 4xx or redirect for MX's only if MX lists its users."""

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
        #: How many answers in a row any web server may have given.
        self._unproven_in_a_row = 0
        self._proving = asyncio.Lock()
        self._proofs_ended = 0
        #: What the last proof failed with; ``None`` if it succeeded.
        self._proof_failure: Failure | None = None
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
        """As :meth:`oauth_window`, for a user who waits: before all others, in at most ``within`` seconds, with one quick retry.

        A user whose connection works again should not be led to the bank. If the window's answer has no status of the member
        (Platform), the member is read at the same time. If that read fails, or has not ended :data:`READ_PATIENCE` after the window
        came, the window is returned without a status, and the user is led to the bank.
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
        """The member's status; ``None`` if the read failed."""
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
        """A member as MX sees it now. How often one member is read is up to the caller (:meth:`Mx.read_member`)."""
        return self._ask(self._flavour.member_url(user_guid, member_guid), self._classify_member, member_guid)

    def list_users(self, page: int, per_page: int) -> Coroutine[Any, Any, UserListAnswer]:
        """One page of all users, the first page being 1.

        ``per_page``: from 10 to 1,000. For a size out of its range MX silently takes 25, so ``pagination.per_page`` of the answer is the
        page size in force. MX always has this list: a 404 is :data:`~worker.mx.answers.NOT_MX`.
        """
        return self._ask(
            self._flavour.users_url(page, per_page), self._classify_user_list, "", max_octets=MAX_LIST_BODY
        )

    def list_members(self, user_guid: str, page: int, per_page: int) -> Coroutine[Any, Any, MemberListAnswer]:
        """One page of a user's members, as :meth:`list_users`; ``Gone`` where MX does not know the user."""
        url = self._flavour.members_url(user_guid, page, per_page)
        return self._ask(url, self._classify_member_list, user_guid, max_octets=MAX_LIST_BODY)

    async def probe(self) -> Failure | None:
        """``None`` if MX accepts our requests, else the failure.

        Asks for the window of a member that nobody has, so nothing happens at MX. MX's own 404 says that key, client id and
        address were accepted.
        """
        self.doubt()
        answer = await self.oauth_window(_NO_USER, _NO_MEMBER)
        self._unproven_in_a_row = 0
        return None if isinstance(answer, Gone | Window | HostileUri) else answer

    def doubt(self) -> None:
        """Take the next 404, other 4xx or redirect for MX's only if MX lists its users."""
        self._unproven_in_a_row = MOST_GONE

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def _verify_sender(self, answer: Gone | RejectedRequest) -> Failure:
        """``answer``, which any web server may give, or the failure of the proof that MX gave it.

        With a wrong ``MX_BASE_URL`` every member would end as gone or quarantined. So after :data:`MOST_GONE` such answers in a row
        MX must list its users. Calls that wait while one proof is under way share its result. So if the proof fails, 20 waiting calls make a
        failure streak: MX is asked no more until a probe is served.
        """
        self._unproven_in_a_row += 1
        ended_before = self._proofs_ended
        async with self._proving:
            if self._unproven_in_a_row <= MOST_GONE:
                return answer
            # A call that is cancelled in its proof ends none: the next one in the queue begins a new proof.
            if self._proofs_ended == ended_before:
                self._proof_failure = await self._ask(self._flavour.users_url(), self._classify_users, "")
                self._proofs_ended += 1
                if self._proof_failure is None:
                    self._unproven_in_a_row = 0
            return self._proof_failure or answer

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
        max_octets: int = MAX_BODY,
    ) -> _Answer | Failure:
        """``asked``: the member or the user. It is empty for the list of users, which is the proof itself."""
        until = time.monotonic() + self._deadline
        begin_by = time.monotonic() + begin_within(self._deadline)

        def once() -> Coroutine[Any, Any, _Answer | RetryLater]:
            return self._ask_once(url, classify, asked, until, begin_by, body=body, max_octets=max_octets)

        answer: _Answer | Failure = await once()
        if tries_for(answer) > 1:  # rare, so that the retrying machinery is only built when it is needed
            answer = await persist(answer, once, begin_by=begin_by)
        return await self._heed(answer, asked)

    async def _heed(self, answer: _Answer | Failure, asked: str) -> _Answer | Failure:
        """Count an answer that any web server may give, and verify its sender if there were many. ``asked`` as in :meth:`_ask`."""
        if isinstance(answer, _ONLY_MX_SAYS):
            self._unproven_in_a_row = 0
            return answer
        if not asked or not isinstance(answer, Gone | RejectedRequest):
            return answer
        if asked == _NO_MEMBER and isinstance(answer, RejectedRequest):
            return answer  # a probe's: its caller learns the code, and no member ends by it
        return await self._verify_sender(answer)

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
        max_octets: int = MAX_BODY,
    ) -> _Answer | RetryLater:
        """One request, once pacing permits it. ``max_octets``: of its answer.

        ``begin_by``, ``until``: when it is begun and ended at the latest (``time.monotonic()``).
        """
        now = time.monotonic()
        if self._pacing is None:
            reply = await self._transport.send(url, body=body, within=until - now, max_octets=max_octets)
            return reply if isinstance(reply, RetryLater) else classify(reply, asked)
        try:
            async with self._pacing.permit(within=begin_by - now, urgent=urgent) as permit:
                reply = await self._transport.send(
                    url,
                    body=body,
                    within=until - time.monotonic(),
                    max_octets=max_octets,
                    before_sending=permit.before_sending if self._has_a_rate else None,
                )
                answer = reply if isinstance(reply, RetryLater) else classify(reply, asked)
                permit.heard(answer)
                return answer
        except NoPermit as no_permit:
            return RetryLater(code=NOT_ASKED, after=no_permit.after or None, upstream=False)
