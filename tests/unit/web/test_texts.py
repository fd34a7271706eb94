"""The templates of an installation's own pages: found, rendered once at the start, and refused in one line."""

import re
from pathlib import Path

import pytest

from worker.channels.email import texts as mails
from worker.channels.wording.languages import language_for, languages
from worker.errors import SettingsError
from worker.web.headers import policy_for
from worker.web.texts import PAGES, Texts, _examples


@pytest.mark.parametrize("tag", languages())
@pytest.mark.parametrize("name", PAGES)
def test_every_page_can_be_read_in_every_case(name: str, tag: str) -> None:
    texts = Texts()
    for values, must_show in _examples(name):
        html = texts.render(name, language_for(tag), "App & <Co>", values)
        assert all(piece in html for piece in must_show)
        title = re.search(r"<title>(.*?)</title>", html, re.DOTALL)
        assert title is not None
        assert "<" not in title[1]
        heading = re.search(r"<h1>(.*?)</h1>", html, re.DOTALL)
        assert heading is not None
        assert heading[1].strip()
        assert "&amp;lt;" not in html
        assert "<Sons>" not in html


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("web/reconect.html", "", r"unknown template; expected web/layout.html"),
        ("web/reconnect.html", "{% extends layout %}{% block heading %}Hi{% endblock %}", r"does not show .x-nonce"),
        (
            "web/fr/busy.html",
            "{% extends layout %}{% block main %}{{ secnds }}{% endblock %}",
            r"web/fr/busy.html, line 1: 'secnds'",
        ),
        ("web/done.html", '<html lang="en">{{ reason }}', "does not show <h1"),
        ("web/later.html", "{% block %}", r"web/later.html, line 1"),
    ],
)
def test_a_wrong_page_of_a_tenant_is_one_line_at_the_start(tmp_path: Path, name: str, text: str, says: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(SettingsError, match=f"TEMPLATES_DIR: .*{says}") as error:
        Texts(tmp_path)
    assert "\n" not in str(error.value)
    mails.Texts(tmp_path)  # the worker loads only mail templates, so a wrong page does not stop it


def test_a_tenant_replaces_a_block_and_a_style(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "layout.html").write_text(
        '{% extends "ours/web/layout.html" %}{% block style %}h1 { color: teal }{% endblock %}{% block brand %}<p>ACME</p>{% endblock %}'
    )
    (tmp_path / "reconnect").mkdir()
    (tmp_path / "reconnect" / "subject.txt").write_text("Hello")
    html = Texts(tmp_path).render("unknown.html", language_for("fr"), "App", {})
    assert "<p>ACME</p>" in html
    assert "Ce lien ne fonctionne plus" in html
    assert policy_for(html) != policy_for(Texts().render("unknown.html", language_for("fr"), "App", {}))


def test_the_best_liked_language_that_there_is_wins() -> None:
    texts = Texts(default_locale="es")
    for locale, accepted, tag in [
        (None, "fr", "fr"),
        (None, "fr;q=0.2, en-GB;q=0.9", "en"),
        (None, "de, fr;q=0", "es"),
        (None, "*", "es"),
        (None, "", "es"),
        (None, "fr;q=x, en;q=2", "es"),
        ("fr-CA", "en", "fr"),
        ("de", "en", "en"),
        (None, "fr," * 10_000, "fr"),
    ]:
        assert texts.language(locale, accepted).tag == tag, accepted[:30]
