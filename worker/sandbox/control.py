"""The sandbox's own interface for tests and demonstrations, below ``/sandbox``. MX has no such interface.

``GET /sandbox/ledger`` (``?members=false`` for totals alone), ``GET /sandbox/ledger/seconds``, ``GET /sandbox/rate?window=1.0``,
``GET /sandbox/scans.json`` (what mail scanners of each kind did) and ``POST /sandbox/control`` with a JSON object of commands, see
:class:`Command`. There is no password: the sandbox listens on loopback only. A command must be ``application/json``, which a foreign
web page cannot send without a CORS preflight.
"""

from http import HTTPStatus
from typing import Annotated, Literal, Self

from aiohttp import web
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from worker.sandbox.bank import Bank
from worker.sandbox.consent import Consent
from worker.sandbox.ledger import peak, per_second
from worker.sandbox.lists import ListRules
from worker.sandbox.mail_faults import MailRule
from worker.sandbox.mail_server import MailServer
from worker.sandbox.members import LinkExpired, LinkUsed, Member
from worker.sandbox.population import ConnectionStatus, Script
from worker.sandbox.problems import one_line
from worker.sandbox.scanning import ScanRules
from worker.sandbox.script import Step, parse_step
from worker.sandbox.upstream_fault import UpstreamFault
from worker.sandbox.webhooks import is_target


def _step(text: str) -> str:
    parse_step(text)
    return text


def _target(url: str) -> str:
    if not is_target(url):
        raise ValueError("expected a URL such as http://127.0.0.1:8080/webhooks/mx")
    return url


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


StepText = Annotated[str, AfterValidator(_step)]
#: One GUID or a list of them.
Guids = Annotated[list[str], BeforeValidator(_listed)]
Seconds = Annotated[float, Field(ge=0, le=600)]
_STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)


class NewKeys(BaseModel):
    """New credentials."""

    model_config = _STRICT

    api_key: str
    client_id: str


class WebhookTarget(BaseModel):
    """Where webhooks are sent."""

    model_config = _STRICT

    url: Annotated[str, AfterValidator(_target)]
    #: As in ``MX_WEBHOOK_AUTH``: ``user:password``, or ``bearer TOKEN``.
    auth: str | None = None


class Command(BaseModel):
    """What can be changed while the sandbox runs. One request may hold several commands; all are checked before any is done."""

    model_config = _STRICT

    #: ``revoke``: every request gets 401. ``restore``: the keys are accepted again. Or new keys.
    keys: Literal["revoke", "restore"] | NewKeys | None = None
    #: A fault of the whole bank: a step (see :mod:`worker.sandbox.script`); null ends it.
    fault: StepText | None = None
    #: Several steps; each request gets a random one of them. Replaces ``fault``.
    mix: Annotated[list[StepText], Field(min_length=1)] | None = None
    #: The share of requests that get the fault, such as 0.2; 0 ends the fault. The same seed chooses the same requests.
    share: float = Field(1.0, ge=0, le=1)
    seed: int = 0
    #: ``list``: pages of users and members alone; ``read`` includes them.
    on: Literal["window", "read", "list", "all"] = "all"
    #: Which wrong lists are served (see :mod:`worker.sandbox.lists`); ``{}``: right ones.
    lists: ListRules | None = None
    #: Members, or users with all their members, to delete: MX then answers 404.
    delete: Guids | None = None
    #: Seconds that every answer of the bank takes.
    latency: Seconds | None = None
    #: The members that ``script`` and ``connection_status`` change.
    member: Guids | None = None
    script: Script | None = None
    connection_status: ConnectionStatus | None = None
    #: Allow, as the customer would, in the newest window of each of these members.
    consent: Guids | None = None
    #: Replaces all mail rules; an empty list ends them.
    mail_faults: list[MailRule] | None = None
    #: Seconds before each reply of the mail server.
    mail_latency: Seconds | None = None
    #: Scanners open the links of arriving mails, and the first GET uses a link up: ``true`` (every mail, with GET), a kind, or rules
    #: (see :mod:`worker.sandbox.scanning`). ``false`` or an empty list ends both.
    scan: ScanRules | None = None
    #: Seconds after which links expire, including links made before; null for never.
    link_seconds: Annotated[float, Field(ge=0, le=10_000_000)] | None = None
    #: Makes every link that was minted so far older by this many seconds.
    link_age: Annotated[float, Field(ge=0, le=100_000_000)] | None = None
    #: How many ``302`` answers of different hosts come between a link and its page.
    redirects: Annotated[int, Field(ge=0, le=15)] | None = None
    #: Where webhooks are sent from now on (see :mod:`worker.sandbox.webhooks`); null: nowhere.
    webhooks: WebhookTarget | None = None
    #: Counts start at 0 again. Done last.
    reset: Literal["ledger"] | None = None

    @model_validator(mode="after")
    def _what_belongs_together(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"expected at least one command; known are {', '.join(type(self).model_fields)}")
        if (self.script is None and self.connection_status is None) != (self.member is None):
            raise ValueError("member goes with script or connection_status, and these with member")
        ends = "share" in self.model_fields_set and self.share == 0
        if self.model_fields_set & {"share", "seed", "on"} and self.fault is None and self.mix is None and not ends:
            raise ValueError("share, seed and on go with fault or mix")
        return self

    def upstream_fault(self) -> UpstreamFault | None:
        steps: list[Step] = [parse_step(text) for text in self.mix or ([self.fault] if self.fault else [])]
        if not steps or self.share == 0:
            return None
        return UpstreamFault(steps=tuple(steps), share=self.share, seed=self.seed, on=self.on)


