"""`reconnect bounces` reads delivery reports from mailboxes and stores what they say about addresses."""

import mailbox
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from worker.channels import Bank, Message
from worker.channels.email.message import Composer, Mail, message_token
from worker.cli.bouncing import read, take_in
from worker.errors import UsageError


async def taken(bench: Any, folder: Path) -> dict[str, Any]:
    """Read the reports in a folder; returns the counts that are not zero."""
    found = await take_in(bench.runtime, *read(folder))
    return {name: value for name, value in found.items() if value}


async def refused(bench: Any) -> dict[str, str]:
    rows = await bench.sql("SELECT user_guid, refused_email FROM users WHERE refused_email IS NOT NULL")
    return {row[0]: row[1] for row in rows}


@pytest.fixture
def mails(tmp_path: Path) -> Any:
    """Writes mails into a folder; returns the folder."""
    folder = tmp_path / "mails"
    folder.mkdir()

    def write(*contents: bytes) -> Path:
        for content in contents:
            (folder / f"{len(list(folder.iterdir())):03}.eml").write_bytes(content)
        return folder

    return write


async def test_an_address_that_does_not_exist_is_written_to_no_more(
    bench_for: Any, told: Any, report: Any, mails: Any
) -> None:
    bench = await bench_for()
    key = await told(bench, "a")
    await told(bench, "b")
    folder = mails(report("a@mail.example", "5.1.1", key=key))
    expected = {
        "mails": 1, "reports": 1, "suppressed": 1, "suppressed_users": ["USR-a"], "suppressed_why": {"USR-a": "bounce: 5.1.1"},
    }  # fmt: skip
    assert await taken(bench, folder) == expected
    assert await refused(bench) == {"USR-a": "a@mail.example"}
    assert await bench.one("SELECT outcome FROM notifications WHERE user_guid = 'USR-a'") == "bounced_5.1.1"
    assert await bench.one("SELECT outcome FROM notifications WHERE user_guid = 'USR-b'") == "sent"


async def test_the_same_mails_again_change_nothing(bench_for: Any, told: Any, report: Any, mails: Any) -> None:
    bench = await bench_for()
    folder = mails(report("a@mail.example", "5.1.1", key=await told(bench, "a")))
    await taken(bench, folder)
    before = await bench.sql("SELECT outcome, outcome_at, state FROM notifications")
    assert await taken(bench, folder) == {"mails": 1, "reports": 1, "suppressed_before": 1}
    assert await bench.sql("SELECT outcome, outcome_at, state FROM notifications") == before


async def test_what_passes_or_is_not_the_addresss_fault_is_only_counted(
    bench_for: Any, told: Any, report: Any, mails: Any
) -> None:
    bench = await bench_for()
    key = await told(bench, "a")
    codes = ("5.2.2", "4.4.7", "4.2.2", "5.7.1")
    folder = mails(*(report("a@mail.example", code, key=key) for code in codes))
    mails(report("a@mail.example", "4.0.0", key=key, action="delayed"))
    mails(report("a@mail.example", "2.1.5", key=key, action="relayed"))
    found = await taken(bench, folder)
    assert found == {"mails": 6, "reports": 6, "mailbox_full": 1, "transient": 3, "refused": 1, "delivered": 1}
    assert await refused(bench) == {}


async def test_an_address_that_the_user_has_left_is_not_held_against_the_new_one(
    bench_for: Any, told: Any, report: Any, mails: Any
) -> None:
    bench = await bench_for()
    key = await told(bench, "a")
    await bench.sql("UPDATE users SET email = 'new@mail.example'")
    assert (await taken(bench, mails(report("a@mail.example", "5.1.1", key=key))))["not_theirs"] == 1
    assert await refused(bench) == {}


async def test_the_address_that_a_mailbox_forwards_to_is_not_the_users(
    bench_for: Any, told: Any, report: Any, mails: Any
) -> None:
    bench = await bench_for()
    key = await told(bench, "a")
    assert (await taken(bench, mails(report("b@elsewhere.example", "5.1.1", key=key))))["not_theirs"] == 1
    assert await refused(bench) == {}


