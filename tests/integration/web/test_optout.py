"""Unsubscribing: the one-click POST of a mailbox provider, and the page, which can undo each choice."""

from typing import Any

import pytest

from tests.integration.stages.links import link, linked, message, reconnection
from tests.integration.web.conftest import Html
from worker.policy.links import new_token

URLENCODED = b"List-Unsubscribe=One-Click"
MULTIPART = b'--b\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--b--\r\n'

sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def _opted_out(bench: Any) -> bool:
    return bool(await bench.one("SELECT count(*) FROM users WHERE opted_out_at IS NOT NULL"))


@pytest.mark.parametrize(
    ("body", "kind"),
    [(URLENCODED, "application/x-www-form-urlencoded"), (MULTIPART, "multipart/form-data; boundary=b")],
)
async def test_one_click_of_a_mailbox_provider_opts_out(site_for: Any, body: bytes, kind: str) -> None:
    site = await site_for()
    token, _ = await linked(site.bench)
    for method in ("GET", "HEAD"):  # as scanners do
        response, _ = await site.ask(method, f"/u/{token}?List-Unsubscribe=One-Click")
        assert response.status == 200
    await site.ask("POST", f"/u/{token}", data=b"", headers={"Content-Type": kind})
    assert not await _opted_out(site.bench)
    for _ in range(2):
        response, text = await site.ask(
            "POST", f"/u/{token}", data=body, headers={"Content-Type": kind, "Origin": "https://mail.example"}
        )
        assert (response.status, "Set-Cookie" in response.headers) == (200, False)
        assert await _opted_out(site.bench)
        Html(text).check()
    assert (await site.page(f"/r/{token}")).buttons == ["Reconnect Bank ann"]  # the link still works


@sqlite
async def test_the_page_takes_back_what_it_did(site_for: Any) -> None:
    site = await site_for()
    ids = [await reconnection(site.bench, "ann"), await reconnection(site.bench, "bo", user="ann")]
    token = await link(site.bench, "ann", await message(site.bench, "ann", *ids), days=-1)  # an expired link
    path = f"/u/{token}"

    async def press(name: str) -> Html:
        form = page.forms[page.buttons.index(name)]
        response, text = await site.ask("POST", path, data={n: v for n, v in form.items() if n != "method"})
        assert response.status == 200
        Html(text).check()
        return Html(text)

    page = await site.page(path)
    stop_one, stop_all = "Stop messages about Bank bo", "Stop all messages"
    assert page.buttons == ["Stop messages about Bank ann", stop_one, stop_all]
    page = await press(stop_one)
    assert "You get no more messages about" in page.source
    assert await site.bench.one("SELECT count(*) FROM members WHERE muted_at IS NOT NULL") == 1
    assert not await _opted_out(site.bench)
    page = await press("Send me messages about Bank bo again")
    assert await site.bench.one("SELECT count(*) FROM members WHERE muted_at IS NOT NULL") == 0
    page = await press(stop_all)
    assert page.h1 == "You get no more messages from Ledgerly about your connections"
    assert page.buttons == ["Send me messages again"]
    assert await _opted_out(site.bench)
    page = await press("Send me messages again")
    assert page.buttons == ["Stop messages about Bank ann", stop_one, stop_all]
    assert not await _opted_out(site.bench)
    for form in ({"choice": "bank", "member": "MBR-somebody"}, {"choice": "nonsense"}, {"choice": "bank"}):
        assert (await site.ask("POST", path, data=form))[0].status == 200
    assert not await _opted_out(site.bench)
    assert await site.bench.one("SELECT count(*) FROM members WHERE muted_at IS NOT NULL") == 0
    for language in ("es", "fr"):
        assert (await site.page(path, language=language)).lang == language


@sqlite
async def test_an_unknown_token_says_how_else(site_for: Any) -> None:
    site = await site_for()
    for method, body in (("GET", None), ("POST", URLENCODED)):
        path = f"/u/{new_token(site.bench.runtime.rng)}"
        response, text = await site.ask(method, path, data=body)
        assert response.status == 404
        Html(text).check()
        assert 'with the word "unsubscribe"' in " ".join("".join(Html(text).texts["p"]).split())
