"""Writes links, messages and reconnections for the tests of the page and of its button."""

from datetime import datetime, timedelta
from random import SystemRandom
from typing import Any

from worker.policy.links import hash_of, new_token
from worker.store.links import LinkStore, NewLink

DAYS_40 = timedelta(days=40)


async def reconnection(
    bench: Any,
    name: str,
    *,
    user: str | None = None,
    state: str = "notified",
    reason: str = "connection_status",
    since: timedelta = timedelta(days=-1),
    **columns: Any,
) -> int:
    """Write a reconnection, and its member unless that exists; return the reconnection's id."""
    if not await bench.sql("SELECT 1 FROM members WHERE member_guid = :m", m=f"MBR-{name}"):
        await bench.member(name, user=user, connection_status="DENIED", is_oauth=True, institution_name=f"Bank {name}")
    now = bench.runtime.clock.now()
    values = {
        # From 101 on, unlike the ids of windows and messages, so that a statement that confuses two kinds of id fails.
        "id": 101 + await bench.one("SELECT count(*) FROM reconnections"),
        "member_guid": f"MBR-{name}",
        "user_guid": f"USR-{user or name}",
        "institution_code": "alder",
        "state": state,
        "reason": reason,
        "broken_since": now + since,
        "opened_at": now + min(since, timedelta(0)),
        "closed_at": None if state in {"due", "leased", "ready", "notified"} else now,
        "next_attempt_at": now + timedelta(days=3) if state in {"due", "notified"} else None,
        "next_check_at": now + timedelta(days=1) if state == "notified" else None,
        "notified_at": now if state == "notified" else None,
        "first_notified_at": now if state == "notified" else None,
        "epoch": 1,
        "step": 1 if state == "notified" else 0,
    } | columns
    values = {key: bench.stored(value) if isinstance(value, datetime) else value for key, value in values.items()}
    names = ", ".join(values)
    return int(
        await bench.one(
            f"INSERT INTO reconnections ({names}) VALUES ({', '.join(f':{n}' for n in values)}) RETURNING id", **values
        )
    )


async def message(bench: Any, user: str, *reconnections: int, state: str = "sent", uri: str | None = None) -> int:
    """Write a message that named these reconnections, each with a stored window; return the message's id."""
    now = bench.runtime.clock.now()
    id_ = await bench.one(
        "INSERT INTO notifications (user_guid, channel, step, state, message_key, created_at, sent_at, next_attempt_at) "
        "VALUES (:u, 'email', 0, :s, :k, :n, :n, :n) RETURNING id",
        u=f"USR-{user}", s=state, k=new_token(SystemRandom()), n=bench.stored(now),
    )  # fmt: skip
    for each in reconnections:
        window = await bench.one(
            "INSERT INTO windows (reconnection_id, epoch, member_guid, uri, fetched_at) "
            "SELECT id, epoch, member_guid, :uri, :n FROM reconnections WHERE id = :r RETURNING id",
            r=each, uri=bench.runtime.vault.encrypt(uri) if uri else None, n=bench.stored(now),
        )  # fmt: skip
        await bench.sql(
            "INSERT INTO notification_reconnections (notification_id, reconnection_id, window_id, step, channel) "
            "VALUES (:m, :r, :w, 0, 'email')",
            m=id_, r=each, w=window,
        )  # fmt: skip
    return int(id_)


async def link(bench: Any, user: str, notification: int | None = None, *, days: float = 40) -> str:
    """Write a link of this user; return its token."""
    token, now = new_token(SystemRandom()), bench.runtime.clock.now()
    new = NewLink(
        token_hash=hash_of(token),
        user_guid=f"USR-{user}",
        expires_at=now + timedelta(days=days),
        notification_id=notification,
    )
    await LinkStore(bench.runtime.database).make(new, now=now)
    return token


async def linked(bench: Any, name: str = "ann", **columns: Any) -> tuple[str, int]:
    """Write a link in a sent message about one reconnection; return its token and the reconnection's id."""
    uri = columns.pop("uri", None)
    id_ = await reconnection(bench, name, **columns)
    return await link(bench, name, await message(bench, name, id_, uri=uri)), id_
