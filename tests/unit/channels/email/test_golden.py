"""Mails as customers read them, word for word, in ``golden/``.

A change of wording shows as a change of those files. Write them again with this command, then read them::

    REWRITE_GOLDEN=1 pytest tests/unit/channels/email/test_golden.py
"""

import os
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from worker.channels import Bank, DurableLink, Message
from worker.channels.email.wording import word
from worker.channels.wording.languages import languages

GOLDEN = Path(__file__).parent / "golden"
LOCALES = {"en": "en-US", "es": "es-MX", "fr": "fr-CA"}
BANKS = ("Alder Bank", "Banco del Río & Hijos", "Caisse d'Épargne")
CASES = [
    *product(languages(), ("first", "reminder", "ahead"), ("one", "several")),
    *product(languages(), ("first", "ahead"), ("many",)),
    *product(languages(), ("first", "ahead"), ("one", "several", "many"), ("ours",)),
]
COUNTS = {"one": 1, "several": 3, "many": 15}


LINK = DurableLink(
    page="https://reconnect.example.com/r/q83vEjRWeJCrze8SNFZ4kA",
    unsubscribe="https://reconnect.example.com/u/q83vEjRWeJCrze8SNFZ4kA",
    until=datetime(2026, 12, 12, 4, 30, tzinfo=UTC),
)


def rendered(language, kind, count, ours=""):
    banks = tuple(
        Bank(
            name=name,
            since=datetime(2026, 11, 2, 4, 30, tzinfo=UTC) + number * timedelta(days=7),
            link=LINK.page if ours else f"https://bank.example/oauth/authorize?client_id=b8Oi&state=d273e4f7-{number}",
        )
        for number, name in enumerate((BANKS * 5)[: COUNTS[count]])
    )
    message = Message(
        key="golden",
        address="customer@example.com",
        locale=LOCALES[language],
        time_zone=ZoneInfo("America/Toronto"),
        step=2 if kind == "reminder" else 0,
        banks=banks,
        ahead=kind == "ahead",
        link=LINK if ours else None,
    )
    wording = word(message, app="Ledgerly")
    lines = {"subject": wording.subject + "\n", "txt": wording.text, "html": wording.html}
    return {suffix: text.replace("\r\n", "\n") for suffix, text in lines.items()}


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_notice_reads_as_it_was_agreed(case):
    for suffix, text in rendered(*case).items():
        path = GOLDEN / f"{'-'.join(case)}.{suffix}"
        if os.environ.get("REWRITE_GOLDEN"):
            path.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: see this file's docstring"


def test_there_is_no_rendering_of_something_else():
    expected = {"-".join(case) for case in CASES}
    assert {path.stem for path in GOLDEN.iterdir()} == expected
