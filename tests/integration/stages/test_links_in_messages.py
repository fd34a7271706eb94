"""Messages with ``PUBLIC_BASE_URL``: each has one durable link of ours, and its token is stored nowhere."""

import asyncio
import email
import re
from collections.abc import Sequence
from datetime import timedelta
from email import policy
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from worker.channels import Dispatching, Failed, Message, Outcome, Sent, TryLater, Unknown
from worker.mx import answers as mx
from worker.policy.links import hash_of
from worker.stages.breaker import Breaker
from worker.stages.deliver import Deliver, deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.store.pauses import MX, PauseStore
from worker.store.sql.tables import metadata

BASE = "https://reconnect.example.com"
_URI = "https://bank.example/oauth/authorize?state=0123456789abcdef"


class Mx:
    """MX without a network; ``asked`` lists its requests."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.member: dict[str, Any] = {}

    async def oauth_window(self, _user_guid: str, member_guid: str) -> Any:
        self.asked.append("window")
        return mx.Window(uri=_URI, member=mx.MemberState(guid=member_guid))

    async def read_member(self, _user_guid: str, member_guid: str) -> Any:
        self.asked.append("member")
        return mx.MemberRead(member=mx.MemberState(guid=member_guid, **self.member))

    async def close(self) -> None:
        pass


class Channel:
    """Answers each message with the next of its outcomes. The last one is repeated."""

    kind = "email"

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = list(outcomes)
        self.messages: list[Message] = []

    async def send(self, message: Message, dispatching: Dispatching) -> Outcome:
        await dispatching()
        self.messages.append(message)
        return self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]

    async def close(self) -> None:
        pass

    @property
    def hashes(self) -> list[str]:
        """The hashes of the links' tokens, in the order in which the messages left."""
        return [hash_of(message.link.page.rpartition("/")[2]) for message in self.messages if message.link]


class CadencePosition:
    """One broken member, with a channel and an MX that need no network."""

    def __init__(self, bench: Any, outcomes: Sequence[Outcome]) -> None:
        self.bench = bench
        self.mx, self.channel = Mx(), Channel(outcomes)
        bench.runtime.mx, bench.runtime.channels = self.mx, {"email": self.channel}

    async def work(self, *, times: int = 1) -> None:
        for _ in range(times):
            await self.bench.sql("UPDATE notifications SET next_attempt_at = '2020-01-01 00:00:00'")
            for stage in (sweep, fetch, deliver):
                await stage(self.bench.runtime)

    async def stored(self) -> list[str]:
        return [row[0] for row in await self.bench.sql("SELECT token_hash FROM links ORDER BY id")]


@pytest.fixture
async def place_for(bench_for: Any) -> Any:
    async def make(*outcomes: Outcome, **settings: Any) -> CadencePosition:
        bench = await bench_for(**{"public_base_url": BASE} | settings)
        await bench.runtime.mx.close()
        await bench.member("a", connection_status="DENIED", institution_name="Alder Bank")
        return CadencePosition(bench, outcomes or [Sent()])

    return make


async def _everything_stored(bench: Any) -> str:
    rows = []
    for table in metadata.tables:
        rows += [repr(tuple(row)) for row in await bench.sql(f"SELECT * FROM {table}")]
    return "\n".join(rows)


