"""The headers of every answer, and requests that are refused before they are handled."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.integration.stages.links import link, linked
from tests.integration.web.conftest import Html
from worker.policy.links import new_token
from worker.web import guard, links

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
}


def _check(headers: Any) -> None:
    for name, value in HEADERS.items():
        assert headers[name] == value
    policy = headers["Content-Security-Policy"]
    assert all(part in policy for part in ("default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"))
    assert not any(part in policy for part in ("form-action", "unsafe", "script", "http"))
    assert headers["Server"] == "reconnect"
    assert "Set-Cookie" not in headers


async def test_every_answer_has_the_headers_and_a_page(site_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site = await site_for()
    token, _ = await linked(site.bench)

    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"secret {token}")

    for method, path, body, status in [
        ("GET", f"/r/{token}", None, 200),
        ("HEAD", f"/r/{token}", None, 200),
        ("GET", "/r/nothing", None, 404),
        ("GET", "/", None, 404),
        ("GET", f"/R/{token}", None, 404),
        ("GET", "/done", None, 200),
        ("PUT", f"/r/{token}", b"", 405),
        ("DELETE", "/done", None, 405),
        ("POST", f"/r/{token}", b"x=" + b"y" * 5000, 413),
        ("GET", "/healthz", None, 200),
        ("GET", "/readyz", None, 200),
    ]:
        response, text = await site.ask(
            method, path, data=body, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert response.status == status, (method, path, text)
        _check(response.headers)
        assert response.status != 405 or response.headers["Allow"]
        if "html" in response.headers["Content-Type"] and method != "HEAD":
            Html(text).check()
    monkeypatch.setattr(links, "page_of", broken)
    response, text = await site.ask("GET", f"/r/{token}")
    assert response.status == 500
    _check(response.headers)
    Html(text).check()
    assert "Traceback" not in text
    assert token not in text


async def test_what_is_no_request_gets_the_headers_too(site_for: Any) -> None:
    site = await site_for()
    host = f"Host: 127.0.0.1:{site.port}\r\n"
    for request, status in [
        (f"GET /{'a' * 9000} HTTP/1.1\r\n{host}\r\n", 431),
        (f"GET / HTTP/1.1\r\n{host}X: {'a' * 9000}\r\n\r\n", 431),
        (f"GET / HTTP/1.1\r\n{host}" + "".join(f"X-{n}: y\r\n" for n in range(200)) + "\r\n", 431),
        ("nonsense\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\n{host}Expect: a-miracle\r\nConnection: close\r\n\r\n", 417),
    ]:
        answer = (await site.raw(request.encode())).decode()
        head, _, _ = answer.partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        assert first.split()[1] == str(status), (request[:40], first)
        _check(dict(line.split(": ", 1) for line in lines))


async def test_https_is_asked_for_only_where_it_is_served(site_for: Any) -> None:
    site = await site_for()
    response, _ = await site.ask("GET", "/r/x")
    assert "Strict-Transport-Security" not in response.headers
    site = await site_for(public_base_url="https://Reconnect.Example.com/bank/")
    for host in ("reconnect.example.com", "RECONNECT.example.com:443", "reconnect.example.com."):
        for path in ("/r/x", "/bank/r/x"):  # a proxy may remove the prefix
            response, _ = await site.ask("GET", path, headers={"Host": host})
            assert (response.status, "max-age" in response.headers["Strict-Transport-Security"]) == (404, True)


async def test_the_style_is_let_through_by_its_hash(site_for: Any) -> None:
    import base64
    import hashlib
    import re

    site = await site_for()
    response, text = await site.ask("GET", "/r/x")
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    hashed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{hashed}'" in response.headers["Content-Security-Policy"]


async def test_head_is_get_without_its_body(site_for: Any) -> None:
    site = await site_for()
    token, _ = await linked(site.bench)
    for path in (f"/r/{token}", "/r/unknown", "/done?status=success"):
        got, _ = await site.ask("GET", path)
        head, text = await site.ask("HEAD", path)
        skip = {"Date", "Connection"}
        assert text == ""
        assert {n: v for n, v in got.headers.items() if n not in skip} == {
            n: v for n, v in head.headers.items() if n not in skip
        }


async def test_an_expired_link_and_an_unknown_one_are_the_same_to_the_byte(site_for: Any) -> None:
    site = await site_for()
    await linked(site.bench)
    await site.bench.sql("UPDATE users SET locale = 'fr'")
    expired = await link(site.bench, "ann", days=-1)
    unknown = new_token(site.bench.runtime.rng)
    for method in ("GET", "POST"):
        answers = []
        for token in (expired, unknown, "x", "%00", "a" * 500):
            response, text = await site.ask(method, f"/r/{token}")
            answers.append((response.status, {n: v for n, v in response.headers.items() if n != "Date"}, text))
        assert answers[0][0] == 404
        assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        (["evil.example"], 421),
        ([], 421),
        (["127.0.0.1"], 421),
        (["127.0.0.1:1"], 421),
        (["127.0.0.1:{port}@evil.example"], 421),
        (["127.0.0.1:{port}"], 404),
    ],
)
async def test_another_host_is_refused_but_for_probes(site_for: Any, hosts: list[str], status: int) -> None:
    site = await site_for()
    lines = "".join(f"Host: {host.format(port=site.port)}\r\n" for host in hosts)
    for path, wanted in (
        ("/r/x", status),
        ("/done?status=success", 200 if status == 404 else status),
        ("/healthz", 200),
    ):
        # HTTP/1.0, because the parser may refuse HTTP/1.1 without a Host before our code runs.
        answer = await site.raw(f"GET {path} HTTP/1.0\r\n{lines}\r\n".encode())
        assert answer.startswith(f"HTTP/1.0 {wanted} ".encode()), answer[:80]
    absolute = f"GET http://evil.example/r/x HTTP/1.1\r\n{lines}Connection: close\r\n\r\n"
    assert (await site.raw(absolute.encode())).split()[1] in {b"421", b"400"}


async def test_a_slow_client_is_cut_off(site_for: Any) -> None:
    site = await site_for(header_seconds=2)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"GET /r/x HTTP/1.1\r\nHost: 127.0")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    # The same on a connection that has served a request. Between two requests it may be idle.
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    whole = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n\r\n".encode()
    writer.write(whole)
    assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"}"), 10)
    await asyncio.sleep(2.5)  # longer than headers may take
    writer.write(whole)
    assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"}"), 10)
    writer.write(whole[:20])
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_a_slow_body_ends_with_a_page(site_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.web import forms

    monkeypatch.setattr(forms, "MOST_SECONDS", 0.3)
    site = await site_for()
    head = f"POST /r/x HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nContent-Length: 10\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\nab"
    assert b"HTTP/1.1 408 " in await site.raw(head.encode())


async def test_no_log_line_names_a_token_a_path_or_an_address(
    site_for: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await site_for()
    token, _ = await linked(site.bench)

    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"secret {token}")

    with capture_logs() as events:
        for path in (f"/r/{token}", f"/r/{token}/", f"/x{token}", f"/done?member_guid=MBR-canary&x={token}"):
            await site.ask("GET", path, headers={"X-Forwarded-For": "203.0.113.77", "Referer": f"http://x/{token}"})
            await site.ask("POST", path, data={"nonce": "canary-nonce"})
        await site.raw(f"GET /r/{token} nonsense\r\n\r\n".encode())
        monkeypatch.setattr(links, "page_of", broken)
        await site.ask("GET", f"/r/{token}")
    routes = {event["route"] for event in events if event["event"] == "web_request"}
    assert routes == {"/r/{token}", "unknown", "/done"}
    # An exception is logged by its type alone: see tests/unit/telemetry.
    said = "\n".join([*(repr(event) for event in events), *(record.getMessage() for record in caplog.records)])
    assert not [canary for canary in (token, "203.0.113.77", "canary", "secret") if canary in said]


async def test_what_takes_too_long_ends_with_a_page(site_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "VIEW_SECONDS", 0.2)
    site = await site_for()

    async def hangs(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(timedelta(minutes=5).total_seconds())

    monkeypatch.setattr(links, "page_of", hangs)
    page = await site.page("/r/x", status=503)
    assert page.buttons == ["Try again"]
