"""Mail scanners of each kind, against a page like the worker's: a form whose POST redirects to the bank."""

import re
from email.message import EmailMessage
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from aiohttp import web

from worker.sandbox.scanning import KINDS, ScanRule, kind_for

BANK = "https://bank-x.sandbox.example/oauth/authorize?client_id=x&state={}"
FORM = '<form method="post"><input type="hidden" name="nonce" value="n1"><button>Reconnect</button></form>'


@pytest.fixture
async def page(sandbox):
    """A page like our own; yields the requests that it got, and its URL."""
    asked = []

    async def handle(request):
        asked.append((request.method, request.path, dict(await request.post())))
        if request.method == "POST":
            raise web.HTTPSeeOther(BANK.format(await sandbox.mint()))
        script = "<script>document.forms[0].submit()</script>" if request.path == "/r/itself" else ""
        return web.Response(text=f"<html><body>{FORM}{script}</body></html>", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield asked, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def send(sandbox, link, *, to="jo@mail.example", unsubscribe=None):
    message = EmailMessage()
    message["Subject"] = "your bank"
    if unsubscribe:
        message["List-Unsubscribe"] = f"<mailto:stop@app.example>, <{unsubscribe}>"
    message.set_content(f"Hello,\n\n{link}\n\n{unsubscribe or ''}\n")
    async with sandbox.smtp() as smtp:
        await smtp.send_message(message, sender="app@app.example", recipients=[to])


@pytest.mark.parametrize(
    ("kind", "did", "consent_pages"),
    [
        ("get", ["GET"], 0),
        ("head", ["HEAD"], 0),
        ("browser", ["GET"], 0),
        ("press", ["GET", "POST"], 1),
    ],
)
async def test_each_kind_does_with_our_page_what_it_says(sandbox, page, kind, did, consent_pages):
    asked, base = page
    await sandbox.control(scan=kind)
    await send(sandbox, f"{base}/r/token")
    assert [method for method, _, _ in asked] == did
    if kind == "press":
        assert asked[-1][2] == {"nonce": "n1"}
    counts = (await sandbox.json("/sandbox/scans.json"))[kind]
    assert (counts["mails"], counts["links"], counts["consent_pages"]) == (1, 1, consent_pages)
    assert (await sandbox.json("/sandbox/ledger"))["windows_minted"] == consent_pages


async def test_a_sandboxed_browser_submits_a_form_that_submits_itself(sandbox, page):
    asked, base = page
    await sandbox.control(scan="browser")
    await send(sandbox, f"{base}/r/itself")
    assert [method for method, _, _ in asked] == ["GET", "POST"]


async def test_a_bot_that_presses_buttons_uses_the_uri_up(sandbox, page):
    _, base = page
    await sandbox.control(scan="press")
    await send(sandbox, f"{base}/r/token")
    assert await sandbox.control(expect=409, consent="MBR-1") == {
        "error": "some consents were refused",
        "refused": {"MBR-1": "the link was already used"},
    }


async def test_no_scanner_signs_in_at_a_bank_or_unsubscribes(sandbox, page):
    asked, base = page
    await sandbox.control(scan="press")
    await send(sandbox, BANK.format(await sandbox.mint()), unsubscribe=f"{base}/u/token")
    assert [method for method, _, _ in asked] == ["GET"]
    assert (await sandbox.member())["connection_status"] == "DENIED"
    assert (await sandbox.json("/sandbox/ledger"))["links_opened"] == 1


async def test_rules_choose_by_address_and_the_first_that_matches_counts(sandbox, page):
    asked, base = page
    await sandbox.control(scan=[{"to": "*@corp.example", "kind": "head"}, {"to": "jo@*", "kind": "get"}])
    for to in ("jo@corp.example", "jo@mail.example", "ann@mail.example"):
        await send(sandbox, f"{base}/r/{to.partition('@')[2]}", to=to)
    assert [(method, path) for method, path, _ in asked] == [("HEAD", "/r/corp.example"), ("GET", "/r/mail.example")]


def test_shares_divide_the_addresses_and_an_address_always_meets_the_same_scanner():
    rules = [ScanRule(kind=kind, share=0.2) for kind in KINDS]
    addresses = [f"person{number}@mail.example" for number in range(2000)]
    found = [kind_for(rules, address) for address in addresses]
    assert found == [kind_for(rules, address.upper()) for address in addresses]
    for kind in (*KINDS, None):
        assert 330 < found.count(kind) < 470


async def test_an_unknown_kind_is_refused_by_name(sandbox):
    answer = await sandbox.control(expect=400, scan="spider")
    assert answer["error"] == "scan: 'spider' is no kind of scanner; known are get, head, browser, press"


@pytest.mark.parametrize("once", [False, True])
async def test_redirects_lead_over_several_hosts_to_the_consent_page(sandbox, once):
    if once:
        await sandbox.control(scan=True)
    await sandbox.control(redirects=4)
    state, hosts = await sandbox.mint(), []
    url = sandbox.url(f"/oauth/authorize?state={state}")
    async with aiohttp.ClientSession() as browser:
        while True:
            async with browser.get(url, allow_redirects=False) as response:
                html, hosts = await response.text(), [*hosts, urlsplit(url).hostname]
                if response.status != 302:
                    break
                url = response.headers["Location"]
        assert (response.status, len(hosts), len(set(hosts)) >= 2) == (200, 5, True)
        async with browser.get(sandbox.url(f"/oauth/authorize?state={state}"), allow_redirects=False) as again:
            assert again.status == (410 if once else 302)
        # With ``once``, only the last page can decide: it holds the session.
        fields = dict(re.findall(r'name="(\w+)" value="(\w+)"', html)) | {"decision": "allow"}
        assert (parse_qs(urlsplit(url).query).get("session") is not None) is once
        async with browser.post(sandbox.url("/oauth/authorize"), data=fields) as outcome:
            assert outcome.status == 200
    assert (await sandbox.member())["connection_status"] == "CONNECTED"


async def test_links_can_be_made_older(sandbox):
    await sandbox.control(link_seconds=900)
    before = await sandbox.mint()
    await sandbox.control(link_age=3600)
    after = await sandbox.mint()
    assert (await sandbox.decide(before))[0] == 410
    assert (await sandbox.decide(after))[0] == 200


async def test_a_referer_that_reaches_a_bank_is_counted(sandbox):
    state = await sandbox.mint()
    for headers in ({}, {"Referer": "https://app.example/r/token?x=1"}):
        async with sandbox.get("/oauth/authorize", params={"state": state}, headers=headers):
            pass
    assert (await sandbox.json("/sandbox/ledger"))["referers"] == {"https://app.example/r/token": 1}
