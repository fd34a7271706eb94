"""The text on a lock screen."""

from datetime import timedelta, timezone

import pytest

from worker.channels.push.text import word


def test_the_first_message_names_the_app_and_the_bank(make_message):
    text = word(make_message(), app="Acme")
    assert text.title == "Reconnect First Bank"
    assert text.body == "Acme no longer receives data from First Bank. Open Acme to connect it again."


def test_a_reminder_says_that_it_is_one(make_message):
    text = word(make_message(step=1), app="Acme")
    assert text.body == "Acme still receives no data from First Bank. Open Acme to connect it again."


@pytest.mark.parametrize("step", [0, 2])
def test_several_banks_are_counted_and_not_named(make_message, step):
    text = word(make_message("First Bank", "Second Bank", "Third Bank", step=step), app="Acme")
    assert text.title == "Reconnect 3 of your banks"
    assert "from 3 of your banks. Open Acme to connect them again." in text.body
    assert "Bank " not in text.title + text.body


@pytest.mark.parametrize("step", [0, 1])
def test_neither_link_nor_date_nor_address_is_shown(make_message, link, step):
    message = make_message(step=step)
    text = word(message, app="Acme")
    for hidden in (link, "2026", "March", message.address, message.key):
        assert hidden not in text.title + text.body


def test_a_bank_without_a_name_is_your_bank(make_message):
    assert word(make_message(" \n"), app="Acme").title == "Reconnect your bank"


def test_a_name_is_shown_as_one_line_and_read_as_text(make_message):
    text = word(make_message("First\x00\r\nBank \u202e{app} {0}"), app="A{bank}")
    assert text.title == "Reconnect First Bank {app} {0}"
    assert text.body.startswith("A{bank} no longer receives data from First Bank {app} {0}.")


def test_a_long_name_is_cut(make_message):
    text = word(make_message("x" * 1000), app="y" * 1000)
    assert len(text.title + text.body) < 500


@pytest.mark.parametrize("locale", [None, "", "en", "en-GB", "EN_us", "tlh", "x" * 100])
def test_whoever_speaks_what_we_do_not_reads_english(make_message, locale):
    assert word(make_message(locale=locale), app="Acme").language == "en"


@pytest.mark.parametrize(
    ("locale", "default", "language"), [("fr-CA", None, "fr"), ("tlh", "es-MX", "es"), ("fr", "es", "fr")]
)
def test_a_locale_falls_back_to_its_language_and_then_to_the_default(make_message, locale, default, language):
    assert word(make_message(locale=locale), app="Acme", default_locale=default).language == language


def test_a_bank_without_a_name_is_your_bank_in_every_language(make_message):
    assert word(make_message("", locale="es"), app="Acme").title == "Vuelva a conectar su banco"


def test_its_repr_tells_nobody_where_a_customer_banks(make_message):
    assert repr(word(make_message(), app="Acme")) == "PushText(en)"


def test_no_date_stands_in_it_so_the_zone_changes_nothing(make_message):
    half_past = timezone(timedelta(hours=5, minutes=30))
    assert word(make_message(time_zone=half_past), app="Acme") == word(make_message(), app="Acme")
