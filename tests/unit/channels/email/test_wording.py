import re
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from worker.channels import Bank
from worker.channels.email.wording import language_for, word


def spoken(message, **overrides):
    return word(message, **{"app": "Acme", **overrides})


class _Reader(HTMLParser):
    """Reads HTML as a mail client does: tags with their attributes, the text, and the style sheet."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self.style = [], "", ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.cdata_elem == "style":
            self.style += data
        else:
            self.text += data


def read(html):
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader


def links(html):
    return [attributes["href"] for tag, attributes in read(html).tags if tag == "a"]


def two_banks(uri):
    since = datetime(2026, 3, 3, 12, tzinfo=UTC)
    return (
        Bank(name="First Bank", since=since, link=uri),
        Bank(name="Second Bank", since=since.replace(day=5), link=uri + "&two=2"),
    )


def test_the_notice_names_the_app_and_the_bank_and_since_when(make_message):
    wording = spoken(make_message())
    assert wording.subject == "Acme no longer receives data from First Bank"
    for body in (wording.text, read(wording.html).text):
        assert "Acme no longer receives data from First Bank" in body
        assert "since March 4, 2026" in body


def test_the_date_is_the_one_on_the_customers_calendar(make_message):
    assert "since March 4, 2026" in spoken(make_message(time_zone=ZoneInfo("Europe/Madrid"))).text
    assert "since March 3, 2026" in spoken(make_message(time_zone=ZoneInfo("America/New_York"))).text


@pytest.mark.parametrize(("offset", "day"), [(5.5, 4), (0, 3), (-3.5, 3)])
def test_an_offset_that_is_not_whole_hours_is_a_zone_too(make_message, offset, day):
    zone, since = timezone(timedelta(hours=offset)), datetime(2026, 3, 3, 20, tzinfo=UTC)
    bank = Bank(name="First Bank", since=since, link="https://bank.example/")
    assert f"since March {day}, 2026" in spoken(make_message(time_zone=zone, banks=(bank,))).text


def test_the_link_has_a_line_of_its_own_in_the_text(make_message, uri):
    lines = spoken(make_message()).text.split("\r\n")
    assert lines.count(uri) == 1
    assert lines[lines.index(uri) - 1] == lines[lines.index(uri) + 1] == ""


def test_the_link_is_the_only_one_in_the_html_and_comes_back_byte_for_byte(make_message):
    odd = "https://bank.example/?a='1'&amp;b=%22&c=`x`&lt=1"
    assert links(spoken(make_message(link=odd)).html) == [odd]


def test_there_is_another_way_than_clicking(make_message):
    wording = spoken(make_message())
    for body in (wording.text, read(wording.html).text):
        assert "open Acme → Connections" in body


@pytest.mark.parametrize("step", [0, 1, 4])
def test_nobody_is_hurried_or_asked_for_credentials(make_message, step):
    wording = spoken(make_message(step=step))
    assert "never asks for your bank user name or password" in wording.text
    for word_of_pressure in ("urgent", "immediately", "suspend", "verify your", "act now", "!"):
        assert word_of_pressure not in (wording.subject + wording.text + read(wording.html).text).lower()


@pytest.mark.parametrize("step", [0, 2])
def test_the_html_loads_nothing_from_anywhere(make_message, step):
    page = read(spoken(make_message(step=step)).html)
    assert not {tag for tag, _ in page.tags} & {"img", "link", "script", "iframe", "object", "form"}
    assert not [value for _, attributes in page.tags for name, value in attributes.items() if name in {"src", "srcset"}]
    assert "url(" not in spoken(make_message()).html
    assert "@import" not in page.style


def test_a_reminder_has_a_subject_and_a_lead_of_its_own(make_message):
    first, reminder = spoken(make_message()), spoken(make_message(step=1))
    assert reminder.subject == "Reminder: Acme still receives nothing from First Bank"
    assert reminder.text.startswith("Hello again,")
    assert "A short reminder" in reminder.text
    assert "A short reminder" in read(reminder.html).text
    assert first.subject != reminder.subject
    assert "reminder" not in first.text.lower()


def test_one_message_lists_every_bank_with_its_own_link_and_date(make_message, uri):
    wording = spoken(make_message(banks=two_banks(uri)))
    assert wording.subject == "Acme no longer receives data from 2 of your banks"
    lines = wording.text.split("\r\n")
    assert lines[lines.index(uri) - 1] == "First Bank (nothing new since March 3, 2026)"
    assert lines[lines.index(uri + "&two=2") - 1] == "Second Bank (nothing new since March 5, 2026)"
    assert links(wording.html) == [uri, uri + "&two=2"]
    assert "Reconnect Second Bank" in read(wording.html).text


def test_a_reminder_of_several_banks_says_so(make_message, uri):
    wording = spoken(make_message(banks=two_banks(uri), step=3))
    assert wording.subject == "Reminder: Acme still receives nothing from 2 of your banks"


def test_a_name_is_text_in_html_whatever_it_holds(make_message):
    evil = """<img src=x onerror=alert(1)>"'&amp;%(app)s{{ app }}"""
    wording = spoken(make_message(bank=evil), app="A<b>&Co 100%")
    page = read(wording.html)
    assert evil in page.text
    assert "A<b>&Co 100%" in page.text
    assert not {tag for tag, _ in page.tags} & {"img", "b"}
    assert evil in wording.text


