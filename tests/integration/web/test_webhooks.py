"""``POST /webhooks/mx``: every body that gets a 204 is stored, each distinct hint once. Nothing else is accepted."""

import asyncio
import base64
import gzip
import json
from typing import Any

import aiohttp
import pytest
import structlog.testing
from sqlalchemy import text

from worker.web.limits import Limit

PATH = "/webhooks/mx"
AUTH = "mx:pass:word ü"
JSON = {"Content-Type": "application/json"}


def basic(credentials: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}


def status(n: int = 1, **fields: Any) -> dict[str, Any]:
    """A CONNECTION_STATUS as MX sends it."""
    return {
        "action": "CHANGED",
        "type": "CONNECTION_STATUS",
        "connection_status": "DENIED",
        "connection_status_id": 2,
        "connection_status_message": "The credentials of Ann are wrong.",
        "member_guid": f"MBR-{n}",
        "user_guid": f"USR-{n}",
    } | fields


async def post(site: Any, body: Any, *, headers: Any = None, **more: str) -> int:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    response, _ = await site.ask("POST", PATH, data=data, headers=(headers or basic(AUTH) | JSON) | more)
    return int(response.status)


async def rows(site: Any) -> list[Any]:
    return list(
        await site.bench.sql("SELECT kind, member_guid, state, outcome, times FROM hints ORDER BY received_at, key")
    )


async def woken(site: Any) -> None:
    """Wait until the stage ``sync`` was woken."""
    while ("sync", 1) not in site.bench.woken:  # noqa: ASYNC110 - a list has no event
        await asyncio.sleep(0.01)


async def test_a_webhook_is_stored_wakes_the_stage_and_changes_nothing(site_for: Any) -> None:
    site = await site_for(mx_webhook_auth=AUTH)
    await site.bench.member("1", connection_status="CONNECTED")
    response, body = await site.ask("POST", PATH, data=json.dumps(status()), headers=basic(AUTH) | JSON)
    assert (response.status, body) == (204, "")
    assert await rows(site) == [("CONNECTION_STATUS", "MBR-1", "due", None, 1)]
    await asyncio.wait_for(woken(site), 5)
    assert await site.bench.one("SELECT connection_status FROM members") == "CONNECTED"
    assert await site.bench.sql("SELECT 1 FROM reconnections") == []


