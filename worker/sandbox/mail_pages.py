"""Shows mail in a browser (``/sandbox/mail``) and counts it (``/sandbox/mail.json``).

A mail is foreign content. Its HTML is shown in a frame that may run no script, load nothing and send no form. The HTML itself has the
same Content-Security-Policy, in case it is opened directly. Links open outside of the frame.
"""

import email
import email.policy
import re
from email.message import EmailMessage

from aiohttp import web

from worker.sandbox.mailbox import Mail, Mailbox
from worker.sandbox.oauth_uris import localised
from worker.sandbox.pages import guarded, page

_SHOWN = 200
_MAIL_POLICY = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_HEAD = re.compile(r"<head(\s[^>]*)?>", re.IGNORECASE)
_NEW_TAB = '<base target="_blank">'


class MailPages:
    """The mailbox over HTTP. ``base_url`` is the sandbox's own address, known once it listens."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self.base_url = ""

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/sandbox/mail", self._list),
            web.get("/sandbox/mail.json", self._index),
            web.get(r"/sandbox/mail/{number:\d{1,12}}", self._mail),
            web.get(r"/sandbox/mail/{number:\d{1,12}}/html", self._html),
            web.get(r"/sandbox/mail/{number:\d{1,12}}.eml", self._raw),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        recipient = request.query.get("to")
        mails = self._mailbox.mails(recipient=recipient)
        shown = mails[: -_SHOWN - 1 : -1]
        return page(
            "mail_list.html",
            bodies_kept=self._mailbox.folder is not None,
            recipient=recipient,
            total=len(mails),
            mails=shown,
            subjects={mail.number: _subject_in_list(mail) for mail in shown if mail.path is not None},
        )

    async def _index(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "0")
        if not after.isdecimal() or len(after) > 12:  # noqa: PLR2004 - as in the routes
            raise web.HTTPBadRequest(text="after: expected the number of a mail")
        answer: dict[str, object] = {
            "count": len(self._mailbox.mails()),
            "recipients": self._mailbox.counts(),
            "repeated": self._mailbox.repeated(),
        }
        if request.query.get("mails") != "false":
            answer["mails"] = [
                {
                    "number": mail.number,
                    "message_id": mail.message_id,
                    "recipients": mail.recipients,
                    "arrived_at": mail.arrived_at.isoformat(),
                }
                for mail in self._mailbox.mails(recipient=request.query.get("to"), after=int(after))
            ]
        return web.json_response(answer)

    async def _mail(self, request: web.Request) -> web.Response:
        mail = self._asked_for(request)
        message = _read(mail)
        text = _part(message, "plain")
        return page(
            "mail.html",
            mail=mail,
            subject=_subject(message),
            headers=[(name, str(value)) for name, value in message.items()],
            has_html=message.get_body(("html",)) is not None,
            text=None if text is None else localised(text, self.base_url),
        )

    async def _html(self, request: web.Request) -> web.Response:
        html = _part(_read(self._asked_for(request)), "html")
        if html is None:
            raise web.HTTPNotFound(text="This mail has no HTML part.")
        html = localised(html, self.base_url)
        head = _HEAD.search(html)
        place = head.end() if head else 0
        return web.Response(
            text=f"{html[:place]}{_NEW_TAB}{html[place:]}", content_type="text/html", headers=guarded(_MAIL_POLICY)
        )

    async def _raw(self, request: web.Request) -> web.Response:
        return web.Response(
            body=_bytes(self._asked_for(request)),
            content_type="message/rfc822",
            headers=guarded("sandbox; default-src 'none'") | {"Content-Disposition": "attachment"},
        )

    def _asked_for(self, request: web.Request) -> Mail:
        mail = self._mailbox.find(int(request.match_info["number"]))
        if mail is None or mail.path is None:
            raise web.HTTPNotFound(text="No such mail was kept in this run.")
        return mail


def _bytes(mail: Mail) -> bytes:
    if mail.path is None:
        raise web.HTTPNotFound(text="Only the index is kept.")
    try:
        return mail.path.read_bytes()
    except FileNotFoundError:
        raise web.HTTPGone(text="The file of this mail was removed.") from None


def _read(mail: Mail) -> EmailMessage:
    return email.message_from_bytes(_bytes(mail), policy=email.policy.default)


def _subject(message: EmailMessage) -> str:
    return str(message.get("Subject", ""))


def _subject_in_list(mail: Mail) -> str:
    try:
        return _subject(_read(mail))
    except web.HTTPGone:
        return "(removed)"


def _part(message: EmailMessage, kind: str) -> str | None:
    body = message.get_body((kind,))
    if body is None:
        return None
    try:
        return str(body.get_content())
    except (LookupError, UnicodeError):  # an unknown character set
        payload = body.get_payload(decode=True)
        return payload.decode("latin-1") if isinstance(payload, bytes) else ""