class Control:
    """The HTTP handlers of ledger and control."""

    def __init__(self, bank: Bank, consent: Consent, mail: MailServer) -> None:
        self._bank = bank
        self._consent = consent
        self._mail = mail

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/sandbox/ledger", self._ledger),
            web.get("/sandbox/ledger/seconds", self._seconds),
            web.get("/sandbox/rate", self._rate),
            web.get("/sandbox/scans.json", self._scans),
            web.post("/sandbox/control", self._control),
        ]

    async def _ledger(self, request: web.Request) -> web.Response:
        return web.json_response(self._bank.ledger.as_json(members=request.query.get("members") != "false"))

    async def _seconds(self, request: web.Request) -> web.Response:
        which = request.query.get("of", "all")
        times = self._times(which)
        return web.json_response({"of": which, "seconds": per_second(times), "peak": peak(times, 1.0)})

    async def _rate(self, request: web.Request) -> web.Response:
        which = request.query.get("of", "all")
        try:
            window = float(request.query.get("window", "1.0"))
        except ValueError:
            window = 0.0
        if not 0 < window < float("inf"):
            raise web.HTTPBadRequest(text="window: expected seconds above 0")
        times = self._times(which)
        return web.json_response({"of": which, "window": window, "peak": peak(times, window), "total": len(times)})

    async def _scans(self, _request: web.Request) -> web.Response:
        return web.json_response(self._mail.scanner.counts)

    def _times(self, which: str) -> "list[float]":
        try:
            return list(self._bank.ledger.arrivals(which))
        except KeyError:
            raise web.HTTPBadRequest(text="of: expected all, window, read or list") from None

    async def _control(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return _problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        try:
            command = Command.model_validate_json(await request.read())
        except ValidationError as error:
            return _problem(HTTPStatus.BAD_REQUEST, one_line(error, tuple(Command.model_fields)))
        members = [self._bank.members.by_guid.get(guid) for guid in command.member or ()]
        customers = [self._bank.members.by_guid.get(guid) for guid in command.consent or ()]
        known = self._bank.members
        if None in members or None in customers or not all(known.knows(guid) for guid in command.delete or ()):
            return _problem(HTTPStatus.NOT_FOUND, "no such member")
        self._change_webhooks(command)
        self._change_bank(command, [member for member in members if member is not None])
        self._change_mail(command)
        refused = self._consent_to([member for member in customers if member is not None])
        if command.reset:
            self._bank.ledger.reset()
        if refused:
            return web.json_response(
                {"error": "some consents were refused", "refused": refused}, status=HTTPStatus.CONFLICT
            )
        return web.json_response({"done": sorted(command.model_fields_set)})

    def _change_bank(self, command: Command, members: list[Member]) -> None:
        bank = self._bank
        if isinstance(command.keys, NewKeys):
            bank.keys.api_key, bank.keys.client_id = command.keys.api_key, command.keys.client_id
        elif command.keys is not None:
            bank.keys.revoked = command.keys == "revoke"
        if command.model_fields_set & {"fault", "mix", "share"}:
            bank.fault = command.upstream_fault()
        if command.latency is not None:
            bank.latency = command.latency
        if command.lists is not None:
            bank.lists.obey(command.lists)
        self._change_links(command)
        for guid in command.delete or ():
            bank.members.delete(guid)
        for member in members:
            if command.script is not None:
                member.set_script(command.script)
            if command.connection_status is not None:
                bank.members.set_status(member, command.connection_status)

    def _change_webhooks(self, command: Command) -> None:
        if "webhooks" in command.model_fields_set:
            target, webhooks = command.webhooks, self._bank.members.webhooks
            webhooks.url, webhooks.auth = (None, None) if target is None else (target.url, target.auth)

    def _change_links(self, command: Command) -> None:
        if command.scan is not None:
            self._mail.scanner.rules = tuple(command.scan)
            self._bank.members.used_by_opening = bool(command.scan)
        if "link_seconds" in command.model_fields_set:
            self._bank.members.link_seconds = command.link_seconds
        if command.link_age is not None:
            self._bank.members.age(command.link_age)
        if command.redirects is not None:
            self._consent.redirects = command.redirects

    def _change_mail(self, command: Command) -> None:
        if command.mail_faults is not None:
            self._mail.rules = tuple(command.mail_faults)
        if command.mail_latency is not None:
            self._mail.latency = command.mail_latency

    def _consent_to(self, customers: list[Member]) -> dict[str, str]:
        """Allow in the newest window of each member; returns the members whose link was refused, with the reason."""
        refused = {}
        for member in customers:
            if member.newest_window is None:
                refused[member.key] = "no window was minted"
                continue
            try:
                self._consent.decide(member.newest_window, allow=True)
            except LinkUsed:
                refused[member.key] = "the link was already used"
            except LinkExpired:
                refused[member.key] = "the link has expired"
        return refused


def _problem(status: HTTPStatus, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