@pytest.mark.parametrize("stored", ["Jan@Müller.example", "jan@xn--mller-kva.example"])
async def test_an_address_is_known_however_it_is_written(
    bench_for: Any, told: Any, report: Any, mails: Any, stored: str
) -> None:
    bench = await bench_for()
    key = await told(bench, "a", email=stored)
    await told(bench, "b", email=stored.lower())
    folder = mails(report("JAN@xn--mller-kva.example", "5.1.1", key=key))
    mails(report("jan@xn--mller-kva.example", "5.1.1", key="key-b"))
    assert (await taken(bench, folder))["suppressed"] == 2
    assert await refused(bench) == {"USR-a": stored, "USR-b": stored.lower()}


async def test_a_stranger_who_knows_an_address_silences_nobody(
    bench_for: Any, told: Any, report: Any, mails: Any
) -> None:
    bench = await bench_for(email_from="Ledgerly <no-reply@ledgerly.example>")
    await told(bench, "a")
    await told(bench, "pushed", channel="fcm")
    await told(bench, "pending", state="pending")
    folder = mails(*(report(f"{name}@mail.example", "5.1.1") for name in ("a", "pushed", "pending", "nobody")))
    header = "From: no-reply@ledgerly.example\nTo: a@mail.example\nMessage-ID: <1@relay.example>\nX-Reconnect-Id: {}"
    mails(*(report("a@mail.example", "5.1.1", returned=header.format(guess)) for guess in ("", "0" * 32, "key-a")))
    found = await taken(bench, folder)
    assert (found["unproven"], found["unproven_users"], found["not_ours"]) == (4, ["USR-a"], 3)
    assert await refused(bench) == {}


@pytest.mark.parametrize("traced_by", ["our header", "the envelope's sender"])
async def test_a_relay_that_replaces_the_message_id_still_has_its_reports_taken_in(
    bench_for: Any, told: Any, report: Any, mails: Any, traced_by: str
) -> None:
    """Amazon SES and Outlook.com replace the Message-ID. SES also replaces Date."""
    bench = await bench_for(
        smtp_url="smtp://127.0.0.1:9?tls=none",
        email_from="no-reply@ledgerly.example",
        bounce_address="bounces@ledgerly.example",
    )
    key = await told(bench, "a")
    bank = Bank(name="Alder Bank", since=datetime(2026, 3, 3, tzinfo=UTC), link="https://bank.example/oauth")
    mail = Composer(bench.runtime.settings).build(
        Message(key=key, address="a@mail.example", locale="en", time_zone=UTC, step=0, banks=(bank,))
    )
    assert isinstance(mail, Mail)
    lines = mail.content.decode().partition("\r\n\r\n")[0].split("\r\n")
    returned = [line for line in lines if not line.startswith(("Message-ID:", "Date:"))] + [
        "Message-ID: <0100-1@ses.example>"
    ]
    if traced_by == "our header":
        folder = mails(report("a@mail.example", "5.1.1", returned="\n".join(returned)))
    else:
        folder = mails(b"To: " + mail.sender.spec.encode() + b"\n" + report("a@mail.example", "5.1.1"))
    found = await taken(bench, folder)
    assert found["suppressed_users"] == ["USR-a"]
    assert found["suppressed_why"] == {"USR-a": "bounce: 5.1.1"}
    assert await bench.one("SELECT refused_why FROM users") == "bounce: 5.1.1"


@pytest.mark.parametrize(("complaints", "opted_out"), [("count", 0), ("optout", 1)])
async def test_a_complaint_is_counted_and_where_that_is_set_opts_out(
    bench_for: Any, told: Any, mails: Any, complaints: str, opted_out: int
) -> None:
    bench = await bench_for(complaints=complaints)
    token = message_token(await told(bench, "a"))
    text = (
        'From: fbl@provider.example\nContent-Type: multipart/report; report-type=feedback-report; boundary="b"\n\n--b\n'
        "Content-Type: message/feedback-report\n\nFeedback-Type: abuse\nVersion: 1\n\n--b\nContent-Type: text/rfc822-headers\n\n"
        "To: [redacted]\nX-Reconnect-Id: {}\n\n--b--\n"
    )
    found = await taken(bench, mails(text.format(token).encode(), text.format("0" * 32).encode()))
    assert (found["complaints"], found.get("opted_out", 0), found["not_ours"]) == (1, opted_out, 1)
    assert await bench.one("SELECT count(*) FROM users WHERE opted_out_at IS NOT NULL") == opted_out


