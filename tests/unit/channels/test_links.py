"""Every URI that passes the check of MX's answers goes through mails and push messages unchanged, so that no message fails later."""

import json
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

import pytest
import yarl
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.channels.email.conftest import *  # noqa: F403 - its fixtures
from worker.channels.email.message import Composer, Mail
from worker.channels.push.payload import data_for, encode_payload
from worker.mx.uris import check_uri

_TRICKY = "\"'<>&`^{|}\\=;#?%+@:[]()!$*,~ \t\r\n\x00\x7fé中\u200b\u202e\ud800"


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append(dict(attrs).get("href"))


@pytest.mark.parametrize("ahead", [False, True])
def test_a_uri_that_passes_the_check_arrives_in_mails_and_push_messages_as_it_was(
    make_settings: Any, make_message: Any, ahead: bool
) -> None:
    composer = Composer(make_settings())

    @settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
    @given(
        st.builds(
            "{}://bank.example{}".format,
            st.sampled_from(["https", "HTTPS", "Https"]),
            st.text(st.sampled_from(_TRICKY + "aZ09-._/") | st.characters(), max_size=40),
        )
    )
    @example("HTTPS://BANK.EXAMPLE/a")
    @example("https://bank.example/?a=&amp;b='c'&lt;")
    @example("https://bank.example/#{}%7B%22%00%")
    @example("https://bank.example/" + "a" * 8000)
    @example("https://bank.example/{{ 7*7 }}")
    def arrives(uri: str) -> None:
        if check_uri(uri, host_is_allowed=lambda _: True) is not None:
            return
        message = make_message(link=uri, ahead=ahead)
        mail = composer.build(message)
        assert isinstance(mail, Mail)
        parsed = message_from_bytes(mail.content, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        text, page = (parsed.get_body((kind,)) for kind in ("plain", "html"))
        assert text is not None
        assert page is not None
        assert uri in text.get_content().splitlines()
        links = _Links()
        links.feed(page.get_content())
        assert uri in links.found or ahead
        payload = encode_payload(lambda link: data_for(message, link), uri, limit=100_000)
        assert payload is not None
        assert json.loads(payload)["link"] == uri
        one, other = urlsplit(uri), yarl.URL(uri, encoded=True)
        assert (one.path or "/", one.query, one.fragment) == (
            other.raw_path,
            other.raw_query_string,
            other.raw_fragment,
        )

    arrives()
