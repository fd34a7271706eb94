"""The consent page: opening it changes nothing, and a decision counts once."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from html import escape
from urllib.parse import parse_qs, urlsplit

import pytest


async def aggregated(sandbox):
    """The member after MX has aggregated it."""
    async with asyncio.timeout(60):
        while (member := await sandbox.member())["is_being_aggregated"]:  # noqa: ASYNC110 - the sandbox has no event for it
            await asyncio.sleep(0.02)
    return member


async def test_looking_at_the_page_changes_nothing(sandbox):
    state = await sandbox.mint()
    for _ in range(3):
        async with sandbox.get("/oauth/authorize", params={"state": state}, headers={}) as response:
            page = await response.text()
            assert response.status == 200
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["Referrer-Policy"] == "no-referrer"
    assert "MX Bank (OAuth)" in page
    assert ">Allow</button>" in page
    assert (await sandbox.member())["connection_status"] == "DENIED"
    assert (await sandbox.json("/sandbox/ledger"))["states_used"] == 0


async def test_allowing_connects_and_then_aggregates(start, member):
    sandbox = await start([member()], aggregation_seconds=4)
    began = datetime.now(UTC)
    state = await sandbox.mint()
    status, page, _ = await sandbox.decide(state)
    assert (status, "Connected" in page) == (200, True)
    at_once = await sandbox.member()
    assert at_once["connection_status"] == "CONNECTED"
    assert at_once["is_being_aggregated"] is True
    assert datetime.fromisoformat(at_once["successfully_aggregated_at"]) < began - timedelta(days=30)
    later = await aggregated(sandbox)
    assert datetime.fromisoformat(later["successfully_aggregated_at"]) > began
    assert later["connection_status"] == "CONNECTED"


async def test_without_aggregation_the_last_time_stays_as_it_was(sandbox):
    before = await sandbox.member()
    await sandbox.decide(await sandbox.mint(skip_aggregation="true"))
    after = await sandbox.member()
    assert after["connection_status"] == "CONNECTED"
    assert after["is_being_aggregated"] is False
    assert after["successfully_aggregated_at"] == before["successfully_aggregated_at"]


async def test_a_second_use_says_that_the_link_was_used(sandbox):
    state = await sandbox.mint()
    await sandbox.decide(state)
    status, page, _ = await sandbox.decide(state)
    assert status == 410
    assert "This link was already used" in page
    async with sandbox.get("/oauth/authorize", params={"state": state}, headers={}) as response:
        assert response.status == 410
        assert "This link was already used" in await response.text()
    assert (await sandbox.json("/sandbox/ledger"))["states_used"] == 1


async def test_of_many_presses_at_once_one_counts(sandbox):
    state = await sandbox.mint()
    results = await asyncio.gather(*(sandbox.decide(state) for _ in range(20)))
    assert sorted(status for status, _, _ in results) == [200] + [410] * 19


async def test_a_denial_leaves_the_member_broken_and_uses_the_link_up(sandbox):
    state = await sandbox.mint()
    status, page, _ = await sandbox.decide(state, "deny")
    assert (status, "Not connected" in page) == (200, True)
    assert (await sandbox.member())["connection_status"] == "DENIED"
    assert (await sandbox.decide(state))[0] == 410
    assert (await sandbox.member())["connection_status"] == "DENIED"


async def test_an_older_link_of_the_same_member_stays_good(sandbox):
    older, _newer = await sandbox.mint(), await sandbox.mint()
    assert (await sandbox.decide(older))[0] == 200
    assert (await sandbox.member())["connection_status"] == "CONNECTED"


async def test_an_unknown_link_is_not_found(sandbox):
    async with sandbox.get("/oauth/authorize", params={"state": "0" * 32}, headers={}) as response:
        assert response.status == 404
    assert (await sandbox.decide("0" * 32))[0] == 404
    async with sandbox.get("/oauth/authorize", headers={}) as response:
        assert response.status == 404


async def test_a_form_without_a_decision_changes_nothing(sandbox):
    state = await sandbox.mint()
    assert (await sandbox.decide(state, "perhaps"))[0] == 400
    assert (await sandbox.decide(state))[0] == 200


async def test_a_redirect_url_is_followed_with_the_outcome(sandbox):
    app = {"referral_source": "APP", "client_redirect_url": "https://app.example/done?from=mail"}
    status, _, headers = await sandbox.decide(await sandbox.mint(**app))
    target = urlsplit(headers["Location"])
    assert status == 303
    assert (target.netloc, target.path) == ("app.example", "/done")
    assert parse_qs(target.query) == {"from": ["mail"], "status": ["success"], "member_guid": ["MBR-1"]}


async def test_a_denial_is_redirected_as_an_error(sandbox):
    app = {"referral_source": "APP", "client_redirect_url": "ourapp://oauth"}
    status, _, headers = await sandbox.decide(await sandbox.mint(**app), "deny")
    assert status == 303
    assert headers["Location"] == "ourapp://oauth?status=error&member_guid=MBR-1&error_reason=DENIED"


async def test_a_bank_name_cannot_bring_markup_into_the_page(start, member):
    sandbox = await start([member(institution_name="<script>alert(1)</script>")])
    async with sandbox.get("/oauth/authorize", params={"state": await sandbox.mint()}, headers={}) as response:
        page = await response.text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


async def opened(sandbox, state):
    """Open a link as a browser or a scanner does; returns status and page."""
    async with sandbox.get("/oauth/authorize", params={"state": state}, headers={}) as response:
        return response.status, await response.text()


async def mailed(sandbox, state):
    """Send a mail with the link of a window in its text and in its HTML."""
    link = f"https://bank-x.sandbox.example/oauth/authorize?client_id=x&state={state}"
    message = EmailMessage()
    message["Subject"] = "your bank"
    message.set_content(f"Hello,\n\n{link}\n\nhttps://elsewhere.example/?never=opened\n")
    message.add_alternative(f'<a href="{escape(link)}">Reconnect</a>', subtype="html")
    async with sandbox.smtp() as smtp:
        await smtp.send_message(message, sender="app@app.example", recipients=["jo@mail.example"])


async def test_a_scanner_uses_the_link_of_a_mail_up_before_the_customer_sees_it(sandbox):
    before, after = await sandbox.mint(), await sandbox.mint()
    await mailed(sandbox, before)
    assert (await sandbox.json("/sandbox/ledger"))["links_opened"] == 0
    await sandbox.control(scan=True)
    await mailed(sandbox, after)
    assert (await sandbox.json("/sandbox/ledger"))["links_opened"] == 1
    status, page = await opened(sandbox, after)
    assert (status, "somebody has opened this one already" in page) == (410, True)
    assert (await sandbox.decide(after))[0] == 410
    assert await sandbox.control(expect=409, consent="MBR-1") == {
        "error": "some consents were refused",
        "refused": {"MBR-1": "the link was already used"},
    }
    await sandbox.control(scan=False)
    assert (await opened(sandbox, before))[0] == 200
    assert (await sandbox.decide(before))[0] == 200


@pytest.mark.parametrize("how", ["by control", "by script"])
async def test_whoever_opens_a_link_first_may_decide_and_nobody_else(start, member, how):
    sandbox = await start([member("MBR-1", *(["scan"] if how == "by script" else []))])
    if how == "by control":
        await sandbox.control(scan=True)
    state = await sandbox.mint()
    status, page = await opened(sandbox, state)
    assert status == 200
    session = re.search(r'name="session" value="(\w+)"', page)[1]
    assert (await opened(sandbox, state))[0] == 410
    assert (await sandbox.decide(state))[0] == 410
    form = {"state": state, "decision": "allow", "session": session}
    async with sandbox.http.post(sandbox.url("/oauth/authorize"), data=form) as response:
        assert response.status == 200
    assert (await sandbox.member())["connection_status"] == "CONNECTED"


@pytest.mark.parametrize("how", ["by control", "by script"])
async def test_a_link_expires(start, member, how):
    sandbox = await start([member("MBR-1", *(["link_seconds:0", "ok"] if how == "by script" else []))])
    state = await sandbox.mint()
    if how == "by control":
        await sandbox.control(link_seconds=0)
    for status, page in (await opened(sandbox, state), (await sandbox.decide(state))[:2]):
        assert (status, "This link has expired" in page) == (410, True)
    if how == "by control":
        await sandbox.control(link_seconds=None)
        assert (await opened(sandbox, state))[0] == 200
    else:
        assert (await opened(sandbox, await sandbox.mint()))[0] == 200