async def test_a_report_about_a_mail_of_somebody_else_is_none_of_our_business(
    bench_for: Any, told: Any, report: Any, mails: Any
) -> None:
    bench = await bench_for()
    await told(bench, "a")
    folder = mails(
        report("a@mail.example", "5.1.1", returned="From: news@letter.example\nMessage-ID: <1@newsletter.example>"),
        report(
            "a@mail.example", "5.1.1", returned="From: news@letter.example\nMessage-ID: <" + "0" * 32 + "@x.example>"
        ),
    )
    assert (await taken(bench, folder))["not_ours"] == 2
    assert await refused(bench) == {}


async def test_one_report_is_found_among_many_notifications(
    bench_for: Any, told: Any, report: Any, mails: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.store.addresses._BATCH_SIZE", 7)
    bench = await bench_for()
    keys = [await told(bench, f"u{number:02}") for number in range(30)]
    folder = mails(*(report(f"u{n:02}@mail.example", "5.1.1", key=keys[n]) for n in (0, 13, 29)))
    assert (await taken(bench, folder))["suppressed_users"] == ["USR-u00", "USR-u13", "USR-u29"]


async def test_a_user_who_is_gone_by_now_is_no_error(bench_for: Any, told: Any, report: Any, mails: Any) -> None:
    bench = await bench_for()
    key = await told(bench, "a")
    await bench.sql("DELETE FROM users")
    assert (await taken(bench, mails(report("a@mail.example", "5.1.1", key=key))))["not_theirs"] == 1


async def test_other_mails_and_nonsense_are_counted(bench_for: Any, mails: Any) -> None:
    bench = await bench_for()
    folder = mails(b"Subject: unsubscribe\n\nplease\n", b"\x00\xff" * 9, b"", b"Content-Type: x/y\n\n" * 99)
    mails(
        b"From: MAILER-DAEMON@mx.example\nSubject: Undelivered\n\nSomething went amiss.\n",
        b"Auto-Submitted: auto-replied\n\nAway.\n",
    )
    assert await taken(bench, folder) == {
        "mails": 6, "other_mails": 5, "unreadable": 1, "not_understood": 1, "auto_replies": 1,
    }  # fmt: skip


async def test_a_maildir_an_mbox_and_a_single_mail_are_read_too(tmp_path: Path, report: Any) -> None:
    content = report("a@mail.example", "5.1.1")
    box = mailbox.Maildir(tmp_path / "box")
    box.add(content)
    seen = mailbox.MaildirMessage(content)
    seen.set_subdir("cur")
    box.add(seen)
    (tmp_path / "box" / "tmp" / "half").write_bytes(content)
    old = mailbox.mbox(tmp_path / "old")
    old.add(content)
    old.add(b"Subject: x\n\nhello\n")
    old.close()
    (tmp_path / "one.eml").write_bytes(content)
    assert read(tmp_path / "box")[1] == {"mails": 2, "reports": 2, "other_mails": 0}
    assert read(tmp_path / "old")[1] == {"mails": 2, "reports": 1, "other_mails": 1}
    assert read(tmp_path / "one.eml")[1] == {"mails": 1, "reports": 1, "other_mails": 0}


async def test_a_path_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such folder or file"):
        read(tmp_path / "nowhere")


async def test_what_is_no_mail_in_a_folder_stops_nothing(tmp_path: Path, report: Any) -> None:
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / ".hidden").write_bytes(report("a@mail.example", "5.1.1"))
    (tmp_path / "mail").write_bytes(report("a@mail.example", "5.1.1"))
    assert read(tmp_path)[1] == {"mails": 1, "reports": 1, "other_mails": 0}


def test_the_command_prints_what_it_did_and_no_address(machine: Any, report: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1").write_bytes(report("stranger@mail.example", "5.1.1"))
    (tmp_path / "in" / "2").write_bytes(b"Subject: unsubscribe\n\nplease\n")
    ran = machine("bounces", "in")
    assert ran.code == 0, ran.err
    assert "Read 2 mails: 1 are no delivery reports, the others report on 1 recipients." in ran.out
    assert "1  about mails that this worker did not send" in ran.out
    assert "stranger" not in ran.out + ran.err
    found = machine.json("bounces", "in")
    assert (found["mails"], found["not_ours"], found["suppressed"], found["suppressed_users"]) == (2, 1, 0, [])
    wrong = machine("bounces", "nowhere")
    assert wrong.code == 2
    assert len(wrong.err.strip().splitlines()) == 1
