"""Mail in the browser: links lead to the sandbox, and no script in a mail runs."""

import re
from email.message import EmailMessage
from html import unescape

import pytest

from worker.sandbox.oauth_uris import localised, window_uri


async def deliver(sandbox, *, text="Hello", html=None, subject="Reconnect Acme", to="ann@customers.example"):
    message = EmailMessage()
    message["From"] = "Our App <bank@app.example>"
    message["To"] = to
    message["Subject"] = subject
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    async with sandbox.smtp() as client:
        await client.send_message(message)


async def page(sandbox, path):
    async with sandbox.get(path, headers={}) as response:
        assert response.status == 200, await response.text()
        return await response.text(), response.headers


async def test_mails_are_listed_newest_first(sandbox):
    assert "No mail yet" in (await page(sandbox, "/sandbox/mail"))[0]
    await deliver(sandbox, subject="The first")
    await deliver(sandbox, subject="The <second>", to="ben@customers.example")
    text, _ = await page(sandbox, "/sandbox/mail")
    assert text.index("The &lt;second&gt;") < text.index("The first")
    assert "ann@customers.example" in text
    only, _ = await page(sandbox, "/sandbox/mail?to=ben@customers.example")
    assert "The first" not in only


async def test_the_front_leads_to_the_mail(sandbox):
    async with sandbox.get("/", headers={}) as response:
        assert (response.status, response.headers["Location"]) == (303, "/sandbox/mail")


async def test_a_person_can_click_through_from_mail_to_bank(sandbox):
    _, body = await sandbox.window()
    uri = body["member"]["oauth_window_uri"]
    await deliver(
        sandbox,
        text=f"Reconnect: {uri}\n",
        html=f'<html><head><title>x</title></head><body><a href="{uri.replace("&", "&amp;")}">Reconnect</a></body></html>',
    )
    html, _ = await page(sandbox, "/sandbox/mail/1/html")
    text, _ = await page(sandbox, "/sandbox/mail/1")
    assert "sandbox.example/oauth/authorize" not in html
    for shown in (html, text):
        link = unescape(re.search(r'href="(http://127[^"]+)"', shown)[1])
        assert link.startswith(f"{sandbox.addresses.base_url}/oauth/authorize?client_id=")
        async with sandbox.http.get(link) as response:
            assert response.status == 200
            state = re.search(r'name="state" value="([0-9a-f]{32})"', await response.text())[1]
    assert (await sandbox.decide(state))[0] == 200
    assert (await sandbox.member())["connection_status"] == "CONNECTED"


async def test_links_leave_the_frame(sandbox):
    await deliver(sandbox, html="<html><head></head><body>Hi</body></html>")
    html, _ = await page(sandbox, "/sandbox/mail/1/html")
    assert '<head><base target="_blank"></head>' in html


async def test_no_script_of_a_mail_runs(sandbox):
    evil = "<script>alert(1)</script>"
    await deliver(sandbox, text=f"text {evil}", html=f"<p onclick='x()'>{evil}</p>", subject=f"subject {evil}")
    shown, headers = await page(sandbox, "/sandbox/mail/1")
    assert "<script" not in shown
    assert "script-src" not in headers["Content-Security-Policy"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    frame = re.search(r"<iframe [^>]*>", shown)[0]
    assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in frame
    # The HTML opened by itself is protected by its own headers.
    _, headers = await page(sandbox, "/sandbox/mail/1/html")
    policy = [part.split() for part in headers["Content-Security-Policy"].split(";")]
    assert ["sandbox", "allow-popups", "allow-popups-to-escape-sandbox"] in policy
    assert ["default-src", "'none'"] in policy
    assert not any(part[0].startswith("script-src") for part in policy)
    assert headers["X-Content-Type-Options"] == "nosniff"


async def test_a_link_in_the_text_cannot_run_script_either(sandbox):
    await deliver(sandbox, text='javascript:alert(1) https://a.example/"onmouseover="x <b>bold</b>')
    shown, _ = await page(sandbox, "/sandbox/mail/1")
    assert 'href="javascript' not in shown
    assert "<b>" not in shown
    assert '"onmouseover' not in shown


async def test_headers_and_source_can_be_seen(sandbox):
    await deliver(sandbox, subject="Grüße", text="Äpfel")
    shown, _ = await page(sandbox, "/sandbox/mail/1")
    assert "<title>Grüße</title>" in shown
    assert "Äpfel" in shown
    assert "Our App &lt;bank@app.example&gt;" in shown
    assert "<iframe" not in shown
    source, headers = await page(sandbox, "/sandbox/mail/1.eml")
    assert "Subject: =?utf-8?" in source
    assert headers["Content-Type"] == "message/rfc822"
    assert headers["Content-Disposition"] == "attachment"


@pytest.mark.parametrize("path", ["/sandbox/mail/1", "/sandbox/mail/1/html", "/sandbox/mail/1.eml", "/sandbox/mail/0"])
async def test_a_mail_that_never_came_is_not_found(sandbox, path):
    async with sandbox.get(path, headers={}) as response:
        assert response.status == 404


async def test_a_mail_without_html_has_no_html_page(sandbox):
    await deliver(sandbox)
    async with sandbox.get("/sandbox/mail/1/html", headers={}) as response:
        assert response.status == 404


async def test_a_mail_whose_file_was_removed_is_told_so(sandbox):
    await deliver(sandbox)
    next(sandbox.mail_dir.iterdir()).unlink()
    assert "(removed)" in (await page(sandbox, "/sandbox/mail"))[0]
    async with sandbox.get("/sandbox/mail/1", headers={}) as response:
        assert response.status == 410


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("https://bank-acme.sandbox.example/oauth?a=1&b=2", "http://here/oauth?a=1&b=2"),
        ("HTTPS://Bank-Acme.Sandbox.Example/oauth", "http://here/oauth"),
        ("(https://a.b.sandbox.example/x)", "(http://here/x)"),
        ("https://bank.sandbox.example//evil.example/", "https://bank.sandbox.example//evil.example/"),
        ("https://bank.sandbox.example@evil.example/", "https://bank.sandbox.example@evil.example/"),
        ("https://bank.sandbox.example.evil.example/", "https://bank.sandbox.example.evil.example/"),
        ("https://notsandbox.example/x", "https://notsandbox.example/x"),
        ("https://app.example/r/abc", "https://app.example/r/abc"),
    ],
)
def test_only_links_to_simulated_banks_are_led_here(text, local):
    assert localised(text, "http://here") == local


def test_a_bank_of_any_code_has_a_proper_host_name():
    for code in ("mx_bank_oauth", "Crédit Été", "___", "x" * 200):
        host = window_uri(code, "0" * 32).split("/")[2]
        assert re.fullmatch(r"bank(-[a-z0-9]+)*\.sandbox\.example", host)
        assert max(map(len, host.split("."))) <= 63