def test_control_characters_reach_no_customer(make_message):
    wording = spoken(make_message(bank="First\r\nBcc: x\x00\x07 \u202eBank\u2028\ud800\x85!"))
    assert "First Bcc: x Bank !" in wording.subject
    for part in (wording.subject, wording.text, wording.html):
        assert not re.search(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u202e\ud800]", part)
        part.encode()


def test_a_bank_without_a_showable_name_is_the_customers_bank(make_message):
    assert spoken(make_message(bank="\x00\u202e ")).subject == "Acme no longer receives data from your bank"


def test_every_line_ends_with_crlf(make_message):
    wording = spoken(make_message())
    for body in (wording.text, wording.html):
        assert body.count("\n") == body.count("\r") == body.count("\r\n")


def test_paragraphs_are_parted_by_one_empty_line(make_message, uri):
    for step in (0, 1):
        for banks in (two_banks(uri), two_banks(uri)[:1]):
            lines = spoken(make_message(step=step, banks=banks)).text.split("\r\n")
            assert ("", "") not in pairwise(lines)


@pytest.mark.parametrize("locale", [None, "", "en", "EN-gb", "en_US", "tlh", "\x00"])
def test_every_locale_has_a_language(locale):
    assert language_for(locale) == "en"


def test_the_wordings_repr_shows_nothing(make_message, uri):
    assert uri not in repr(spoken(make_message()))


@pytest.mark.parametrize("step", [0, 1])
def test_dark_mode_changes_every_colour_that_stands_in_an_element(make_message, uri, step):
    page = read(spoken(make_message(banks=two_banks(uri), step=step)).html)
    dark = page.style.partition("prefers-color-scheme: dark")[2]
    ruled = set(re.findall(r"\.([a-z]+)", dark))
    in_button = 0
    for tag, attributes in page.tags:
        classes = set(attributes.get("class", "").split())
        in_button = 4 if "button" in classes else in_button - 1 if in_button else 0
        if "color" in attributes.get("style", "") and not (in_button and tag in {"td", "a"}):
            assert classes & ruled, (tag, attributes)
    assert {"page", "card", "text", "muted", "bank", "rule", "button"} <= ruled


def test_what_a_client_without_style_sheets_shows_stands_in_the_elements(make_message):
    page = read(re.sub(r"<style>.*?</style>", "", spoken(make_message()).html, flags=re.DOTALL))
    link = next(attributes for tag, attributes in page.tags if tag == "a")
    assert "background-color" in link["style"]
    assert any("max-width:560px" in attributes.get("style", "") for _, attributes in page.tags)


@pytest.mark.parametrize(
    ("locale", "one", "several"),
    [
        ("en", "1 more of your banks is concerned", "2 more of your banks are concerned"),
        ("es", "Hay 1 banco más afectado", "Hay 2 bancos más afectados"),
        ("fr", "1 autre de vos banques est concernée", "2 autres de vos banques sont concernées"),
    ],
)
@pytest.mark.parametrize("ahead", [False, True])
def test_banks_that_are_not_named_are_counted(make_message, uri, locale, one, several, ahead):  # noqa: PLR0917
    for more, expected in ((1, one), (2, several)):
        wording = spoken(make_message(banks=two_banks(uri) * 5, more=more, locale=locale, ahead=ahead))
        for body in (wording.text, read(wording.html).text):
            assert expected in body
    assert one not in spoken(make_message(banks=two_banks(uri) * 5, locale=locale, ahead=ahead)).text
