import email
import email.policy
import re
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.headerregistry import Address

import pytest

from worker.channels import BadAddress, Bank, Failed
from worker.channels.email.message import Composer, Mail, message_id
from worker.errors import SettingsError

NOW = datetime(2026, 3, 4, 9, 0, tzinfo=UTC)


@pytest.fixture
def compose(make_settings, make_message):
    def compose(*, settings=None, **message):
        mail = Composer(make_settings(**settings or {})).build(make_message(**message), now=NOW)
        assert isinstance(mail, Mail)
        return mail

    return compose


def parse(mail):
    return email.message_from_bytes(mail.content, policy=email.policy.SMTPUTF8)


def body(mail, kind):
    return parse(mail).get_body((kind,)).get_content()


def header_lines(mail):
    """Headers as they go on the wire, folded lines included."""
    return mail.content.partition(b"\r\n\r\n")[0].split(b"\r\n")


def test_a_mail_is_text_first_then_html(compose):
    mail = parse(compose())
    assert mail.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    assert not mail.defects
    assert not [defect for part in mail.walk() for defect in part.defects]


def test_the_headers_of_a_good_transactional_mail(compose):
    mail = parse(compose())
    assert mail["From"] == "Acme <no-reply@acme.example>"
    assert mail["Reply-To"] == "help@acme.example"
    assert mail["To"] == "customer@example.com"
    assert mail["Subject"] == "Acme no longer receives data from First Bank"
    assert mail["Date"].datetime == NOW
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["List-Unsubscribe"] == "<mailto:help@acme.example?subject=unsubscribe>"
    assert mail["List-Unsubscribe-Post"] is None
    assert mail["Content-Language"] == "en"
    assert mail["MIME-Version"] == "1.0"
    assert len(mail.keys()) == len(set(mail.keys()))


def test_without_a_reply_to_the_sender_takes_unsubscriptions(compose):
    mail = parse(compose(settings={"email_reply_to": None}))
    assert mail["Reply-To"] is None
    assert mail["List-Unsubscribe"] == "<mailto:no-reply@acme.example?subject=unsubscribe>"


@pytest.mark.parametrize("length", [1, 10, 13, 14, 15, 60])
def test_a_list_unsubscribe_of_any_length_stays_readable(compose, length):
    address = "u" * length + "+x@acme.example"
    mail = compose(settings={"email_reply_to": address})
    raw = mail.content.decode("ascii")
    assert parse(mail)["List-Unsubscribe"].strip() == f"<mailto:{address.replace('+', '%2B')}?subject=unsubscribe>"
    assert "List-Unsubscribe: =?" not in raw
    assert all(len(line) <= 78 or line.startswith(b" <mailto:") for line in header_lines(mail) if b"mailto" in line)


def test_the_message_id_belongs_to_the_key_and_the_senders_domain(compose):
    first, defer, other = compose(), compose(), compose(key="episode-7/1/email")
    assert parse(first)["Message-ID"] == parse(defer)["Message-ID"] != parse(other)["Message-ID"]
    assert parse(first)["Message-ID"] == message_id("episode-7/0/email", "acme.example")
    assert re.fullmatch(r"<[0-9a-f]{32}@acme\.example>", parse(first)["Message-ID"])


def test_the_same_message_gives_the_same_bytes(compose):
    assert compose().content == compose().content


@pytest.mark.parametrize("part", ["plain", "html"])
def test_no_part_of_a_mail_has_long_lines_or_bare_line_ends(compose, uri, part):
    content = compose(link=uri + "&more=" + "x" * 3000).content
    assert max(len(line) for line in content.split(b"\r\n")) <= 78
    assert content.count(b"\n") == content.count(b"\r") == content.count(b"\r\n")
    assert content.isascii()


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "&x=" + "a" * 2000,
        "&q==3D=20=",
        "&dots=" + "." * 300,
        "&dash=" + "-" * 100,
        "&u=ü✓",
        "&s='`{}|\\^[]",
        "%0D%0A.",
    ],
)
def test_the_uri_survives_byte_for_byte_in_both_parts(compose, uri, tail):
    mail = compose(link=uri + tail)
    assert uri + tail in body(mail, "plain").splitlines()
    href = re.search(r'<a href="([^"]*)"', body(mail, "html"))[1]
    assert href.replace("&#39;", "'").replace("&amp;", "&") == uri + tail


def test_a_uri_with_the_boundary_in_it_ends_no_part(compose, uri):
    mail = compose(link=uri + "&b=--=_reconnect--")
    assert uri + "&b=--=_reconnect--" in body(mail, "plain").splitlines()
    assert len(list(parse(mail).iter_parts())) == 2


@pytest.mark.parametrize(
    "link",
    [
        "",
        "javascript:alert(1)",
        "data:text/html,x",
        "bank.example/oauth",
        "https://",
        "https://bank.example/\r\nhttps://evil.example/",
        "https://bank.example/ x",
        "https://bank.example/\x00",
        "https://bank.example/\u2028x",
        "https://bank.example/\ud800",
        'https://bank.example/"><script>',
    ],
)
def test_a_link_that_would_break_out_of_its_line_is_not_sent(make_settings, make_message, link):
    assert Composer(make_settings()).build(make_message(link=link)) == Failed(code="link_unusable")


