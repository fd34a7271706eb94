"""Push messages as customers read them, word for word, in ``golden/``: the title, an empty line, the sentence.

A change of wording shows as a change of those files. Write them again with this command, then read them::

    REWRITE_GOLDEN=1 pytest tests/unit/channels/push/test_golden.py
"""

import os
from itertools import product
from pathlib import Path

import pytest

from worker.channels.push.text import word
from worker.channels.wording.languages import languages

GOLDEN = Path(__file__).parent / "golden"
LOCALES = {"en": "en-US", "es": "es-MX", "fr": "fr-CA"}
BANKS = ("Alder Bank", "Banco del Río & Hijos", "Caisse d'Épargne")
CASES = [
    *product(languages(), ("first", "reminder", "ahead"), ("one", "several")),
    *product(languages(), ("first", "ahead"), ("many",)),
]
COUNTS = {"one": 1, "several": 3, "many": 15}


@pytest.mark.parametrize(("language", "kind", "count"), CASES)
def test_a_push_message_reads_as_it_was_agreed(make_message, language, kind, count):
    banks = (BANKS * 5)[: COUNTS[count]]
    message = make_message(*banks, locale=LOCALES[language], step=2 if kind == "reminder" else 0, ahead=kind == "ahead")
    said = word(message, app="Ledgerly")
    assert said.language == language
    text = f"{said.title}\n\n{said.body}\n"
    path = GOLDEN / f"{language}-{kind}-{count}.txt"
    if os.environ.get("REWRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{path.name}: see this file's docstring"


def test_there_is_no_rendering_of_something_else():
    assert {path.stem for path in GOLDEN.iterdir()} == {"-".join(case) for case in CASES}
