"""What the simulated customers and link scanners of the sandbox read from a page."""

import pytest

from worker.sandbox.browsing import Seen, is_loopback

PAGE = """<form method="post"><input type="hidden" name="nonce" value="a&amp;b"><input name="seen" type="text">
<button>Reconnect</button></form>
<form action="/again"><button name="decision" value="allow">Allow</button><button type="button">no</button></form>"""


def seen(html, url="http://127.0.0.1:1/r/token", status=200):
    return Seen(url=url, status=status, html=html)


def test_a_form_goes_to_its_own_page_with_its_hidden_fields_and_the_button_that_was_pressed():
    first, second = seen(PAGE).forms()
    assert (first.method, first.url, first.filled()) == ("POST", "http://127.0.0.1:1/r/token", {"nonce": "a&b"})
    assert (second.method, second.url, second.filled()) == ("GET", "http://127.0.0.1:1/again", {"decision": "allow"})


@pytest.mark.parametrize(
    ("html", "itself"),
    [
        (PAGE, False),
        ('<body onload="document.forms[0].submit()">', True),
        ("<script>document.forms[0].submit()</script>", True),
        ("<p>document.forms[0].submit()</p>", False),
    ],
)
def test_only_a_script_submits_a_form_by_itself(html, itself):
    assert seen(html).submits_itself is itself


@pytest.mark.parametrize(
    ("content", "target"),
    [("0; url=https://bank.example/?a=b", "https://bank.example/?a=b"), ("0;URL='/next'", "/next"), ("30", None)],
)
def test_a_refresh_leads_on(content, target):
    assert seen(f'<meta http-equiv="Refresh" content="{content}">').refresh == target


def test_a_page_of_a_bank_that_refuses_is_no_consent_page():
    bank = "http://127.0.0.1:1/oauth/authorize?state=x"
    assert seen(PAGE, bank).is_consent_page
    assert not seen(PAGE, bank, status=410).is_consent_page
    assert not seen("", bank).is_consent_page
    assert not seen(PAGE).is_consent_page


def test_nothing_of_a_link_stands_in_its_representation():
    assert "token" not in repr(seen(PAGE)) + repr(seen(PAGE).forms())


@pytest.mark.parametrize(
    ("url", "is_ours"),
    [
        ("http://127.0.0.1:8080/r/x", True),
        ("http://localhost:8080/", True),
        ("http://[::1]:8080/", True),
        ("https://reconnect.example/r/x", False),
        ("http://127.0.0.1.evil.example/", False),
        ("http://[::1/", False),
        ("ourapp://127.0.0.1/", False),
    ],
)
def test_nothing_outside_of_this_machine_is_opened(url, is_ours):
    assert is_loopback(url) is is_ours
