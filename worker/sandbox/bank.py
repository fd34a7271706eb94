"""The part of MX's Atrium API that a reconnection needs: windows, members, their status, and lists.

It checks what a client can get wrong: both credential headers, the version in ``Accept``, the endpoint's four parameters and which of
them go together.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlsplit

from aiohttp import web

from worker.sandbox.ledger import Endpoint, Ledger
from worker.sandbox.members import Member, Members
from worker.sandbox.oauth_uris import hostile_uri
from worker.sandbox.population import SimulatedMember
from worker.sandbox.replies import answer, broken, refusal
from worker.sandbox.script import Step
from worker.sandbox.upstream_fault import UpstreamFault

ACCEPTED = "application/vnd.mx.atrium.v1+json"
_DEFAULT_PAGE_SIZE = 25
_PAGE_SIZES = range(10, 1001)

#: The ``state`` in hostile URIs. Any will do, since nobody opens one.
_NO_STATE = "d273e4f71bc095cf16c4acbee011caf4"


@dataclass(kw_only=True)
class Keys:
    """The credentials that are accepted; while ``revoked``, none are."""

    api_key: str = field(repr=False)
    client_id: str = field(repr=False)
    revoked: bool = False

    def accept(self, headers: Mapping[str, str]) -> bool:
        return (
            not self.revoked
            and headers.get("MX-API-Key") == self.api_key
            and headers.get("MX-Client-ID") == self.client_id
        )


class _Refused(Exception):  # noqa: N818 - carried from a check to the answer
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.response = refusal(status, message)


_Row = TypeVar("_Row")
_Handler = Callable[[web.Request], Awaitable[tuple[str, web.StreamResponse]]]


class Bank:
    """The simulated MX: its members, credentials, faults and ledger. Each may be changed while it runs."""

    def __init__(
        self,
        population: Iterable[SimulatedMember],
        *,
        keys: Keys,
        latency: float = 0.0,
        aggregation_takes: timedelta = timedelta(seconds=1),
    ) -> None:
        self.keys = keys
        #: Seconds that every answer takes.
        self.latency = latency
        self.fault: UpstreamFault | None = None
        self.ledger = Ledger()
        self.members = Members(population, aggregation_takes=aggregation_takes)

    def routes(self) -> list[web.RouteDef]:
        """MX's paths, the most frequent one first."""
        member = "/users/{user_guid}/members/{member_guid}"
        return [
            # Without HEAD, which would make a window.
            web.get(f"{member}/oauth_window_uri", self._endpoint("window", self._window), allow_head=False),
            web.get(member, self._endpoint("read", self._member)),
            web.get(f"{member}/status", self._endpoint("read", self._status)),
            web.get("/users/{user_guid}/members", self._endpoint("read", self._list_members)),
            web.get("/users", self._endpoint("read", self._list_users)),
        ]

    def _endpoint(
        self, endpoint: Endpoint, handler: _Handler
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A handler with what all endpoints share: the ledger, latency, faults of the whole bank, credentials, version."""

        async def handle(request: web.Request) -> web.StreamResponse:
            with self.ledger.request(endpoint):
                if endpoint == "window":
                    known = self.members.by_guid.get(request.match_info["member_guid"])
                    if known is not None:
                        self.ledger.of(known.key).requests += 1
                if self.latency:
                    await asyncio.sleep(self.latency)
                try:
                    answered = await self._answer_of_fault(request, endpoint)
                    if answered is None:
                        self._check_client(request.headers)
                        answered = await handler(request)
                    status, response = answered
                except _Refused as refused:
                    response = refused.response
                    status = str(response.status)
                self.ledger.statuses[status] += 1
                return response

        return handle

    async def _answer_of_fault(self, request: web.Request, endpoint: Endpoint) -> tuple[str, web.StreamResponse] | None:
        """The answer of a fault of the whole bank, if it strikes. It does not advance the member's script."""
        step = self.fault.strike(endpoint) if self.fault is not None else None
        if step is None:
            return None
        if self._found(request) is not None:
            self.ledger.steps[str(step)] += (
                1  # which says what members met with; a client may also ask for nobody's, to try us
            )
        if step.kind == "slow":
            await asyncio.sleep(step.seconds or 0)
            return None
        failure = await broken(request, step)
        if failure is not None:
            return failure
        self._check_client(request.headers)
        member = self._asked_for(request)
        check_parameters(request.query)
        return self._member_with_window(request, member, step)

    def _check_client(self, headers: Mapping[str, str]) -> None:
        if not self.keys.accept(headers):
            raise _Refused(HTTPStatus.UNAUTHORIZED, "Unauthorized")
        accept = headers.get("Accept", "")
        if accept != ACCEPTED and ACCEPTED not in (part.partition(";")[0].strip() for part in accept.split(",")):
            raise _Refused(HTTPStatus.NOT_ACCEPTABLE, f"Accept must name {ACCEPTED}")

    def _found(self, request: web.Request) -> Member | None:
        """The member in the path, if it has one and we know it."""
        where = request.match_info
        return self.members.find(where.get("user_guid", ""), where.get("member_guid", ""))

    def _asked_for(self, request: web.Request) -> Member:
        member = self._found(request)
        if member is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "Resource not found")
        return member

    async def _window(self, request: web.Request) -> tuple[str, web.StreamResponse]:
        member = self._asked_for(request)
        check_parameters(request.query)
        step = member.next_step()
        member.gone = step.kind == "gone"
        self.ledger.steps[str(step)] += 1
        if step.kind == "slow":
            await asyncio.sleep(step.seconds or 0)
        failure = await broken(request, step)
        return failure if failure is not None else self._member_with_window(request, member, step)

    def _member_with_window(self, request: web.Request, member: Member, step: Step) -> tuple[str, web.StreamResponse]:
        """200 with the member, and with the window (or none) that ``step`` asks for."""
        if step.kind == "moved":
            member = self.members.move(member, step.argument)
        elif step.kind == "connected":
            member.connect(aggregation_takes=timedelta(0))
        fields = member.fields()
        match step.kind:
            case "null_uri":
                fields["oauth_window_uri"] = None
            case "empty_uri":
                fields["oauth_window_uri"] = ""
            case "missing_uri":
                pass
            case "hostile":
                fields["oauth_window_uri"] = hostile_uri(step.argument, member.record.institution_code, _NO_STATE)
            case _:
                fields["oauth_window_uri"] = self._mint(member, request.query, step)
        return "200", answer({"member": fields})

    def _mint(self, member: Member, query: Mapping[str, str], step: Step) -> str:
        self.ledger.of(member.key).minted.append(time.time())
        return self.members.mint(
            member,
            skip_aggregation=query.get("skip_aggregation") == "true",
            redirect_url=query.get("client_redirect_url"),
            used_by_opening=step.kind == "scan",
            link_seconds=step.seconds if step.kind == "link_seconds" else None,
        )

    def _read(self, request: web.Request) -> Member:
        member = self._asked_for(request)
        self.ledger.of(member.key).reads += 1
        if member.gone:
            raise _Refused(HTTPStatus.NOT_FOUND, "Resource not found")
        return member

    async def _member(self, request: web.Request) -> tuple[str, web.StreamResponse]:
        return "200", answer({"member": self._read(request).fields()})

    async def _status(self, request: web.Request) -> tuple[str, web.StreamResponse]:
        member = self._read(request)
        fields = member.fields()
        shown = {name: fields[name] for name in _STATUS_FIELDS} | {
            "has_processed_accounts": True,
            "has_processed_transactions": True,
            "is_authenticated": member.connection_status == "CONNECTED",
        }
        return "200", answer({"member": shown})

    async def _list_members(self, request: web.Request) -> tuple[str, web.StreamResponse]:
        members = self.members.by_user.get(request.match_info["user_guid"])
        if members is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "Resource not found")
        present = [member for member in members if not member.gone]
        shown, pagination = paginated(present, request.query)
        return "200", answer({"members": [member.fields() for member in shown], "pagination": pagination})

    async def _list_users(self, request: web.Request) -> tuple[str, web.StreamResponse]:
        shown, pagination = paginated(list(self.members.by_user), request.query)
        users = [{"guid": guid, "identifier": None, "is_disabled": False, "metadata": None} for guid in shown]
        return "200", answer({"users": users, "pagination": pagination})


