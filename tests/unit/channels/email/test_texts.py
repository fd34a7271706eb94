"""The templates of an installation: what they may replace, and that a mistake in them is reported at the start, in one line."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from worker.channels import DurableLink
from worker.channels.email.message import Composer, Mail
from worker.channels.email.texts import Texts
from worker.channels.email.wording import word
from worker.errors import SettingsError

LINKS = "{% for item in banks %}{{ item.link }}\n{% endfor %}"


@pytest.fixture
def write(tmp_path):
    """Writes templates into the folder for ``TEMPLATES_DIR``; returns the folder."""

    def write(**templates):
        for name, text in templates.items():
            path = tmp_path / "reconnect" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return lambda templates: write(**templates)


def spoken(folder, message, **options):
    return word(message, app="Acme", texts=Texts(folder, **options))


def refusal(folder):
    with pytest.raises(SettingsError) as refused:
        Texts(folder)
    text = str(refused.value)
    assert text.startswith("settings: TEMPLATES_DIR: ")
    assert "\n" not in text
    return text.removeprefix("settings: TEMPLATES_DIR: ")


def test_one_file_is_replaced_and_the_others_stay(write, make_message):
    wording = spoken(write({"subject.txt": "{{ bank }} and {{ app }}"}), make_message())
    assert wording.subject == "First Bank and Acme"
    assert wording.text.startswith("Hello,")
    assert "<h1" in wording.html


def test_templates_that_know_nothing_of_our_links_carry_them_too(write, make_message):
    page = "https://reconnect.example/r/t"
    ours = DurableLink(page=page, unsubscribe="https://reconnect.example/u/t", until=datetime(2026, 12, 1, tzinfo=UTC))
    wording = spoken(
        write({"body.txt": f"Here:\n{LINKS}"}), replace(make_message(link=page), link=ours), our_links=True
    )
    assert wording.text == f"Here:\r\n{page}\r\n"
    assert f'href="{page}"' in wording.html


def test_templates_may_name_our_link_and_the_way_to_unsubscribe(write, make_message):
    page = "https://reconnect.example/r/t"
    ours = DurableLink(page=page, unsubscribe="https://reconnect.example/u/t", until=datetime(2026, 12, 1, tzinfo=UTC))
    text = "{% if page %}{{ page }} {{ unsubscribe }} {{ link_until }}{% else %}" + LINKS + "{% endif %}"
    folder = write({"body.txt": text})
    wording = spoken(folder, replace(make_message(link=page), link=ours), our_links=True)
    assert wording.text == f"{page} {ours.unsubscribe} December 1, 2026"
    assert page not in spoken(folder, make_message()).text
    with pytest.raises(SettingsError, match="does not show the link"):
        Texts(write({"body.txt": "{% if not page %}" + LINKS + "{% endif %}"}), our_links=True)


def test_a_file_for_one_language_leaves_the_others_alone(write, make_message):
    folder = write({"subject.txt": "For all", "fr/subject.txt": "Pour tous"})
    assert spoken(folder, make_message(locale="fr-CA")).subject == "Pour tous"
    assert spoken(folder, make_message(locale="es")).subject == "For all"
    only = write({"es/body.txt": f"Solo aquí: {LINKS}"})
    assert spoken(only, make_message(locale="es-MX")).text.startswith("Solo aquí")
    assert spoken(only, make_message(locale="en")).text.startswith("Hello,")


def test_a_block_of_ours_can_be_replaced_and_the_rest_kept(write, make_message):
    brand = '{% extends "ours/reconnect/body.html" %}{% block brand %}<p>{% include "reconnect/_brand.html" %}</p>{% endblock %}'
    wording = spoken(write({"body.html": brand, "_brand.html": "By {{ app }} & Co"}), make_message(locale="fr"))
    assert "<p>By Acme & Co</p>" in wording.html
    assert "Reconnecter <bdi>First Bank</bdi>" in wording.html


def test_a_sentence_of_ours_is_translated_in_a_template_of_theirs(write, make_message):
    folder = write({"body.txt": "{% trans %}Hello,{% endtrans %} " + LINKS})
    assert spoken(folder, make_message(locale="es")).text.startswith("Hola: https://")


def test_names_are_escaped_in_their_html_too(write, make_message):
    folder = write({"body.html": '{% for item in banks %}<a href="{{ item.link }}">{{ item.name }}</a>{% endfor %}'})
    assert "A&lt;b&gt; &amp; C" in spoken(folder, make_message(bank="A<b> & C")).html


def test_their_line_ends_go_on_the_wire_as_ours_do(write, make_message):
    wording = spoken(write({"body.txt": "One\nTwo\r\nThree\rFour {{ '\\n' }}" + LINKS}), make_message())
    assert wording.text.startswith("One\r\nTwo\r\nThree\r\nFour \r\n")
    assert wording.text.count("\n") == wording.text.count("\r") == wording.text.count("\r\n")


def test_a_default_locale_serves_who_has_none(make_message):
    assert spoken(None, make_message(locale=None), default_locale="fr-CA").language == "fr"
    assert spoken(None, make_message(locale="en-GB"), default_locale="fr-CA").language == "en"


def test_a_default_locale_without_a_catalogue_is_refused():
    with pytest.raises(
        SettingsError, match=r"DEFAULT_LOCALE: no catalogue for this language; expected one of en, es, fr"
    ):
        Texts(default_locale="de-DE")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("subject.txt", "{{ bnak }}", "reconnect/subject.txt, line 1: 'bnak' is undefined (in en)"),
        ("body.html", "\n\n{% if %}", "reconnect/body.html, line 3: Expected an expression"),
        ("fr/body.txt", "{{ app.secret }}", "reconnect/fr/body.txt, line 1: "),
        ("body.txt", "{{ app.__class__.__mro__ }}", "reconnect/body.txt, line 1: access to attribute '__class__'"),
        (
            "body.txt",
            "{{ cycler.__init__.__globals__.os.popen('id') }}",
            "reconnect/body.txt, line 1: access to attribute",
        ),
        ("body.txt", "{% for i in range(10**9) %}x{% endfor %}", "reconnect/body.txt, line 1: Range too big"),
        ("body.txt", '{% include "../../../etc/passwd" %}', "reconnect/body.txt, line 1: "),
        ("body.txt", '{% include "reconnect/_none.txt" %}', "reconnect/body.txt, line 1: "),
        ("body.txt", "Open the app.", "reconnect/body.txt does not show the link of every bank (in en)"),
        ("es/body.txt", "{{ banks[0].link }}", "reconnect/body.txt does not show the link of every bank (in es)"),
        ("body.html", "<p>{{ banks[0].link }}</p>", "reconnect/body.html does not show the link of every bank"),
        ("subject.txt", " \n ", "reconnect/subject.txt gives no subject (in en)"),
        ("subject.txt", "x" * 600, "reconnect/subject.txt gives too long a subject"),
        ("body.txt", b"caf\xe9", "reconnect/…/body.txt: it is not UTF-8 text"),
        ("body.htm", "x", "reconnect/body.htm: unknown template; expected reconnect/subject.txt, "),
        ("de/body.txt", "x", "reconnect/de/body.txt: unknown template; expected "),
        ("fr/old/body.txt", "x", "reconnect/fr/old/body.txt: unknown template; expected "),
        ("../subject.txt", "x", "subject.txt: unknown template; expected "),
    ],
)
def test_a_mistake_is_one_line_at_the_start(write, name, text, says):
    assert refusal(write({name: text})).startswith(says)


def test_a_folder_that_is_none_is_refused(tmp_path):
    assert refusal(tmp_path / "nowhere") == "there is no such folder"


def test_hidden_files_and_parts_are_nobodys_business(write, make_message):
    folder = write({".DS_Store": b"\xff", "_part.html": "x", "../.git/config": "x"})
    assert spoken(folder, make_message()).subject.startswith("Acme no longer")


def test_a_mistake_quotes_no_customer(write):
    assert "bank.example" not in refusal(write({"body.txt": "{{ banks[0].link.nothing }}"}))


def test_a_mail_is_made_of_a_tenants_templates(make_settings, make_message, write):
    composer = Composer(make_settings(), texts=Texts(write({"subject.txt": "Ours alone"})))
    mail = composer.build(make_message())
    assert isinstance(mail, Mail)
    assert b"Subject: Ours alone\r\n" in mail.content
