"""Delivering to a mail server over real sockets, on both databases."""

import email
from datetime import timedelta
from email import policy
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from worker.stages.breaker import Breaker
from worker.stages.deliver import Deliver, deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.stages.verify import verify
from worker.store.pauses import MX, PauseStore
from worker.store.queries.reports import ReportStore


async def _told(bench: Any, *names: str) -> None:
    for name in names:
        await bench.member(name, connection_status="DENIED", institution_name="Alder & Sons")
    await sweep(bench.runtime)
    await fetch(bench.runtime)
    await deliver(bench.runtime)


async def test_the_mail_carries_the_window_that_was_stored(bench_for: Any, sandbox_for: Any, tmp_path: Path) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _told(bench, "a")
        uri = bench.runtime.vault.decrypt(await bench.one("SELECT uri FROM windows"))
        (path,) = (tmp_path / "mails").glob("*.eml")
        mail = email.message_from_bytes(path.read_bytes(), policy=policy.default)
        text, html = (mail.get_body((kind,)).get_content() for kind in ("plain", "html"))  # type: ignore[union-attr]
        assert uri in text
        assert uri.replace("&", "&amp;") in html
        assert "Alder & Sons" in text
        row = (await bench.sql("SELECT state, step, first_notified_at IS NOT NULL FROM reconnections"))[0]
        assert (row[0], row[1], bool(row[2])) == ("notified", 1, True)


