"""Every step of a member's script, as a client sees it."""

import asyncio
import time
from urllib.parse import urlsplit

import aiohttp
import pytest

from worker.sandbox.oauth_uris import HOSTILE_KINDS
from worker.sandbox.script import STEPS


@pytest.fixture
def scripted(start, member):
    """Starts a sandbox whose ``MBR-1`` has this script."""
    return lambda *script: start([member("MBR-1", *script)])


async def request(sandbox):
    async with sandbox.get("/users/USR-1/members/MBR-1/oauth_window_uri") as response:
        return response.status, response.headers, await response.text()


async def test_steps_are_taken_one_a_request_and_the_last_repeats(scripted):
    sandbox = await scripted("429:1", "503", "ok", "unsupported")
    assert [(await sandbox.window())[0] for _ in range(6)] == [429, 503, 200, 400, 400, 400]


async def test_reads_take_no_step(scripted):
    sandbox = await scripted("409", "ok")
    await sandbox.member()
    await sandbox.member()
    assert [(await sandbox.window())[0] for _ in range(2)] == [409, 200]


@pytest.mark.parametrize(
    ("step", "status", "retry_after", "body"),
    [
        ("401", 401, None, "Unauthorized"),
        ("403", 403, None, "Forbidden"),
        ("406", 406, None, "API version"),
        ("409", 409, None, "Another job"),
        ("429", 429, None, "Too many requests"),
        ("429:7", 429, "7", "Too many requests"),
        ("500", 500, None, "Internal server error"),
        ("502", 502, None, "<html>"),
        ("503", 503, None, "being updated"),
        ("503:120", 503, "120", "being updated"),
        ("504", 504, None, ""),
        ("html", 200, None, "<!doctype html>"),
        ("unsupported", 400, None, "Member cannot use OAuth"),
        ("gone", 404, None, "not found"),
        ("rejected", 422, None, "rejected"),
    ],
)
async def test_a_failure_step_answers_so_and_mints_nothing(scripted, step, status, retry_after, body):
    sandbox = await scripted(step)
    answered, headers, text = await request(sandbox)
    assert (answered, headers.get("Retry-After")) == (status, retry_after)
    assert body in text
    ledger = await sandbox.json("/sandbox/ledger")
    assert ledger["statuses"] == {str(status): 1}
    assert ledger["steps"] == {step: 1}
    assert ledger["windows_minted"] == 0


async def test_slow_is_ok_after_its_seconds(scripted):
    sandbox = await scripted("slow:0.2")
    began = time.monotonic()
    status, body = await sandbox.window()
    assert time.monotonic() - began >= 0.2
    assert status == 200
    assert body["member"]["oauth_window_uri"]


