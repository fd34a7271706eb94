"""Pages as answers: status, headers, HTML."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from aiohttp import hdrs, web

from worker.channels.wording.languages import Language
from worker.display_names import shown
from worker.mx.uris import in_ascii
from worker.settings import Settings
from worker.stages.link_page import Page
from worker.web import texts
from worker.web.headers import POLICY, policy_for
from worker.web.wording import banks_of, time_of

#: The default of ``Retry-After``, in seconds.
RETRY_AFTER = 30


class Pages:
    """Makes the answers. If the user's locale is unknown, the browser's ``Accept-Language`` decides."""

    def __init__(self, settings: Settings) -> None:
        """Raises :class:`~worker.errors.SettingsError` for a template that cannot be used."""
        self._texts = texts.texts_for(settings)
        self._app = shown(settings.sender_name)

    def reconnect(
        self,
        request: web.Request,
        page: Page,
        *,
        nonce: str,
        status: int = 200,
        notice: str = "",
        until: datetime | None = None,
        named: str = "",
        retry_after: float | None = None,
    ) -> web.Response:
        """The customer's page; ``notice``: the result of pressing the button."""
        language = self.language(request, page.locale)
        values = texts.reconnect_values(
            banks_of(page, language),
            nonce=nonce,
            notice=notice,
            until=time_of(until, language, page.time_zone) if until else "",
            named=language.isolated(shown(named)),
        )
        return self.page(texts.RECONNECT, language, values, status=status, retry_after=retry_after)

    def leading(self, request: web.Request, uri: str) -> web.Response:
        """A redirect to the bank, with a plain link in its text."""
        uri = in_ascii(uri)
        response = self.page(texts.LEADING, self.language(request), {"uri": uri}, status=303)
        response.headers[hdrs.LOCATION] = uri  # as MX wrote it: aiohttp's own redirect would encode it anew
        return response

    def unknown(self, request: web.Request) -> web.Response:
        """The link is unknown or expired."""
        return self.page(texts.UNKNOWN, self.language(request), {}, status=404)

    def unknown_unsubscribe(self, request: web.Request) -> web.Response:
        """The link of an unsubscribe page is unknown."""
        return self.page(texts.UNKNOWN_UNSUBSCRIBE, self.language(request), {}, status=404)

    def later(self, request: web.Request, *, status: int = 503) -> web.Response:
        """The database is away, or this process fails or is overloaded."""
        return self.page(texts.LATER, self.language(request), {"retry": True}, status=status, retry_after=RETRY_AFTER)

    def busy(self, request: web.Request, seconds: float) -> web.Response:
        """Too many requests."""
        whole = max(round(seconds), 1)
        return self.page(texts.BUSY, self.language(request), {"seconds": whole}, status=429, retry_after=whole)

    def refused(self, request: web.Request, status: int) -> web.Response:
        """A request that none of our pages sends."""
        return self.page(texts.REFUSED, self.language(request), {}, status=status)

    def done(self, request: web.Request, reason: str | None) -> web.Response:
        """The end of OAuth."""
        return self.page(texts.DONE, self.language(request), {"reason": reason})

    def language(self, request: web.Request, locale: str | None = None) -> Language:
        """The language of the answer."""
        return self._texts.language(locale, request.headers.get(hdrs.ACCEPT_LANGUAGE, ""))

    def page(
        self,
        name: str,
        language: Language,
        values: Mapping[str, Any],
        *,
        status: int = 200,
        retry_after: float | None = None,
    ) -> web.Response:
        """A page made of the template ``name``."""
        html = self._texts.render(name, language, language.isolated(self._app), values)
        headers = {hdrs.CONTENT_LANGUAGE: language.tag, POLICY: policy_for(html)}
        if retry_after is not None:
            headers[hdrs.RETRY_AFTER] = str(max(round(retry_after), 1))
        return web.Response(text=html, content_type="text/html", charset="utf-8", status=status, headers=headers)