async def test_the_same_hint_is_one_row_and_is_due_again_once_it_was_done(site_for: Any) -> None:
    site = await site_for(mx_webhook_auth=AUTH)
    bodies = [status(), status(), dict(reversed(status().items())), status(2), status(connection_status="IMPAIRED")]
    assert await asyncio.gather(*(post(site, body) for body in bodies)) == [204] * 5
    assert sorted(row[1:] for row in await rows(site)) == [
        ("MBR-1", "due", None, 1),
        ("MBR-1", "due", None, 3),
        ("MBR-2", "due", None, 1),
    ]
    await site.bench.sql(
        "UPDATE hints SET state = 'done', next_attempt_at = NULL, outcome = 'read' WHERE member_guid = 'MBR-2'"
    )
    await site.bench.sql("UPDATE hints SET state = 'leased' WHERE connection_status = 'IMPAIRED'")
    assert [await post(site, body) for body in (status(2), status(connection_status="IMPAIRED"))] == [204, 204]
    found = {(row[0], row[1]): row[2] for row in await site.bench.sql("SELECT member_guid, state, times FROM hints")}
    assert found == {("MBR-1", "due"): 3, ("MBR-1", "leased"): 2, ("MBR-2", "due"): 2}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_only_what_mx_sends_with_the_right_credentials_comes_in(
    site_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limits import RateLimitItemPerMinute

    monkeypatch.setattr(Limit.UNAUTHORISED, "_value_", RateLimitItemPerMinute(1000))
    site = await site_for(mx_webhook_auth=AUTH)
    wrong = [{}, basic("mx:pass"), basic("mx:pass:word ü "), basic(""), {"Authorization": "Basic %%%"}]
    wrong += [{"Authorization": f"Bearer {AUTH.encode().hex()}"}, {"Authorization": "Basic"}]
    for headers in wrong:
        response, _ = await site.ask("POST", PATH, data=json.dumps(status()), headers=headers | JSON)
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Basic realm=")
    twice = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nConnection: close\r\nContent-Length: 2\r\n"
    twice += "".join(f"Authorization: {value}\r\n" for value in basic(AUTH).values()) * 2
    assert (await site.raw(f"{twice}\r\n{{}}".encode())).startswith(b"HTTP/1.1 401 ")
    assert await rows(site) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_bearer_token_works_as_well(site_for: Any) -> None:
    site = await site_for(mx_webhook_auth="bearer s3cret.token")
    for value, expected in (("Bearer s3cret.token", 204), ("bearer s3cret.token", 204), ("Bearer s3cret", 401)):
        assert await post(site, status(), headers={"Authorization": value} | JSON) == expected
    assert await post(site, status(), headers=basic("bearer:s3cret.token") | JSON) == 401


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_each_wrong_request_has_its_status_and_stores_nothing(site_for: Any) -> None:
    site = await site_for(mx_webhook_auth=AUTH)
    large = status(padding="x" * 65_536)
    assert await post(site, large) == 413

    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * 4096

    response, _ = await site.ask("POST", PATH, data=chunks(), headers=basic(AUTH) | JSON)
    assert response.status == 413
    assert await post(site, status(), headers=basic(AUTH) | {"Content-Type": "text/plain"}) == 415
    assert await post(site, gzip.compress(b"{}"), **{"Content-Encoding": "gzip"}) == 415
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        response, _ = await site.ask(method, PATH, headers=basic(AUTH))
        assert (response.status, response.headers["Allow"]) == (405, "POST")
    response, _ = await site.ask("POST", PATH, data=b"{}", headers=basic(AUTH) | JSON | {"Host": "elsewhere.example"})
    assert response.status == 421
    assert await rows(site) == []
    assert await post(site, status(padding="x" * 60_000), **{"Content-Type": "application/json; charset=utf-8"}) == 204
    unset = await site_for()
    assert await post(unset, status()) == 404


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_can_never_become_useful_is_counted_and_not_sent_again(site_for: Any) -> None:
    site = await site_for(mx_webhook_auth=AUTH)
    revoked = {"type": "CONSENT_REVOKED", "consentId": "c-1", "customer": {"name": "Ann"}}
    for body in (
        b"{broken",
        b"{broken",
        b"[]",
        revoked,
        {"type": "MEMBER", "guid": None},
        status(member_guid="x", user_guid=None),
    ):
        assert await post(site, body) == 204
    assert sorted(await rows(site)) == [
        ("CONNECTION_STATUS", None, "unused", "no_member", 1),
        ("CONSENT_REVOKED", None, "unused", "no_member", 1),
        ("MEMBER", None, "unused", "no_member", 1),
        ("UNREADABLE", None, "unused", "not_readable", 1),
        ("UNREADABLE", None, "unused", "not_readable", 2),
    ]
    assert site.bench.woken == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_limits_throttle_those_who_guess_and_never_mx(site_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from limits import RateLimitItemPerMinute

    for limit in Limit:
        monkeypatch.setattr(limit, "_value_", RateLimitItemPerMinute(3))
    site = await site_for(mx_webhook_auth=AUTH)
    here = {"X-Forwarded-For": "203.0.113.7"}
    guessed = [await post(site, status(), headers=basic("mx:guess") | JSON | here) for _ in range(5)]
    assert guessed == [401, 401, 401, 429, 429]
    assert [await post(site, status(n), **here) for n in range(12)] == [204] * 12


async def test_no_204_goes_out_before_its_commit(site_for: Any) -> None:
    """While another transaction locks the table, no request is answered. After its end all get a 204."""
    site = await site_for(mx_webhook_auth=AUTH)
    engine = site.bench.runtime.database.engine
    async with engine.begin() as connection:
        if engine.dialect.name != "sqlite":  # it has one writer at a time anyway
            await connection.execute(text("LOCK TABLE hints IN SHARE MODE"))
        asking = [asyncio.create_task(post(site, status(n))) for n in range(30)]
        done, _ = await asyncio.wait(asking, timeout=0.5)
        assert not done
    assert await asyncio.gather(*asking) == [204] * 30
    assert len(await rows(site)) == 30


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_database_that_fails_makes_mx_send_it_again(site_for: Any) -> None:
    site = await site_for(mx_webhook_auth=AUTH)
    await site.bench.sql("ALTER TABLE hints RENAME TO away")
    response, _ = await site.ask("POST", PATH, data=json.dumps(status()), headers=basic(AUTH) | JSON)
    assert response.status == 503
    assert int(response.headers["Retry-After"]) > 0
    await site.bench.sql("ALTER TABLE away RENAME TO hints")
    assert await post(site, status()) == 204


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_no_log_holds_an_address_a_secret_or_a_body(site_for: Any) -> None:
    site = await site_for(mx_webhook_auth=AUTH)
    hidden = status(1, note="Ann <ann@mail.example>", type="event")
    with structlog.testing.capture_logs() as logs:
        for body in (hidden, b"{Ann ann@mail.example", status(2)):
            assert await post(site, body, **{"X-Forwarded-For": "203.0.113.7"}) == 204
        assert await post(site, hidden, headers=basic("mx:guessed-secret") | JSON) == 401
        await site.stack.aclose()
    came = [log for log in logs if log["event"] == "webhooks"]
    assert sum(sum(count for count in log.values() if isinstance(count, int)) for log in came) == 3
    assert {"route": "/webhooks/mx", "status": 401}.items() <= logs[-2].items()
    for secret in ("Ann", "ann@", "203.0.113", "MBR-1", "USR-1", "guessed", "pass", "Basic"):
        assert secret not in repr(logs)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_client_that_goes_away_loses_nothing_for_the_others(site_for: Any) -> None:
    site = await site_for(mx_webhook_auth=AUTH)
    url, headers = site.base + PATH, basic(AUTH) | JSON
    for n in range(5):
        with pytest.raises((aiohttp.ClientError, TimeoutError)):
            async with site.session.post(
                url, json=status(n), headers=headers, timeout=aiohttp.ClientTimeout(total=0.001)
            ):
                pass
    assert await post(site, status(9)) == 204
    assert ("CONNECTION_STATUS", "MBR-9", "due", None, 1) in await rows(site)