def test_a_message_about_nothing_is_not_sent(make_settings, make_message):
    assert Composer(make_settings()).build(make_message(banks=())) == Failed(code="no_banks")


@pytest.mark.parametrize("address", ["", "nobody", "a@x.example, b@y.example", "a@x.example\r\nBcc: b@y.example"])
def test_an_address_that_is_not_one_mailbox_is_a_bad_address(make_settings, make_message, address):
    assert Composer(make_settings()).build(make_message(address=address)) == BadAddress(code="address_syntax")


def test_an_idn_domain_is_written_in_ascii(compose):
    mail = compose(address="jan@müller.example")
    assert mail.recipient.spec == "jan@xn--mller-kva.example"
    assert parse(mail)["To"] == "jan@xn--mller-kva.example"
    assert mail.content.isascii()


def test_a_local_part_outside_ascii_is_written_in_utf8(compose):
    mail = compose(address="jürgen@müller.example")
    assert mail.recipient.needs_smtputf8
    assert "\r\nTo: jürgen@xn--mller-kva.example\r\n".encode() in mail.content


@pytest.mark.parametrize(
    "injected",
    ["\r\nBcc: evil@evil.example", "\nBcc: evil@evil.example", "\r\n\r\nbody", "\x00", "\x85Bcc: x", "\u2028Bcc: x"],
)
def test_nothing_can_be_injected_into_a_header(compose, injected):
    mail = compose(bank="Bank" + injected)  # APP_NAME with such a character is refused when settings load
    parsed = parse(mail)
    assert parsed["Bcc"] is None
    assert parsed["From"].addresses[0].addr_spec == "no-reply@acme.example"
    assert "\x00" not in mail.content.decode()
    assert [part.get_content_type() for part in parsed.iter_parts()] == ["text/plain", "text/html"]


@pytest.mark.parametrize(
    "name",
    ['Acme "Money", Inc.', "Ácme Móney", "Acme <evil@evil.example>", "a@b, c@d", "=?utf-8?q?Bank?=", "日本の銀行" * 15],
)
def test_a_name_of_any_kind_stays_the_name_of_the_one_sender(compose, name):
    mail = compose(settings={"app_name": name}, bank=name)
    sender = parse(mail)["From"].addresses
    assert [address.addr_spec for address in sender] == ["no-reply@acme.example"]
    words = email.message_from_bytes(mail.content)["From"].rpartition(" <")[0]
    assert str(make_header(decode_header(words))).strip('"').replace('\\"', '"') == name
    assert parse(mail)["Subject"] == f"{name} no longer receives data from {name}"
    assert max(len(line) for line in header_lines(mail)) <= 78


def test_a_long_sender_is_folded_and_not_encoded(compose):
    address = "a-very-long-local-part-that-somebody-chose@" + "a-long-label." * 5 + "example"
    mail = compose(settings={"email_from": address, "app_name": "Acme Money and Savings, Incorporated"})
    assert parse(mail)["From"].addresses == (
        Address(display_name="Acme Money and Savings, Incorporated", addr_spec=address),
    )
    assert address.encode() in mail.content


def test_a_long_subject_outlives_its_folding(compose):
    bank = "The Honourable Company of Merchants Trading into the East, Savings and Loans " + "é" * 20
    assert parse(compose(bank=bank))["Subject"] == f"Acme no longer receives data from {bank}"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("email_from", "jürgen@acme.example"),
        ("email_reply_to", "jürgen@acme.example"),
        ("email_from", "x y@acme.example"),
    ],
)
def test_a_sender_that_servers_refuse_is_a_settings_error(make_settings, setting, value):
    with pytest.raises(SettingsError, match=setting.upper()) as refused:
        Composer(make_settings(**{setting: value}))
    assert "acme" not in str(refused.value)


def test_a_sender_with_an_idn_domain_is_written_in_ascii(compose):
    mail = compose(settings={"email_from": "Acme <no-reply@müller.example>"})
    assert mail.sender.spec == "no-reply@xn--mller-kva.example"
    assert parse(mail)["Message-ID"].endswith("@xn--mller-kva.example>")


def test_a_mail_shows_neither_address_nor_link(compose):
    assert "example" not in repr(compose())


def test_a_mail_about_three_thousand_banks_names_ten_and_stays_small(compose, uri):
    since = datetime(2026, 3, 3, 12, tzinfo=UTC)
    banks = tuple(Bank(name=f"Bank {number}", since=since, link=f"{uri}&n={number}") for number in range(3_000))
    for mail in (compose(banks=banks), compose(banks=banks[:10], more=2_990)):
        assert len(mail.content) < 64 * 1024
        parsed = parse(mail)
        assert "3000" in parsed["Subject"]
        for kind in ("plain", "html"):
            text = parsed.get_body((kind,)).get_content()
            assert [f"n={number}" in text for number in range(12)] == [True] * 10 + [False] * 2
            assert "2990 more" in text
