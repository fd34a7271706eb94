import pytest

from worker.channels.email.addresses import NotAMailbox, parse_mailbox


@pytest.mark.parametrize(
    "address",
    [
        "customer@example.com",
        "first.last+tag@mail.example.com",
        "o'brien@example.com",
        "user@localhost",
        "user@xn--mller-kva.example",
        '"two words"@example.com',
        "a" * 64 + "@example.com",
    ],
)
def test_an_ordinary_mailbox_is_taken_as_it_is(address):
    assert parse_mailbox(address).spec == address


def test_white_space_around_an_address_is_dropped():
    assert parse_mailbox(" customer@example.com\r\n").spec == "customer@example.com"


def test_a_domain_outside_ascii_becomes_idna():
    mailbox = parse_mailbox("jan@MÜLLER.example")
    assert mailbox.spec == "jan@xn--mller-kva.example"
    assert not mailbox.needs_smtputf8


def test_a_local_part_outside_ascii_needs_smtputf8_and_stays_as_it_is():
    mailbox = parse_mailbox("jürgen@müller.example")
    assert mailbox.spec == "jürgen@xn--mller-kva.example"
    assert mailbox.needs_smtputf8


@pytest.mark.parametrize(
    "address",
    [
        "",
        "customer",
        "@example.com",
        "customer@",
        "a@x.example, b@y.example",
        "a@x.example b@y.example",
        "a b@example.com",
        "a@b@example.com",
        "a..b@example.com",
        ".a@example.com",
        "a(comment)@example.com",
        "Name <a@example.com>",
        "<a@example.com>",
        "a@example.com>\r\nRCPT TO:<b@example.com",
        "a@example.com\r\nBcc: b@example.com",
        "a\x00@example.com",
        "a@exam\x00ple.com",
        "a\u2028@example.com",
        "jürgen\u2028@example.com",
        "\ud800@example.com",
        "a@\ud800.example",
        "a@-example.com",
        "a@example..com",
        "a@example.com.",
        "a@[127.0.0.1]",
        "a@" + "x" * 64 + ".example",
        "a@" + "ü" * 64 + ".example",
        "a" * 65 + "@example.com",
        "a@" + ".".join(["x" * 60] * 5),
    ],
)
def test_what_is_not_exactly_one_mailbox_is_refused_without_being_quoted(address):
    with pytest.raises(NotAMailbox) as refused:
        parse_mailbox(address)
    assert "example" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_a_mailbox_shows_no_address():
    assert "customer" not in repr(parse_mailbox("customer@example.com"))