async def test_reset_resets_the_connection_without_an_answer(scripted):
    sandbox = await scripted("reset", "ok")
    address = urlsplit(sandbox.addresses.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    lines = ["GET /users/USR-1/members/MBR-1/oauth_window_uri HTTP/1.1", f"Host: {address.netloc}"]
    lines += ["Accept: application/vnd.mx.atrium.v1+json", "MX-API-Key: key-of-the-test"]
    lines += ["MX-Client-ID: client-of-the-test", "", ""]
    writer.write("\r\n".join(lines).encode())
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    ledger = await sandbox.json("/sandbox/ledger")
    assert (ledger["statuses"], ledger["windows_minted"]) == ({"reset": 1}, 0)
    assert (await sandbox.window())[0] == 200


async def test_reset_is_a_connection_error_to_an_http_client(scripted):
    sandbox = await scripted("reset")
    with pytest.raises(aiohttp.ClientConnectionError):
        await request(sandbox)


async def test_truncated_promises_more_than_it_sends(scripted):
    sandbox = await scripted("truncated", "ok")
    with pytest.raises(aiohttp.ClientPayloadError):
        await request(sandbox)
    assert (await sandbox.json("/sandbox/ledger"))["windows_minted"] == 0
    assert (await sandbox.window())[0] == 200


async def test_a_uri_can_be_null_empty_or_missing(scripted):
    sandbox = await scripted("null_uri", "empty_uri", "missing_uri")
    answers = [(await sandbox.window())[1]["member"] for _ in range(3)]
    assert answers[0]["oauth_window_uri"] is None
    assert answers[1]["oauth_window_uri"] == ""
    assert "oauth_window_uri" not in answers[2]
    assert (await sandbox.json("/sandbox/ledger"))["windows_minted"] == 0


HOSTILE_SIGNS = {
    "http": "http://bank-", "userinfo": "@evil.example/", "backslash": "\\@", "ip": "https://203.0.113.7/",
    "ipv6": "https://[2001:db8::7]/", "decimal_ip": "https://3405803783/", "port": ":8443/", "javascript": "javascript:",
    "data": "data:", "control": "\x00", "newline": "\r\n", "tab": "\t", "space": " ", "quote": '/"/', "angle": "/<b>/", "no_host": "https:///",
    "relative": "/oauth/authorize", "foreign_host": "https://evil.example/",
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE_KINDS)
async def test_a_hostile_uri_breaks_the_rule_it_is_named_after(scripted, kind):
    sandbox = await scripted(f"hostile:{kind}")
    status, body = await sandbox.window()
    uri = body["member"]["oauth_window_uri"]
    assert status == 200
    assert HOSTILE_SIGNS[kind] in uri
    assert uri.startswith("/") == (kind == "relative")
    assert (await sandbox.json("/sandbox/ledger"))["windows_minted"] == 0


async def test_a_gone_member_is_gone_for_readers_too(scripted):
    sandbox = await scripted("gone", "ok")
    await sandbox.window()
    async with sandbox.get("/users/USR-1/members/MBR-1") as response:
        assert response.status == 404
    async with sandbox.get("/users/USR-1/members") as response:
        assert (await response.json())["members"] == []
    assert (await sandbox.window())[0] == 200
    assert (await sandbox.member())["guid"] == "MBR-1"


async def test_a_moved_member_answers_with_its_new_guid(scripted):
    sandbox = await scripted("moved:MBR-new")
    status, body = await sandbox.window()
    assert (status, body["member"]["guid"]) == (200, "MBR-new")
    assert (await sandbox.member("MBR-new"))["guid"] == "MBR-new"
    assert (await sandbox.member("MBR-1"))["guid"] == "MBR-new"
    await sandbox.control(consent="MBR-new")
    assert (await sandbox.member("MBR-new"))["connection_status"] == "CONNECTED"
    counts = (await sandbox.json("/sandbox/ledger"))["members"]
    assert list(counts) == ["MBR-1"]
    assert (counts["MBR-1"]["minted"], counts["MBR-1"]["used"]) == (1, 1)


async def test_a_member_can_move_to_one_that_exists(start, member):
    sandbox = await start([member("MBR-1", "moved:MBR-2"), member("MBR-2", institution_name="The other")])
    _, body = await sandbox.window()
    assert (body["member"]["guid"], body["member"]["name"]) == ("MBR-2", "The other")
    await sandbox.control(consent="MBR-2")
    assert (await sandbox.member("MBR-2"))["connection_status"] == "CONNECTED"
    assert (await sandbox.member("MBR-1"))["connection_status"] == "DENIED"


async def test_connected_means_that_the_customer_is_already_back(scripted):
    sandbox = await scripted("connected")
    before = (await sandbox.member())["successfully_aggregated_at"]
    _, body = await sandbox.window()
    assert body["member"]["connection_status"] == "CONNECTED"
    assert body["member"]["is_being_aggregated"] is False
    assert body["member"]["successfully_aggregated_at"] > before
    assert (await sandbox.member())["connection_status"] == "CONNECTED"


def test_a_new_step_is_tested_here():
    tested = {
        "ok", "401", "403", "406", "409", "429", "429:SECONDS", "500", "502", "503", "503:SECONDS", "504", "slow:SECONDS",
        "reset", "truncated", "html", "null_uri", "missing_uri", "empty_uri", "hostile:KIND", "unsupported", "gone",
        "rejected", "moved:MBR-…", "connected",
            "scan", "link_seconds:SECONDS",  # in test_consent.py
    }  # fmt: skip
    assert set(STEPS) == tested
    assert set(HOSTILE_SIGNS) == set(HOSTILE_KINDS)
