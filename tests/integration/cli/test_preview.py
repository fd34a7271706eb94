"""A preview shows exactly what would be sent, and there is one for every user."""

import email
import email.policy
import json
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from worker.cli.previewing import PLACEHOLDER, preview
from worker.errors import SettingsError, WorkerError
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep

MAIL = {"smtp_url": "smtp://127.0.0.1:9?tls=none", "email_from": "Ledgerly <no-reply@ledgerly.example>"}


async def _broken(bench: Any, name: str, user: str, bank: str) -> None:
    await bench.member(name, user=user, connection_status="DENIED", institution_name=bank)


@pytest.mark.parametrize("locale", ["en-GB", "fr-CA", "es"])
async def test_a_preview_is_the_mail_that_goes_out(
    bench_for: Any, sandbox_for: Any, tmp_path: Path, locale: str
) -> None:
    scripts = {name: {"script": ["ok"], "user_guid": "USR-a"} for name in ("one", "two")}
    async with sandbox_for(scripts) as sandbox:
        bench = await bench_for(**sandbox.settings, app_name="Ledgerly & Co")
        await _broken(bench, "one", "a", "Alder & Sons")
        await _broken(bench, "two", "a", "Banco del Río")
        await bench.sql("UPDATE users SET locale = :l, timezone = 'Asia/Tokyo'", l=locale)
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        shown = await preview(bench.runtime, "USR-a", None)
        await deliver(bench.runtime)
        (path,) = (tmp_path / "mails").glob("*.eml")
        sent = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        assert shown.subject == sent["Subject"]
        assert (shown.sender, shown.recipient) == (sent["From"], sent["To"])
        assert (shown.channel, shown.language) == ("email", sent["Content-Language"])
        for kind, part in (("plain", shown.text), ("html", shown.html)):
            assert part == sent.get_body((kind,)).get_content().replace("\r\n", "\n")  # type: ignore[union-attr]
        assert PLACEHOLDER not in shown.text
        assert shown.notes[0] == "This message waits to be delivered."
        assert "whoever opens it uses it up" in shown.notes[1]


async def test_with_a_public_address_the_preview_has_a_sample_of_our_link_and_stores_nothing(bench_for: Any) -> None:
    bench = await bench_for(**MAIL, public_base_url="https://reconnect.example.com")
    await _broken(bench, "one", "a", "Alder Bank")
    before = await preview(bench.runtime, "USR-a", None)
    await sweep(bench.runtime)
    after = await preview(bench.runtime, "USR-a", None)
    for shown in (before, after):
        assert shown.text.count("https://reconnect.example.com/r/this-is-a-sample-and-each-message-gets-its-own") == 1
        assert PLACEHOLDER not in shown.text + str(shown.html)
        assert any("sample" in note for note in shown.notes)
    assert await bench.one("SELECT count(*) FROM links") == 0


async def test_a_bank_of_which_the_user_wants_no_messages_is_left_out(bench_for: Any) -> None:
    bench = await bench_for(**MAIL)
    await _broken(bench, "one", "a", "Alder Bank")
    await _broken(bench, "two", "a", "Birch Bank")
    await sweep(bench.runtime)
    now = bench.moment(bench.runtime.clock.now())
    await bench.sql("UPDATE members SET muted_at = :at WHERE member_guid = 'MBR-two'", at=now)
    shown = await preview(bench.runtime, "USR-a", None)
    assert "Alder Bank" in shown.text
    assert "Birch Bank" not in shown.text
    assert shown.notes[-1].endswith("they are left out.")
    await bench.sql("UPDATE members SET muted_at = :at", at=now)
    shown = await preview(bench.runtime, "USR-a", None)
    assert shown.notes[-1].endswith("nothing would be sent.")