async def test_one_link_leads_to_all_banks_and_its_token_stands_in_the_mail_alone(
    bench_for: Any, sandbox_for: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = {name: {"script": ["ok"], "user_guid": "USR-a"} for name in ("one", "two")}
    async with sandbox_for(scripts) as sandbox:
        bench = await bench_for(**sandbox.settings, public_base_url=BASE, link_days=21)
        for name in scripts:
            await bench.member(name, user="a", connection_status="DENIED", institution_name=f"Bank {name}")
        with capture_logs() as logs:
            for stage in (sweep, fetch, deliver):
                await stage(bench.runtime)
        (path,) = (tmp_path / "mails").glob("*.eml")
        content = path.read_bytes()
        mail = email.message_from_bytes(content, policy=policy.default)
        text, html = (mail.get_body((kind,)).get_content() for kind in ("plain", "html"))  # type: ignore[union-attr]
        tokens = set(re.findall(rf"{BASE}/[ru]/([A-Za-z0-9_-]+)", text + html + str(mail["List-Unsubscribe"])))
        assert len(tokens) == 1
        token = tokens.pop()
        assert text.splitlines().count(f"{BASE}/r/{token}") == 1
        assert f'href="{BASE}/r/{token}"' in html
        assert f"{BASE}/u/{token}" in text
        assert f'href="{BASE}/u/{token}"' in html
        assert "Bank one" in text and "Bank two" in text  # noqa: PT018
        for uri in [row[0] for row in await bench.sql("SELECT uri FROM windows")]:
            assert bench.runtime.vault.decrypt(uri) not in text + html
        # The header lines as they were sent: RFC 8058 does not allow these two to be folded.
        lines = content.partition(b"\r\n\r\n")[0].split(b"\r\n")
        wanted = f"List-Unsubscribe: <{BASE}/u/{token}>, <mailto:no-reply@ledgerly.example?subject=unsubscribe>"
        assert wanted.encode() in lines
        assert b"List-Unsubscribe-Post: List-Unsubscribe=One-Click" in lines
        row = (await bench.sql("SELECT token_hash, user_guid, notification_id, clicked_at FROM links"))[0]
        notification = await bench.one("SELECT id FROM notifications")
        assert tuple(row) == (hash_of(token), "USR-a", notification, None)
        days = await bench.sql("SELECT created_at, expires_at FROM links")
        moments = [(bench.runtime.database.rows.is_sqlite and _read(each)) or each for each in days[0]]
        assert timedelta(days=20, hours=23) < moments[1] - moments[0] < timedelta(days=21, hours=1)
        seen = capsys.readouterr()
        assert token not in await _everything_stored(bench) + repr(logs) + seen.out + seen.err


def _read(text: str) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(text)


async def test_a_link_that_nobody_can_have_is_replaced(place_for: Any) -> None:
    place = await place_for(TryLater(code="rcpt_450"), Sent())
    await place.work()
    assert await place.bench.one("SELECT state FROM notifications") == "pending"
    assert await place.stored() == []
    await place.work()
    assert await place.bench.one("SELECT state FROM notifications") == "sent"
    assert len(set(place.channel.hashes)) == 2
    assert await place.stored() == place.channel.hashes[-1:]


async def test_a_refused_message_leaves_no_link(place_for: Any) -> None:
    place = await place_for(Failed(code="data_554"))
    await place.work()
    assert await place.bench.one("SELECT state FROM notifications") == "failed"
    assert await place.stored() == []


async def test_a_link_that_may_have_arrived_works_on_when_the_message_is_sent_again(place_for: Any) -> None:
    place = await place_for(Unknown(code="data_timeout"), TryLater(code="rcpt_450"), Sent(), ambiguous_sends="resend")
    await place.work(times=3)
    assert await place.bench.one("SELECT state FROM notifications") == "sent"
    lost, _refused, arrived = place.channel.hashes
    assert await place.stored() == [lost, arrived]


async def test_an_unknown_message_keeps_its_link(place_for: Any) -> None:
    place = await place_for(Unknown(code="data_timeout"))
    await place.work()
    assert await place.bench.one("SELECT state FROM notifications") == "unknown"
    assert await place.stored() == place.channel.hashes


@pytest.mark.parametrize("dispatched", [False, True])
async def test_a_worker_that_dies_between_claim_and_answer(place_for: Any, dispatched: bool) -> None:
    place = await place_for(Sent(), ambiguous_sends="resend")
    bench = place.bench
    await sweep(bench.runtime)
    await fetch(bench.runtime)
    stage = Deliver(bench.runtime, {}, mx_breaker=Breaker(PauseStore(bench.runtime.database), MX))
    (job,) = (await stage.claim(10)).jobs
    if dispatched:
        await stage.work(job)  # its answer is never written
    before = await place.stored()
    assert before == (place.channel.hashes if dispatched else [])
    await bench.sql("UPDATE notifications SET lease_expires_at = '2020-01-01 00:00:00'")
    await place.work()
    assert await bench.one("SELECT state FROM notifications") == "sent"
    assert await place.stored() == place.channel.hashes


async def test_who_lost_the_lease_stores_no_link(place_for: Any) -> None:
    place = await place_for(Sent())
    bench = place.bench
    await sweep(bench.runtime)
    await fetch(bench.runtime)
    stage = Deliver(bench.runtime, {}, mx_breaker=Breaker(PauseStore(bench.runtime.database), MX))
    (job,) = (await stage.claim(10)).jobs
    await bench.sql("UPDATE notifications SET lease_expires_at = '2020-01-01 00:00:00'")
    await sweep(bench.runtime)
    await stage.settle([await stage.work(job)])
    assert place.channel.messages == []
    assert await place.stored() == []


class Torn(Channel):
    """A channel whose task is cancelled: after dispatch was committed, or before."""

    def __init__(self, *, after_dispatch: bool) -> None:
        super().__init__([Sent()])
        self.after_dispatch = after_dispatch

    async def send(self, message: Message, dispatching: Dispatching) -> Outcome:
        self.messages.append(message)
        if self.after_dispatch:
            await dispatching()
        raise asyncio.CancelledError


@pytest.mark.parametrize("after_dispatch", [False, True])
async def test_a_task_that_is_cut_short_keeps_only_links_that_may_have_left(
    place_for: Any,
    after_dispatch: bool,
) -> None:
    place = await place_for()
    bench = place.bench
    place.channel = bench.runtime.channels["email"] = Torn(after_dispatch=after_dispatch)
    await sweep(bench.runtime)
    await fetch(bench.runtime)
    stage = Deliver(bench.runtime, {}, mx_breaker=Breaker(PauseStore(bench.runtime.database), MX))
    (job,) = (await stage.claim(10)).jobs
    with pytest.raises(asyncio.CancelledError):
        await stage.work(job)
    await stage.release([job])
    assert await bench.one("SELECT state FROM notifications") == ("unknown" if after_dispatch else "pending")
    assert await place.stored() == (place.channel.hashes if after_dispatch else [])


async def test_an_old_window_is_not_minted_anew_but_the_member_is_read(place_for: Any) -> None:
    place = await place_for()
    bench = place.bench
    await sweep(bench.runtime)
    await fetch(bench.runtime)
    await bench.sql("UPDATE windows SET fetched_at = '2020-01-01 00:00:00'")
    await deliver(bench.runtime)
    assert place.mx.asked == ["window", "member"]
    assert await bench.one("SELECT state FROM notifications") == "sent"
    assert await bench.one("SELECT count(*) FROM windows") == 1


async def test_a_window_that_a_click_used_up_stops_no_message(place_for: Any) -> None:
    place = await place_for()
    bench = place.bench
    await sweep(bench.runtime)
    await fetch(bench.runtime)
    await bench.sql("UPDATE windows SET uri = NULL, fetched_at = '2020-01-01 00:00:00'")
    await deliver(bench.runtime)
    assert await bench.one("SELECT state FROM notifications") == "sent"
    assert await bench.one("SELECT state FROM reconnections") == "notified"


async def test_a_customer_who_is_back_gets_no_message_and_no_link(place_for: Any) -> None:
    place = await place_for()
    bench = place.bench
    await sweep(bench.runtime)
    await fetch(bench.runtime)
    await bench.sql("UPDATE windows SET fetched_at = '2020-01-01 00:00:00'")
    later = bench.runtime.clock.now() + timedelta(seconds=1)
    place.mx.member = {"connection_status": "CONNECTED", "successfully_aggregated_at": later}
    await deliver(bench.runtime)
    assert place.channel.messages == []
    assert await bench.one("SELECT state FROM reconnections") == "reconnected"
    assert await place.stored() == []


async def test_without_a_public_address_no_link_is_stored(place_for: Any) -> None:
    place = await place_for(public_base_url=None)
    await place.work()
    (message,) = place.channel.messages
    assert (message.link, message.banks[0].link) == (None, _URI)
    assert await place.stored() == []
