"""The bank's consent page: the customer allows or denies, once for each link.

A GET changes nothing. But after the ``scan`` command or step the first GET uses the link up, and only its page can decide then.

After the ``redirects`` command a link leads to its page through that number of ``302`` answers, each from another host, as at MX. With
``scan`` too, the first of them uses the link up and adds a ``session`` to the address of the next; only that session can continue.
"""

from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from aiohttp import web

from worker.display_names import isolated, shown
from worker.sandbox.ledger import Ledger
from worker.sandbox.members import LinkExpired, LinkUsed, Members, Window
from worker.sandbox.pages import page

_PATH = "/oauth/authorize"
_NEXT = "/oauth/redirect/{left}"


class Consent:
    """``/oauth/authorize`` on the sandbox's own address."""

    def __init__(self, members: Members, ledger: Ledger) -> None:
        self._members = members
        self._ledger = ledger
        #: How many redirects come before the consent page.
        self.redirects = 0
        #: The sandbox's own addresses, such as ``http://localhost:8090``. Each redirect leads to the next of them.
        self.origins: Sequence[str] = ()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(_PATH, self._ask),
            web.get(_NEXT, self._next),
            web.post(_PATH, self._decide),
        ]

    def decide(self, window: Window, *, allow: bool, session: str | None = None) -> None:
        """Allow or deny, as the customer would; raises :class:`LinkUsed` and :class:`LinkExpired`."""
        self._members.decide(window, allow=allow, session=session)
        self._ledger.note_used(window.member.key)

    async def _ask(self, request: web.Request) -> web.Response:
        state = request.query.get("state", "")
        window = self._members.window(state)
        if window is None:
            return _unknown()
        self._ledger.note_opened(window.member.key)
        self._ledger.note_referer(request.headers.get("Referer"))
        try:
            session = self._members.open(window)
        except (LinkUsed, LinkExpired) as reason:
            return _refused(window, reason)
        if self.redirects and self.origins:
            return self._onward(self.redirects, state, session)
        return page("consent.html", bank=_bank(window), state=state, session=session)

    async def _next(self, request: web.Request) -> web.Response:
        """One of the redirects; after the last one the consent page."""
        state, session = request.query.get("state", ""), request.query.get("session")
        window, left = self._members.window(state), request.match_info["left"]
        if window is None or not left.isdecimal() or len(left) > 2:  # noqa: PLR2004 - see control's limit
            return _unknown()
        self._ledger.note_referer(request.headers.get("Referer"))
        try:
            self._members.check(window, session)
        except (LinkUsed, LinkExpired) as reason:
            return _refused(window, reason)
        if int(left):
            return self._onward(int(left), state, session)
        return page("consent.html", bank=_bank(window), state=state, session=session)

    def _onward(self, left: int, state: str, session: str | None) -> web.Response:
        query = urlencode({"state": state} | ({"session": session} if session else {}))
        origin = self.origins[left % len(self.origins)]
        return web.Response(
            status=HTTPStatus.FOUND,
            headers={"Location": f"{origin}{_NEXT.format(left=left - 1)}?{query}", "Cache-Control": "no-store"},
        )

    async def _decide(self, request: web.Request) -> web.Response:
        form = await request.post()
        window = self._members.window(str(form.get("state", "")))
        if window is None:
            return _unknown()
        decision = form.get("decision")
        if decision not in {"allow", "deny"}:
            return page(
                "outcome.html",
                status=HTTPStatus.BAD_REQUEST,
                title="Allow or deny?",
                text="The form came without a decision. Nothing has changed; go back and choose.",
            )
        try:
            self.decide(window, allow=decision == "allow", session=str(form.get("session", "")) or None)
        except (LinkUsed, LinkExpired) as reason:
            return _refused(window, reason)
        if window.redirect_url is not None:
            return _redirect(window, window.redirect_url)
        bank = isolated(_bank(window))
        if decision == "allow":
            return page(
                "outcome.html", title="Connected", text=f"{bank} shares its data again. You can close this page."
            )
        return page("outcome.html", title="Not connected", text=f"You denied access. {bank} stays disconnected.")


def _bank(window: Window) -> str:
    return shown(window.member.record.institution_name) or "the bank"


def _unknown() -> web.Response:
    return page(
        "outcome.html",
        status=HTTPStatus.NOT_FOUND,
        title="Unknown link",
        text="This sandbox has made no such link. It forgets its links when it stops.",
    )


def _refused(window: Window, reason: LinkUsed | LinkExpired) -> web.Response:
    return _used(window) if isinstance(reason, LinkUsed) else _expired(window)


def _used(window: Window) -> web.Response:
    return page(
        "outcome.html",
        status=HTTPStatus.GONE,
        title="This link was already used",
        text=f"Each link to {isolated(_bank(window))} is good for one decision, and "
        + (
            f"access was already {window.decision} with this one."
            if window.decision
            else "somebody has opened this one already."
        )
        + " Ask for a new link.",
    )


def _expired(window: Window) -> web.Response:
    return page(
        "outcome.html",
        status=HTTPStatus.GONE,
        title="This link has expired",
        text=f"Links to {isolated(_bank(window))} expire after some time. Ask for a new one.",
    )


def _redirect(window: Window, url: str) -> web.Response:
    """Redirect to the client, with the parameters that MX adds at the end of OAuth."""
    if window.decision == "allowed":
        outcome = {"status": "success", "member_guid": window.member.guid}
    else:
        outcome = {"status": "error", "member_guid": window.member.guid, "error_reason": "DENIED"}
    parts = urlsplit(url)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *outcome.items()])
    return web.Response(
        status=HTTPStatus.SEE_OTHER,
        headers={"Location": urlunsplit(parts._replace(query=query)), "Referrer-Policy": "no-referrer"},
    )
