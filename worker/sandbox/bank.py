"""The part of MX's API that a reconnection needs: windows, members, their status, and lists; in every flavour.

It checks a request's credentials and version (:mod:`worker.sandbox.speech`), its parameters, and which parameters may be combined.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from http import HTTPStatus
from urllib.parse import urlsplit

from aiohttp import web

from worker.sandbox.ledger import Endpoint, Ledger
from worker.sandbox.lists import Lists, paginated
from worker.sandbox.members import Member, Members
from worker.sandbox.oauth_uris import hostile_uri
from worker.sandbox.population import SimulatedMember
from worker.sandbox.replies import answer, broken
from worker.sandbox.script import Step
from worker.sandbox.speech import Keys, Refused, Speech, understood
from worker.sandbox.upstream_fault import UpstreamFault

#: The ``state`` in hostile URIs. The value does not matter, because no test opens one.
_NO_STATE = "d273e4f71bc095cf16c4acbee011caf4"


_Handler = Callable[[web.Request, Speech], Awaitable[tuple[str, web.StreamResponse]]]


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
        self.lists = Lists()

    def routes(self) -> list[web.RouteDef]:
        """MX's paths, the most frequent one first."""
        member = "/users/{user_guid}/members/{member_guid}"
        return [
            # Without HEAD, which would mint a window.
            web.get(f"{member}/oauth_window_uri", self._endpoint("window", self._window), allow_head=False),
            web.get(member, self._endpoint("read", self._member)),
            web.get(f"{member}/status", self._endpoint("read", self._status)),
            web.get("/users/{user_guid}/members", self._endpoint("list", self._list_members)),
            web.get("/users", self._endpoint("list", self._list_users)),
        ]

    def _endpoint(
        self, endpoint: Endpoint, handler: _Handler
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A handler with the parts of all endpoints: ledger, latency, faults of the whole bank, errors of credentials and version."""

        async def handle(request: web.Request) -> web.StreamResponse:
            with self.ledger.request(endpoint):
                if endpoint == "window":
                    known = self.members.by_guid.get(request.match_info["member_guid"]) or self._found(request)
                    if known is not None:
                        self.ledger.of(known.key).requests += 1
                if self.latency:
                    await asyncio.sleep(self.latency)
                try:
                    answered = await self._answer_of_fault(request, endpoint)
                    if answered is None:
                        answered = await handler(request, self._speech(request))
                    status, response = answered
                except Refused as refused:
                    response = refused.response
                    status = str(response.status)
                self.ledger.statuses[status] += 1
                return response

        return handle

    async def _answer_of_fault(self, request: web.Request, endpoint: Endpoint) -> tuple[str, web.StreamResponse] | None:
        """The answer of a fault of the whole bank; ``None`` if no fault strikes. The member's script does not advance."""
        step = self.fault.strike(endpoint) if self.fault is not None else None
        if step is None:
            return None
        if self._found(request) is not None:
            self.ledger.steps[str(step)] += 1  # only requests for a known member count; a probe asks for an unknown one
        if step.kind == "slow":
            await asyncio.sleep(step.seconds or 0)
            return None
        failure = await broken(request, step)
        if failure is not None:
            return failure
        speech = self._speech(request)
        member = self._asked_for(request, speech)
        check_parameters(request.query, speech)
        return self._member_with_window(request, speech, member, step)

    def _speech(self, request: web.Request) -> Speech:
        """The flavour of the request, if its credentials are right."""
        speech = understood(request.headers, self.keys)
        self.ledger.flavours[speech.name] += 1
        return speech

    def _found(self, request: web.Request) -> Member | None:
        """The member that the path names by GUID or own id, if there is one."""
        where = request.match_info
        return self.members.find(where.get("user_guid", ""), where.get("member_guid", ""), own_ids=True)

    def _asked_for(self, request: web.Request, speech: Speech) -> Member:
        where = request.match_info
        member = self.members.find(where["user_guid"], where["member_guid"], own_ids=speech.own_ids)
        if member is None:
            raise Refused(HTTPStatus.NOT_FOUND, "Resource not found")
        return member

    async def _window(self, request: web.Request, speech: Speech) -> tuple[str, web.StreamResponse]:
        member = self._asked_for(request, speech)
        check_parameters(request.query, speech)
        step = member.next_step()
        member.gone = step.kind == "gone"
        self.ledger.steps[str(step)] += 1
        if step.kind == "slow":
            await asyncio.sleep(step.seconds or 0)
        failure = await broken(request, step)
        return failure if failure is not None else self._member_with_window(request, speech, member, step)

    def _member_with_window(
        self, request: web.Request, speech: Speech, member: Member, step: Step
    ) -> tuple[str, web.StreamResponse]:
        """200 with the member in the form of the flavour, and with the window (or none) of ``step``."""
        if step.kind == "moved":
            member = self.members.move(member, step.argument)
        elif step.kind == "connected":
            member.connect(aggregation_takes=timedelta(0))
        fields = speech.beside_window(member)
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
        self.ledger.note_minted(member.key)
        return self.members.mint(
            member,
            skip_aggregation=query.get("skip_aggregation", "").lower() == "true",
            redirect_url=query.get("client_redirect_url"),
            used_by_opening=step.kind == "scan",
            link_seconds=step.seconds if step.kind == "link_seconds" else None,
        )

    def _read(self, request: web.Request, speech: Speech) -> Member:
        member = self._asked_for(request, speech)
        self.ledger.of(member.key).reads += 1
        if member.gone:
            raise Refused(HTTPStatus.NOT_FOUND, "Resource not found")
        return member

    async def _member(self, request: web.Request, speech: Speech) -> tuple[str, web.StreamResponse]:
        return "200", answer({"member": speech.member(self._read(request, speech))})

    async def _status(self, request: web.Request, speech: Speech) -> tuple[str, web.StreamResponse]:
        member = self._read(request, speech)
        fields = speech.member(member)
        shown = {name: fields[name] for name in _STATUS_FIELDS if name in fields} | {
            "has_processed_accounts": True,
            "has_processed_transactions": True,
            "is_authenticated": member.connection_status == "CONNECTED",
        }
        return "200", answer({"member": shown})

    async def _list_members(self, request: web.Request, speech: Speech) -> tuple[str, web.StreamResponse]:
        user_guid = self.members.user_guid(request.match_info["user_guid"], own_ids=speech.own_ids)
        members = self.members.by_user.get(user_guid)
        if members is None:
            raise Refused(HTTPStatus.NOT_FOUND, "Resource not found")
        rules = self.lists.rules()
        others = [self.members.by_guid[guid] for guid in rules.also.get(user_guid, ()) if guid in self.members.by_guid]
        present = [member for member in (*members, *others) if not member.gone and member.guid not in rules.hide]
        shown, pagination = paginated(present, request.query, rules)
        rows = [speech.member(member) | {"user_guid": user_guid} for member in shown]
        return "200", answer({"members": rows, "pagination": pagination})

    async def _list_users(self, request: web.Request, speech: Speech) -> tuple[str, web.StreamResponse]:
        rules = self.lists.rules()
        wanted = speech.searched(request.query)
        users = [user for user in self.members.users.values() if user.guid not in rules.hide and wanted(user)]
        shown, pagination = paginated(users, request.query, rules)
        return "200", answer({"users": [speech.user(user) for user in shown], "pagination": pagination})


_STATUS_FIELDS = (
    "aggregated_at", "connection_status", "guid", "is_being_aggregated", "status", "successfully_aggregated_at",
)  # fmt: skip


def check_parameters(query: Mapping[str, str], speech: Speech) -> None:
    """Refuse parameters that MX's documentation rules out. Unknown parameters are ignored."""
    if not query:
        return
    for name in speech.flags:
        value = query.get(name, "false")
        if (value.lower() if speech.flags_in_any_case else value) not in {"true", "false"}:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{name} must be true or false")
    source = query.get("referral_source", "BROWSER")
    if source not in {"BROWSER", "APP"}:
        raise Refused(HTTPStatus.BAD_REQUEST, "referral_source must be BROWSER or APP")
    for name in ("client_redirect_url", "ui_message_webview_url_scheme"):
        if name in query and source != "APP":
            raise Refused(HTTPStatus.BAD_REQUEST, f"{name} is only available with referral_source APP")
    redirect = query.get("client_redirect_url")
    if redirect is not None and not (redirect.isprintable() and urlsplit(redirect).scheme):
        raise Refused(HTTPStatus.BAD_REQUEST, "client_redirect_url must be a URL")