async def test_before_anything_is_asked_of_mx_the_links_are_placeholders(bench_for: Any) -> None:
    bench = await bench_for(**MAIL)
    await _broken(bench, "one", "a", "Alder Bank")
    await _broken(bench, "two", "a", "Birch Bank")
    before = await preview(bench.runtime, "USR-a", None)
    await sweep(bench.runtime)
    after = await preview(bench.runtime, "USR-a", None)
    for shown in (before, after):
        assert shown.text.count(PLACEHOLDER) == 2
        assert "Birch Bank" in shown.text
        assert "nothing was asked of MX" in " ".join(shown.notes)
    assert before.notes[0].startswith("No reconnection is open yet")
    assert after.notes[0].startswith("No message waits to be delivered; this is the next one")
    assert await bench.one("SELECT count(*) FROM windows") == 0


async def test_after_a_message_the_next_one_is_a_reminder(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _broken(bench, "a", "a", "Alder Bank")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await deliver(bench.runtime)
        shown = await preview(bench.runtime, "USR-a", None)
        assert shown.subject == "Reminder: Ledgerly still receives nothing from Alder Bank"
        due = bench.runtime.clock.now() + timedelta(days=3)
        assert f"{due:%Y-%m-%d}" in shown.notes[0]
        assert (await sandbox.get("/sandbox/mail.json"))["mails"]
        assert len(await sandbox.mails()) == 1


async def test_who_has_nothing_broken_is_shown_how_it_would_look(bench_for: Any) -> None:
    bench = await bench_for(**MAIL)
    await bench.member("a", connection_status="CONNECTED", institution_name="Alder Bank")
    await bench.sql("INSERT INTO users (user_guid, locale) VALUES ('USR-alone', 'fr')")
    fine = await preview(bench.runtime, "USR-a", None)
    assert fine.subject == "Ledgerly no longer receives data from Alder Bank"
    assert fine.notes[0].startswith("No member of this user is broken")
    alone = await preview(bench.runtime, "USR-alone", None)
    assert "Example Bank" in alone.subject
    assert alone.language == "fr"
    assert "Nothing would be sent by email now: no_address." in alone.notes


async def test_who_cannot_be_told_is_shown_with_the_reason(bench_for: Any) -> None:
    bench = await bench_for(**MAIL)
    await _broken(bench, "a", "a", "Alder Bank")
    await bench.sql("UPDATE users SET opted_out_at = :at", at=bench.stored(bench.runtime.clock.now()))
    assert "Nothing would be sent by email now: opted_out." in (await preview(bench.runtime, "USR-a", None)).notes
    await bench.sql("UPDATE users SET opted_out_at = NULL, refused_email = email")
    refused = await preview(bench.runtime, "USR-a", "email")
    assert refused.recipient == "a@mail.example"
    assert "Nothing would be sent by email now: address_refused." in refused.notes
    await bench.sql("UPDATE users SET refused_email = NULL, email = 'no address'")
    stand_in = await preview(bench.runtime, "USR-a", "email")
    assert stand_in.recipient == "nobody@placeholder.invalid"


async def test_a_push_message_has_a_title_and_a_text(bench_for: Any) -> None:
    bench = await bench_for(**MAIL)
    await _broken(bench, "a", "a", "Alder Bank")
    shown = await preview(bench.runtime, "USR-a", "fcm")
    assert shown.channel == "fcm"
    assert "Alder Bank" in shown.subject
    assert shown.html is None
    assert "Nothing would be sent by fcm now: channel_not_configured." in shown.notes


@pytest.mark.parametrize("channel", ["fcm", "apns", "webpush"])
@pytest.mark.parametrize(
    ("locale", "default", "title"),
    [
        ("fr-CA", None, "Reconnectez Alder Bank"),
        ("es-MX", None, "Vuelva a conectar Alder Bank"),
        ("de-AT", "fr", "Reconnectez Alder Bank"),
        (None, None, "Reconnect Alder Bank"),
    ],
)
async def test_a_push_message_is_shown_in_the_users_language(
    bench_for: Any, channel: str, locale: str | None, default: str | None, title: str
) -> None:
    bench = await bench_for(**MAIL, **({"default_locale": default} if default else {}))
    await _broken(bench, "a", "a", "Alder Bank")
    await bench.sql("UPDATE users SET locale = :l", l=locale)
    assert (await preview(bench.runtime, "USR-a", channel)).subject == title


async def test_a_stored_link_that_must_not_leave_is_not_shown_either(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _broken(bench, "a", "a", "Alder Bank")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await bench.sql("UPDATE windows SET uri = :u", u=bench.runtime.vault.encrypt("http://evil.example/"))
        shown = await preview(bench.runtime, "USR-a", None)
        assert "evil" not in shown.text
        assert PLACEHOLDER in shown.text
        assert "A stored link would be refused (uri_not_https), and the message would not be sent." in shown.notes


async def test_nobody_at_all_is_an_error(bench_for: Any) -> None:
    bench = await bench_for(**MAIL)
    with pytest.raises(WorkerError, match="USR-a is not in the database"):
        await preview(bench.runtime, "USR-a", None)


async def test_without_a_sender_there_is_no_mail_to_show(bench_for: Any) -> None:
    bench = await bench_for()
    await _broken(bench, "a", "a", "Alder Bank")
    with pytest.raises(SettingsError, match="EMAIL_FROM is missing"):
        await preview(bench.runtime, "USR-a", None)


@pytest.fixture
def stocked(machine: Any) -> Any:
    """A machine with one user whose member is broken."""
    columns = "user_guid,member_guid,institution_name,connection_status,email,locale\n"
    (machine.folder / "m.csv").write_text(f"{columns}USR-1,MBR-1,Alder Bank,DENIED,one@mail.example,fr-CA\n")
    machine.environment |= {"SMTP_URL": "smtp://127.0.0.1:9?tls=none", "EMAIL_FROM": "Ledgerly <no-reply@x.example>"}
    assert machine("import", "m.csv").code == 0
    return machine


def test_the_command_prints_the_text_and_says_beside_it_what_it_is(stocked: Any) -> None:
    ran = stocked("preview", "--user", "USR-1")
    assert ran.code == 0, ran.err
    head, _, text = ran.out.partition("\n\n")
    assert head.splitlines() == [
        "From: Ledgerly <no-reply@x.example>",
        "To: one@mail.example",
        "Subject: La connexion entre Ledgerly et Alder Bank est interrompue",
    ]
    assert text.startswith("Bonjour,\n\n")
    assert PLACEHOLDER in text
    assert "The links are placeholders; nothing was asked of MX." in ran.err


def test_the_html_is_written_for_its_owner_alone_and_shown(stocked: Any) -> None:
    browser = stocked.folder / "browser"
    browser.write_text('#!/bin/sh\necho "$1" > shown\n')
    browser.chmod(0o755)
    ran = stocked(
        "preview", "--user", "USR-1", "--html", "mail.html", "--open", environment={"BROWSER": f"{browser} %s"}
    )
    assert ran.code == 0, ran.err
    path = stocked.folder / "mail.html"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert (stocked.folder / "shown").read_text().strip() == path.as_uri()


def test_the_result_is_to_be_had_as_json(stocked: Any) -> None:
    ran = stocked("preview", "--user", "USR-1", "--json")
    found = json.loads(ran.out)
    assert (found["user_guid"], found["channel"], found["language"]) == ("USR-1", "email", "fr")
    assert found["recipient"] == "one@mail.example"
    assert found["html"].startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--user", "nobody"], 2, "'nobody' is no user GUID, which starts with USR-, and no address"),
        (["--user", "USR-2"], 1, "USR-2 is not in the database"),
        (["--user", "USR-1", "--channel", "pigeon"], 2, "'pigeon' is none of email, fcm, apns, webpush"),
        (["--user", "USR-1", "--channel", "fcm", "--html", "x"], 2, "a message by fcm has no HTML"),
        (["--user", "USR-1", "--html", "no/such/folder.html"], 2, "No such file or directory"),
    ],
)
def test_what_cannot_be_shown_is_one_line(stocked: Any, arguments: list[str], code: int, says: str) -> None:
    ran = stocked("preview", *arguments)
    assert ran.code == code
    assert says in ran.err.strip().splitlines()[-1]
    assert "Traceback" not in ran.err