_STATUS_FIELDS = (
    "aggregated_at", "connection_status", "guid", "is_being_aggregated", "status", "successfully_aggregated_at",
)  # fmt: skip


def check_parameters(query: Mapping[str, str]) -> None:
    """Refuse parameters that MX's documentation rules out. Unknown parameters are ignored."""
    if not query:
        return
    if query.get("skip_aggregation", "false") not in {"true", "false"}:
        raise _Refused(HTTPStatus.BAD_REQUEST, "skip_aggregation must be true or false")
    source = query.get("referral_source", "BROWSER")
    if source not in {"BROWSER", "APP"}:
        raise _Refused(HTTPStatus.BAD_REQUEST, "referral_source must be BROWSER or APP")
    for name in ("client_redirect_url", "ui_message_webview_url_scheme"):
        if name in query and source != "APP":
            raise _Refused(HTTPStatus.BAD_REQUEST, f"{name} is only available with referral_source APP")
    redirect = query.get("client_redirect_url")
    if redirect is not None and not (redirect.isprintable() and urlsplit(redirect).scheme):
        raise _Refused(HTTPStatus.BAD_REQUEST, "client_redirect_url must be a URL")


def paginated(rows: list[_Row], query: Mapping[str, str]) -> tuple[list[_Row], dict[str, int]]:
    """One page of ``rows`` and MX's description of it. As at MX, a page size out of range silently becomes 25."""
    size = _number(query.get("records_per_page"))
    if size not in _PAGE_SIZES:
        size = _DEFAULT_PAGE_SIZE
    page = max(1, _number(query.get("page")))
    pagination = {
        "current_page": page,
        "per_page": size,
        "total_entries": len(rows),
        "total_pages": max(1, -(-len(rows) // size)),
    }
    return rows[(page - 1) * size : page * size], pagination


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 10 else 0  # noqa: PLR2004
