"""Names from data: invisible characters are removed, characters that a script needs stay, and no name reverses the text beside it."""

import unicodedata
from datetime import UTC, datetime
from functools import cache

import pytest

from worker.channels import Bank, Message
from worker.channels.email.wording import word as email_words
from worker.channels.push.text import word as push_words
from worker.display_names import bdi, isolated, shown

HEBREW, ARABIC = "בנק הפועלים", "البنك الأهلي 24"


@cache
def unseen() -> list[str]:
    """Every character that is invisible, or changes the direction of writing."""
    turning = {"LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI", "BN"}
    return [
        chr(number)
        for number in range(0x110000)
        if unicodedata.category(chr(number)) in {"Cc", "Zl", "Zp", "Cs"}
        or unicodedata.bidirectional(chr(number)) in turning
        or number in {0x034F, 0x061C, 0x115F, 0x1160, 0x200E, 0x200F, 0x2800, 0x3164, 0xFFA0}
        or 0xFE00 <= number <= 0xFE0F
        or 0xE0000 <= number <= 0xE0FFF
    ]


@pytest.mark.parametrize("name", ["Pay{}Pal", "{}PayPal", "PayPal{}", "בנק{}לאומי", "銀{}{}行", "Pay{}{}Pal"])
def test_no_mark_that_nobody_sees_survives_in_a_name(name: str) -> None:
    for mark in unseen():
        if "銀" in name and unicodedata.name(mark, "").startswith("VARIATION SELECTOR"):
            continue  # a Han character may have variants
        assert mark not in shown(name.format(mark, mark)), f"U+{ord(mark):04X}"


@pytest.mark.parametrize(
    "name",
    [
        "Société Générale", "Sparkasse Köln/Bonn", "みずほ銀行", "葛\U000e0100城銀行", HEBREW, ARABIC, "بانک می\u200cخواهم",  # noqa: RUF001
        "क\u094d\u200dष बैंक", "শ\u200d\u09cd\u09af", "Bank ☎\ufe0f", "cafe\u0301",
    ],
)  # fmt: skip
def test_a_name_in_any_script_stays_as_it_is_written(name: str) -> None:
    assert shown(name) == name


def test_a_name_without_end_is_cut() -> None:
    assert len(shown("x" * 5000)) == 100
    assert shown("x" * 5000).endswith("…")


def test_a_name_in_the_other_direction_is_isolated_and_no_other() -> None:
    assert [isolated(name) for name in ("First Bank", "Crédit №1", HEBREW, ARABIC)] == [
        "First Bank", "Crédit №1", f"\u2068{HEBREW}\u2069", f"\u2068{ARABIC}\u2069",
    ]  # fmt: skip
    assert isolated("First Bank", right_to_left=True) == "\u2068First Bank\u2069"
    assert bdi(isolated(f"<{HEBREW}>")) == f"<bdi>&lt;{HEBREW}&gt;</bdi>"


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("count", [1, 2])
def test_what_customers_read_isolates_the_bank_and_the_app(step: int, count: int, ahead: bool) -> None:
    bank = Bank(name=f"\u202e{HEBREW}\u061c", since=datetime(2026, 3, 3, tzinfo=UTC), link="https://bank.example/")
    message = Message(
        key="k", address="a@b.example", locale="en", time_zone=UTC, step=step, banks=(bank,) * count, ahead=ahead
    )
    mail = email_words(message, app=f"{ARABIC}\u200b")
    push = push_words(message, app=f"{ARABIC}\u200b")
    for plain in (mail.subject, mail.text, push.title, push.body):
        for name in (HEBREW, ARABIC):
            assert plain.count(name) == plain.count(f"\u2068{name}\u2069")
    body = mail.html.partition("</head>")[2]
    for name in (HEBREW, ARABIC):
        assert body.count(name) == body.count(f"<bdi>{name}</bdi>") > 0
    for part in (mail.subject, mail.text, mail.html, push.title, push.body):
        assert not set(part) & set("\u202e\u061c\u200b")
