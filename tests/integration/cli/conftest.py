"""The command `reconnect` with a database of its own, and delivery reports for it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.machine import Machine, environment_for
from worker.channels.email.message import message_id

#: Any domain will do: the sender's domain may have changed since the mail was sent.
DOMAIN = "ledgerly.example"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """``reconnect …`` in a folder with a migrated SQLite database. There is no broker: these commands work without one."""
    with ExitStack() as stack:
        machine = Machine(tmp_path, environment_for(tmp_path, "redis://127.0.0.1:9/0"), stack)
        assert machine("migrate").code == 0
        yield machine


def _report(
    address: str | None,
    code: str,
    *,
    key: str | None = None,
    returned: str | None = None,
    action: str = "failed",
) -> bytes:
    recipient = f"Final-Recipient: rfc822; {address}\n" if address else ""
    header = returned or (f"Message-ID: {message_id(key, DOMAIN)}" if key else None)
    original = f"--b\nContent-Type: text/rfc822-headers\n\n{header}\n\n" if header else ""
    text = (
        'From: MAILER-DAEMON@mx.example\nContent-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n'
        "--b\nContent-Type: text/plain\n\nSorry.\n--b\nContent-Type: message/delivery-status\n\n"
        f"Reporting-MTA: dns; mx.example\n\n{recipient}Action: {action}\nStatus: {code}\n\n{original}--b--\n"
    )
    return text.encode()


@pytest.fixture
def report() -> Callable[..., bytes]:
    """Makes a delivery report about an address. With ``key`` it names the mail of that message key."""
    return _report


@pytest.fixture
def told() -> Callable[..., Any]:
    """Inserts a user and a notification to them, by default a sent mail; returns its message key."""

    async def write(
        bench: Any, name: str, *, email: str | None = "", state: str = "sent", channel: str = "email"
    ) -> str:
        address = f"{name}@mail.example" if email == "" else email
        await bench.sql("INSERT INTO users (user_guid, email) VALUES (:u, :e)", u=f"USR-{name}", e=address)
        now = bench.stored(bench.runtime.clock.now())
        await bench.sql(
            "INSERT INTO notifications (user_guid, channel, step, state, message_key, created_at, sent_at, outcome) "
            "VALUES (:u, :c, 0, :s, :k, :at, :at, 'sent')",
            u=f"USR-{name}", c=channel, s=state, k=f"key-{name}", at=now,
        )  # fmt: skip
        return f"key-{name}"

    return write