async def test_delivering_twice_sends_once(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _told(bench, "a")
        await deliver(bench.runtime)
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await deliver(bench.runtime)
        assert len(await sandbox.mails()) == 1


@pytest.mark.parametrize(
    ("fault", "notification", "reconnection"),
    [
        ("rcpt:450 4.2.1 busy", "pending", "ready"),
        ("rcpt:550 5.1.1 nobody here", "suppressed", "due"),
        ("data:554 5.6.0 not this", "failed", "due"),
        ("data:451 4.3.0 later", "pending", "ready"),
        ("drop:before-data", "pending", "ready"),
        ("drop:after-data", "unknown", "notified"),
        ("421", "pending", "ready"),
    ],
)
async def test_what_the_mail_server_says_decides_how_it_goes_on(
    bench_for: Any, sandbox_for: Any, fault: str, notification: str, reconnection: str
) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await sandbox.control(mail_faults=[{"fault": fault}])
        await _told(bench, "a")
        assert await bench.one("SELECT state FROM notifications") == notification
        assert await bench.one("SELECT state FROM reconnections") == reconnection


async def test_a_bad_address_is_remembered_and_never_written_to_again(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await sandbox.control(mail_faults=[{"fault": "rcpt:550 5.1.1 nobody here"}])
        await _told(bench, "a")
        await sandbox.control(mail_faults=[])
        await fetch(bench.runtime)
        assert await bench.one("SELECT outcome FROM reconnections") == "address_refused"
        # The application writes a new address: it is used, and the cadence begins again.
        await bench.sql("UPDATE users SET email = 'new@mail.example'")
        await bench.sql("UPDATE reconnections SET next_attempt_at = '2020-01-01 00:00:00'")
        await fetch(bench.runtime)
        await deliver(bench.runtime)
        assert [mail["recipients"] for mail in await sandbox.mails()] == [["new@mail.example"]]
        row = (await bench.sql("SELECT state, step, base_step FROM reconnections"))[0]
        assert tuple(row) == ("notified", 2, 1)


async def test_refused_credentials_stop_the_channel_and_spend_nothing(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"], "b": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await sandbox.control(mail_faults=[{"fault": "auth-required"}])
        await _told(bench, "a", "b")
        rows = await bench.sql("SELECT state, attempts FROM notifications")
        assert [tuple(row) for row in rows] == [("pending", 0)] * 2
        assert (await bench.one("SELECT scope FROM pauses")) == "delivery:email"
        bench.woken.clear()
        await sweep(bench.runtime)
        assert bench.woken == []
        await sandbox.control(mail_faults=[])
        await bench.sql("UPDATE pauses SET probe_at = '2020-01-01 00:00:00'")
        await sweep(bench.runtime)
        assert bench.woken == [("deliver", 1)]
        later = await bench_for(**sandbox.settings)  # the first worker's mail pool still waits after the refusal
        await deliver(later.runtime)
        assert len(await sandbox.mails()) == 2


async def test_a_uri_that_no_key_opens_any_more_is_fetched_anew(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        other = await bench_for(**sandbox.settings, uri_keys=Fernet.generate_key().decode())
        await deliver(other.runtime)
        await fetch(other.runtime)
        await deliver(other.runtime)
        rows = await bench.sql("SELECT state, outcome FROM notifications ORDER BY id")
        assert [tuple(row) for row in rows] == [("cancelled", "uri_unreadable"), ("sent", "sent")]
        assert len(await sandbox.mails()) == 1


async def test_a_message_whose_customer_came_back_meanwhile_is_cancelled(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await bench.sql("UPDATE members SET connection_status = 'CONNECTED'")
        await sweep(bench.runtime)
        await deliver(bench.runtime)
        assert await bench.one("SELECT state FROM notifications") == "cancelled"
        assert await sandbox.mails() == []


async def test_a_sender_that_lost_its_lease_sends_nothing(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        stage = Deliver(bench.runtime, {}, mx_breaker=Breaker(PauseStore(bench.runtime.database), MX))
        (job,) = (await stage.claim(10)).jobs
        await bench.sql("UPDATE notifications SET lease_expires_at = '2020-01-01 00:00:00'")
        await sweep(bench.runtime)
        await stage.settle([await stage.work(job)])
        assert await sandbox.mails() == []
        assert await bench.one("SELECT state FROM notifications") == "pending"


async def test_a_mail_that_got_its_connection_too_late_is_left_to_the_next_task(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        stage = Deliver(bench.runtime, {}, mx_breaker=Breaker(PauseStore(bench.runtime.database), MX))
        (job,) = (await stage.claim(10)).jobs
        stage.runner.out_of_time = True
        await stage.settle([await stage.work(job)])
        assert await sandbox.mails() == []
        (row,) = await bench.sql("SELECT state, attempts, outcome, dispatched_at FROM notifications")
        assert tuple(row) == ("pending", 0, "out_of_time", None)
        await deliver(bench.runtime)
        assert len(await sandbox.mails()) == 1


@pytest.mark.parametrize(("policy_", "state"), [("hold", "unknown"), ("resend", "pending")])
async def test_a_sending_whose_worker_died_after_dispatch_is_held_or_sent_again(
    bench_for: Any, sandbox_for: Any, policy_: str, state: str
) -> None:
    async with sandbox_for({"a": ["ok"], "b": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, ambiguous_sends=policy_)
        for name in ("a", "b"):
            await bench.member(name, connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        stage = Deliver(bench.runtime, {}, mx_breaker=Breaker(PauseStore(bench.runtime.database), MX))
        await stage.claim(10)
        await bench.sql(
            "UPDATE notifications SET lease_expires_at = '2020-01-01 00:00:00', "
            "dispatched_at = CASE WHEN user_guid = 'USR-a' THEN '2020-01-01 00:00:00' END"
            if bench.runtime.database.rows.is_sqlite
            else "UPDATE notifications SET lease_expires_at = '2020-01-01', "
            "dispatched_at = CASE WHEN user_guid = 'USR-a' THEN '2020-01-01'::timestamptz END"
        )
        report = await sweep(bench.runtime)
        assert report is not None
        assert report.recovered == 2
        rows = {row[0]: row[1] for row in await bench.sql("SELECT user_guid, state FROM notifications")}
        assert rows == {"USR-a": state, "USR-b": "pending"}
        if policy_ == "hold":  # no retry: the next reminder follows
            assert (await bench.states())["MBR-a"] == "notified"


async def test_who_came_back_is_closed_and_hears_no_more(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"], "b": ["ok"]}, aggregation_seconds=0.0) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _told(bench, "a", "b")
        await sandbox.control(consent="MBR-a")
        await bench.sql("UPDATE reconnections SET next_check_at = '2020-01-01 00:00:00'")
        report = await verify(bench.runtime)
        assert "reconnected 1" in report
        assert await bench.states() == {"MBR-a": "reconnected", "MBR-b": "notified"}
        assert await bench.one("SELECT connection_status FROM members WHERE member_guid = 'MBR-a'") == "CONNECTED"
        assert await bench.one("SELECT uri FROM windows WHERE member_guid = 'MBR-a'") is None
        await bench.sql("UPDATE reconnections SET next_attempt_at = '2020-01-01 00:00:00'")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await deliver(bench.runtime)
        recipients = [mail["recipients"][0] for mail in await sandbox.mails()]
        assert sorted(recipients) == ["a@mail.example", "b@mail.example", "b@mail.example"]


async def test_reminders_follow_the_cadence_and_each_has_a_window_of_its_own(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, reminder_days="0,3,7")
        began = bench.runtime.clock.now()
        told_on = []
        await _told(bench, "a")
        for day in (1, 2, 3, 4, 6, 7, 8, 13, 14, 15):
            bench.runtime.clock.set(began + timedelta(days=day, minutes=1))
            bench.runtime.set_clock = _keep(bench)  # the stages keep the clock that the test set
            before = len(await sandbox.mails())
            await sweep(bench.runtime)
            await fetch(bench.runtime)
            await deliver(bench.runtime)
            if len(await sandbox.mails()) > before:
                told_on.append(day)
            if day == 13:
                assert await bench.states() == {"MBR-a": "notified"}
        assert told_on == [3, 7]
        assert await bench.states() == {"MBR-a": "exhausted"}
        assert (await sandbox.get("/sandbox/ledger"))["windows_minted"] == 3
        assert await bench.one("SELECT count(*) FROM windows WHERE uri IS NOT NULL") == 0


def _keep(bench: Any) -> Any:
    async def set_clock() -> Any:
        return bench.runtime.clock.now()

    return set_clock


async def _ready_for(bench: Any, minutes: int) -> None:
    """Move the clock, so that the pending messages have waited for ``minutes``."""
    bench.runtime.clock.set(bench.runtime.clock.now() + timedelta(minutes=minutes))
    bench.runtime.set_clock = _keep(bench)


async def test_a_uri_that_grew_old_while_delivery_was_held_up_is_minted_anew(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        first = bench.runtime.vault.decrypt(await bench.one("SELECT uri FROM windows"))
        await _ready_for(bench, minutes=20)
        await deliver(bench.runtime)
        rows = await bench.sql("SELECT uri, superseded_at FROM windows ORDER BY id")
        assert rows[0][0] is None
        second = bench.runtime.vault.decrypt(rows[1][0])
        assert second != first
        (mail,) = await sandbox.mails()
        async with sandbox.session.get(f"{sandbox.addresses.base_url}/sandbox/mail/{mail['number']}.eml") as response:
            sent = email.message_from_bytes(await response.read(), policy=policy.default)
        text = sent.get_body(("plain",)).get_content()  # type: ignore[union-attr]
        assert second in text
        assert first not in text
        newest = await bench.one("SELECT max(id) FROM windows")
        assert await bench.one("SELECT window_id FROM notification_reconnections") == newest


async def test_who_comes_back_while_a_uri_is_minted_anew_leaves_none_behind(
    bench_for: Any, sandbox_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Example: a click on the link of an earlier message finds the member back."""
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await _ready_for(bench, minutes=20)
        mint = bench.runtime.mx.oauth_window

        async def minted(*who: str) -> Any:
            answer = await mint(*who)
            ended = "state = 'reconnected', outcome = 'back_at_click', next_attempt_at = NULL, closed_at = :now"
            await bench.sql(f"UPDATE reconnections SET {ended}", now=bench.stored(bench.runtime.clock.now()))
            await bench.sql("UPDATE windows SET uri = NULL, superseded_at = fetched_at")
            return answer

        monkeypatch.setattr(bench.runtime.mx, "oauth_window", minted)
        await deliver(bench.runtime)
        assert await bench.one("SELECT count(*) FROM windows WHERE uri IS NOT NULL") == 0
        assert await bench.states() == {"MBR-a": "reconnected"}


async def test_with_uri_max_age_off_an_old_uri_is_sent_as_it_is(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, uri_max_age="0")
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await _ready_for(bench, minutes=60)
        await deliver(bench.runtime)
        assert await bench.one("SELECT count(*) FROM windows") == 1
        assert len(await sandbox.mails()) == 1


async def test_who_came_back_while_the_message_waited_is_not_written_to(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}, aggregation_seconds=0.0) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await sandbox.control(consent="MBR-a")
        await _ready_for(bench, minutes=2)
        await deliver(bench.runtime)
        assert await sandbox.mails() == []
        assert await bench.states() == {"MBR-a": "reconnected"}
        assert await bench.one("SELECT state FROM notifications") == "cancelled"


async def test_of_two_banks_the_one_that_is_back_is_left_out_of_the_message(bench_for: Any, sandbox_for: Any) -> None:
    people = {name: {"user_guid": "USR-p", "script": ["ok"]} for name in ("a", "b")}
    async with sandbox_for(people, aggregation_seconds=0.0) as sandbox:
        bench = await bench_for(**sandbox.settings)
        for name in people:
            await bench.member(name, user="p", connection_status="DENIED", institution_name=f"Bank {name.upper()}")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await sandbox.control(consent="MBR-a")
        await _ready_for(bench, minutes=2)
        await deliver(bench.runtime)
        assert await bench.states() == {"MBR-a": "reconnected", "MBR-b": "notified"}
        (mail,) = await sandbox.mails()
        async with sandbox.session.get(f"{sandbox.addresses.base_url}/sandbox/mail/{mail['number']}.eml") as response:
            text = (await response.read()).decode()
        assert "Bank B" in text
        assert "Bank A" not in text


async def test_while_mx_fails_old_messages_wait_and_spend_nothing(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await sandbox.control(keys="revoke")
        await _ready_for(bench, minutes=20)
        await deliver(bench.runtime)
        row = (await bench.sql("SELECT state, attempts, outcome FROM notifications"))[0]
        assert tuple(row) == ("pending", 0, "http_401")
        assert await bench.one("SELECT scope FROM pauses") == "mx"
        assert await sandbox.mails() == []


async def test_who_waits_for_the_end_of_the_work_waits_for_a_message_that_another_clock_has_made_due(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        reports, now = ReportStore(bench.runtime.database), bench.runtime.clock.now()
        for later, left in ((timedelta(seconds=2), 1), (timedelta(minutes=1), 0)):
            await bench.sql("UPDATE notifications SET next_attempt_at = :at", at=bench.stored(now + later))
            assert await reports.remaining_work(now, now) == {"to_fetch": 0, "to_deliver": left}
