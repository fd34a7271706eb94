"""Every language has all sentences, writes dates as its country does, and is chosen by the user's locale."""

import re
from datetime import date
from importlib.resources import files
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.pofile import read_po

import worker.channels
from worker.channels.wording.languages import SOURCE, has_language, language_for, languages

PACKAGE = Path(worker.channels.__file__).parents[1]
TRANSLATED = [tag for tag in languages() if tag != SOURCE]


def catalogue_of(tag):
    with (files("worker.channels.wording") / f"{tag}.po").open("rb") as file:
        return read_po(file, locale=tag, abort_invalid=True)


def extracted():
    with (PACKAGE / "channels" / "wording" / "catalogue.cfg").open() as file:
        mapping, options = parse_mapping_cfg(file)
    found = Catalog()
    for _, _, message, _, _ in extract_from_dir(PACKAGE, mapping, options):
        found.add(message)
    return {message.id for message in found if message.id}


@pytest.mark.parametrize(
    ("locale", "tag"),
    [
        ("fr-CA", "fr"),
        ("fr_CA", "fr"),
        ("FR", "fr"),
        ("fr-Latn-CA-x-private", "fr"),
        ("es-419", "es"),
        ("es-MX", "es"),
        ("en-GB", "en"),
        ("de-AT", "en"),
        ("frx", "en"),
        ("", "en"),
        (None, "en"),
        ("\x00", "en"),
        ("../../etc/passwd", "en"),
        ("-" * 500, "en"),
    ],
)
def test_a_locale_falls_back_to_its_language_and_then_to_english(locale, tag):
    assert language_for(locale).tag == tag


@pytest.mark.parametrize(
    ("locale", "default", "tag"),
    [("de", "es", "es"), (None, "fr-CA", "fr"), ("fr", "es", "fr"), ("en-GB", "es", "en"), ("de", "ja", "en")],
)
def test_a_default_serves_those_whose_language_there_is_not(locale, default, tag):
    assert language_for(locale, default=default).tag == tag


@pytest.mark.parametrize(
    ("locale", "says"),
    [
        ("en", "1 March 2026"),
        (None, "1 March 2026"),
        ("en-US", "March 1, 2026"),
        ("en-CA", "March 1, 2026"),
        ("en-GB", "1 March 2026"),
        ("en-ZZ", "1 March 2026"),
        ("de-DE", "1 March 2026"),
        ("es", "1 de marzo de 2026"),
        ("es-MX", "1 de marzo de 2026"),
        ("es-419", "1 de marzo de 2026"),
        ("fr", "1er mars 2026"),
        ("fr-CA", "1er mars 2026"),
    ],
)
def test_a_date_is_written_as_in_the_customers_country(locale, says):
    assert language_for(locale).date(date(2026, 3, 1)) == says


def test_only_the_first_of_a_month_is_an_ordinal_in_french():
    assert language_for("fr").date(date(2026, 3, 21)) == "21 mars 2026"


def test_a_default_of_a_country_writes_that_countrys_dates():
    assert language_for(None, default="en-US").date(date(2026, 3, 1)) == "March 1, 2026"
    assert language_for("de-DE", default="en-US").date(date(2026, 3, 1)) == "March 1, 2026"


def test_there_are_english_spanish_and_french():
    assert {"en", "es", "fr"} <= set(languages())
    assert has_language("fr-CA")
    assert not has_language("de")


@pytest.mark.parametrize("tag", TRANSLATED)
def test_every_sentence_is_translated_and_none_is_left_over(tag):
    catalogue = catalogue_of(tag)
    told = {message.id for message in catalogue if message.id}
    assert told == extracted()
    for message in catalogue:
        strings = message.string if isinstance(message.string, tuple) else (message.string,)
        assert all(strings), message.id
        assert not message.fuzzy, message.id


@pytest.mark.parametrize("tag", TRANSLATED)
def test_every_translation_has_the_placeholders_of_its_original(tag):
    for message in catalogue_of(tag):
        if not message.id:
            continue
        originals = message.id if isinstance(message.id, tuple) else (message.id,)
        strings = message.string if isinstance(message.string, tuple) else (message.string,)
        for original, string in zip(originals, strings, strict=True):
            placeholders = r"%\(\w+\)s|(?<!%)\{\w+\}"
            assert set(re.findall(placeholders, string)) == set(re.findall(placeholders, original)), string
        assert not list(message.check())


def test_typography_is_the_languages_own():
    for message in catalogue_of("fr"):
        text = " ".join(message.string) if isinstance(message.string, tuple) else message.string
        assert "'" not in text, text
        assert not re.search(r"[^\u00a0] ?[:;?!»]|« ", text) or message.id == "", text
