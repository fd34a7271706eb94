"""Requests that no browser makes, and hostile data: each gets an answer of ours, never a 500, and never the bank of another user."""

import asyncio
import re
from typing import Any
from urllib.parse import quote

import pytest

from tests.integration.stages.links import linked, reconnection
from tests.integration.web.conftest import Html
from worker.policy.links import new_token
from worker.web import protocol

FORM = "application/x-www-form-urlencoded"


def _multipart(*parts: str, boundary: str = "b") -> bytes:
    return "".join(f"--{boundary}\r\n{part}\r\n" for part in parts).encode() + f"--{boundary}--\r\n".encode()


def _field(name: str, value: str, *more: str) -> str:
    return "\r\n".join([f'Content-Disposition: form-data; name="{name}"', *more, "", value])


#: Bodies of a press from which no bank can be read: content type, body, and the statuses that it may get.
BODIES: dict[str, tuple[str, bytes, set[int]]] = {
    "nothing": (FORM, b"", {503}),
    "no UTF-8": (FORM, b"nonce=\xff\xfe&reconnection=\xc3\x28", {400, 503}),
    "percent-encoded no UTF-8": (FORM, b"nonce=%FF%FE%00&reconnection=%00", {503}),
    "NUL": (FORM, b"nonce=%00" + b"a" * 22 + b"&reconnection=1%00", {503}),
    "huge number": (FORM, b"reconnection=" + b"9" * 400, {503}),
    "beyond 64 bits": (FORM, b"reconnection=9223372036854775808", {503}),
    "18 digits": (FORM, b"reconnection=" + b"9" * 18, {503}),
    "negative": (FORM, b"reconnection=-1", {503}),
    "no number": (FORM, "reconnection=１２٣".encode(), {503}),
    "array": (FORM, b"reconnection[]=1&reconnection=&reconnection=1;drop", {503}),
    "huge nonce": (FORM, b"nonce=" + b"n" * 4000, {503}),
    "many fields": (FORM, b"&".join(b"a%d=" % n for n in range(600)), {503, 400}),
    "too much": (FORM, b"nonce=" + b"n" * 5000, {413}),
    "charset": (f"{FORM}; charset=utf-16", b"nonce=1", {400, 503}),
    "no charset": (f"{FORM}; charset=x-nothing", b"nonce=1", {400, 415, 503}),
    "codec that is no charset": (f"{FORM}; charset=zlib", b"nonce=1", {400, 415, 503}),
    "JSON": ("application/json", b'{"nonce": "x"}', {503}),
    "XML": ("text/xml", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", {503}),
    "multipart": ("multipart/form-data; boundary=b", _multipart(_field("nonce", "n" * 22)), {503}),
    "multipart without its boundary": ("multipart/form-data", b"--b\r\n\r\n", {400, 503}),
    "multipart that ends early": ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form", {400, 503}),
    "multipart with a file": (
        "multipart/form-data; boundary=b",
        _multipart('Content-Disposition: form-data; name="nonce"; filename="../../x"\r\n\r\nx'),
        {400, 503},
    ),
    "multipart in multipart": (
        "multipart/form-data; boundary=b",
        _multipart("Content-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--"),
        {400, 503},
    ),
    "multipart in another charset": (
        "multipart/form-data; boundary=b",
        _multipart(_field("nonce", "x", "Content-Type: text/plain; charset=zlib")),
        {400, 503},
    ),
    "multipart, compressed": (
        "multipart/form-data; boundary=b",
        _multipart(_field("nonce", "x", "Content-Encoding: gzip")),
        {400, 503},
    ),
    "multipart, wrongly encoded": (
        "multipart/form-data; boundary=b",
        _multipart(_field("nonce", "x", "Content-Transfer-Encoding: base64")),
        {400, 503},
    ),
    "multipart of many parts": (
        "multipart/form-data; boundary=b",
        _multipart(*(_field("a", "") for _ in range(80))),
        {400, 413, 503},
    ),
}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_whatever_is_posted_gets_a_page(site_for: Any) -> None:
    site = await site_for()
    token, _ = await linked(site.bench)
    await site.bench.sql("UPDATE clicks SET minted = false")
    wrong = []
    for name, (kind, body, wanted) in BODIES.items():
        for path in (f"/r/{token}", f"/u/{token}"):
            response, text = await site.ask(
                "POST", path, data=body, headers={"Content-Type": kind, "X-Forwarded-For": f"198.51.100.{len(name)}"}
            )
            # MX cannot be reached, so a press whose body can be read gets a 503. On /u the same body gets the page.
            if (
                response.status not in (wanted if path.startswith("/r") else {200, *(wanted - {503})})
                and response.status != 429
            ):
                wrong.append((name, path[:3], response.status))
            Html(text).check()
        await site.bench.sql("UPDATE clicks SET minted = false")
    assert wrong == []
    assert await site.bench.one("SELECT count(*) FROM users WHERE opted_out_at IS NOT NULL") == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_whatever_is_asked_for_gets_a_page(site_for: Any) -> None:
    site = await site_for()
    token, _ = await linked(site.bench)
    for path in (
        "/r/%00", "/r/%ff%fe", "/r/%ED%A0%80", "/r/" + "%20" * 500, "/r/" + "a" * 3000, "/r/..%2f..%2fetc%2fpasswd", f"/r/{token}%00",
        f"/r/{token}%0d%0aSet-Cookie:%20a=b", f"//evil.example/r/{token}", f"/./r/{token}", "/r/../../etc/passwd", "/u/%00", "/u/" + "ü" * 200,
        f"/r/{token}/", f"/r/{token}?reconnection=1&nonce=2", f"/r/{token};x=y", "/done?" + "&".join(f"a{n}=b" for n in range(500)),
        "/done?member_guid=MBR-%00", "/done?member_guid=%ff&status=%ff", "/done?status=error&error_reason=" + quote("<script>alert(1)</script>"),
        "/done?amp;amp;=&amp;member_guid=%0d%0a", "/readyz?x", "/%", "/%zz", "/\\evil.example", "/?\x7f",
    ):  # fmt: skip
        for method in ("GET", "POST", "OPTIONS", "TRACE", "PATCH", "BREW"):
            request = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nContent-Length: 0\r\nX-Forwarded-For: 198.51.100.{len(path) % 250}\r\nConnection: close\r\n\r\n"
            answer = (await site.raw(request.encode())).decode()
            status = int(answer.split()[1])
            assert status in {200, 400, 404, 405, 429, 503}, (method, path, answer[:200])
            assert "script" not in answer
            assert "evil.example" not in answer
            assert "\nSet-Cookie" not in answer
            assert status == 400 or "Cache-Control: no-store" in answer
            assert "Location" not in answer


async def _status(site: Any, request: str | bytes) -> list[int]:
    answer = await site.raw(request if isinstance(request, bytes) else request.encode())
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d+) ", answer)]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_two_requests_cannot_be_hidden_in_one(site_for: Any) -> None:
    site = await site_for()
    token, _ = await linked(site.bench)
    host = f"Host: 127.0.0.1:{site.port}\r\n"
    hidden = f"POST /u/{token} HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n"
    for head in (
        f"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
        f"Content-Length: 0\r\nContent-Length: {len(hidden)}\r\n\r\n{hidden}",
        f"Content-Length: +0\r\n\r\n{hidden}",
        f"Content-Length: 0x0\r\n\r\n{hidden}",
        f"Content-Length : 0\r\n\r\n{hidden}",
        f"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}",
        f"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}",
        f"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n{hidden}",
        f"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n{hidden}",
        f"X: y\rContent-Length: 0\r\n\r\n{hidden}",
        f"X: y\x00z\r\nContent-Length: 0\r\n\r\n{hidden}",
    ):
        statuses = await _status(site, f"POST /r/x HTTP/1.1\r\n{host}{head}")
        assert statuses in ([400], [404, 400]), (head[:60], statuses)
    for hosts in (
        f"{host}{host}",
        "Host: evil.example\r\n" + host,
        f"{host}Host : evil.example\r\n",
        "Host: \r\n",
        f"Host: 127.0.0.1:{'9' * 5000}\r\n",
        f"Host: 127.0.0.1:{site.port}/x\r\n",
        f"Host: {'ä' * 3000}\r\n",
        f"Host: {'a.' * 3000}\r\n",
        "Host: \xff\r\n",
        "Host: [::1\r\n",
    ):
        (status,) = await _status(site, f"GET /r/x HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode("latin-1"))
        assert status in {400, 421}, hosts[:60]
    for target, wanted in (
        (f"http://127.0.0.1:{site.port}/r/{token}", {200}),
        (f"HTTP://127.0.0.1:{site.port}/r/{token}", {200}),
        (f"http://127.0.0.1:{site.port}", {404}),
        (f"http://evil.example/r/{token}", {400, 421}),
        (f"http://127.0.0.1:{site.port}@evil.example/r/{token}", {400, 421}),
        (f"https:///r/{token}", {400, 421}),
        (f"http://127.0.0.1:{'9' * 4000}/r/x", {400, 421}),
        ("http://[::1/r/x", {400, 421}),
        ("http://127.0.0.1:99999/r/x", {400, 421}),
        ("javascript:alert(1)", {400, 421}),
        (f"127.0.0.1:{site.port}", {400, 421}),
        ("*", {400, 404, 405}),
    ):
        for method in ("GET", "OPTIONS", "CONNECT"):
            (status,) = await _status(site, f"{method} {target} HTTP/1.1\r\n{host}Connection: close\r\n\r\n")
            assert status in (wanted if method == "GET" else {400, 404, 405, 421}), (method, target[:60], status)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_link_never_reaches_another_users_reconnection(site_for: Any) -> None:
    site = await site_for()
    ann, first = await linked(site.bench, "ann", uri="https://bank.example/oauth?state=anns")
    _, other = await linked(site.bench, "bob", uri="https://bank.example/oauth?state=bobs")
    closed = await reconnection(site.bench, "cid", state="exhausted")
    for named in (other, closed, first + 10_000, 0):
        response, text = await site.ask("POST", f"/r/{ann}", data={"reconnection": str(named)})
        # Every press counts for her only bank. The first gets the stored URI, later ones a 503, because MX cannot be reached.
        assert response.status in {303, 503}
        assert "bobs" not in text + response.headers.get("Location", "")
        assert "Bank bob" not in text
        assert "Bank cid" not in text
    assert await site.bench.one("SELECT count(*) FROM clicks WHERE reconnection_id <> :f", f=first) == 0
    await site.ask("POST", f"/u/{ann}", data={"choice": "bank", "member": "MBR-bob"})
    assert await site.bench.one("SELECT count(*) FROM members WHERE muted_at IS NOT NULL") == 0
    # The message names a member that belongs to another user by now.
    await site.bench.sql(
        "UPDATE notification_reconnections SET step = reconnection_id, notification_id = (SELECT min(id) FROM notifications)"
    )
    page = await site.page(f"/r/{ann}")
    assert "Bank bob" not in page.source
    assert (await site.ask("POST", f"/r/{ann}", data={"reconnection": str(other)}))[0].status in {303, 503}
    assert await site.bench.one("SELECT count(*) FROM clicks WHERE reconnection_id <> :f", f=first) == 0


HOSTILE_NAMES = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}{% raw %}", "a\u202eb\u2066c\u200b", "\x00\x1b[31mbank\r\nSet-Cookie: a=b",
    "بنك 24", "&lt;b&gt;", "x" * 5000, " \u2028 ", "%(name)s {0} $1", "</title><h1>", "\ufeff\U000e0041",
]  # fmt: skip


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_names_from_data_run_nothing_and_reorder_nothing(site_for: Any) -> None:
    site = await site_for(app_name="<b>Led{{7*7}}ger\u202ely")
    for n, name in enumerate(HOSTILE_NAMES):
        token, _ = await linked(site.bench, f"m{n}")
        await site.bench.sql("UPDATE members SET institution_name = :i WHERE member_guid = :m", i=name, m=f"MBR-m{n}")
        for path in (f"/r/{token}", f"/u/{token}"):
            for language in ("en", "fr"):
                response, text = await site.ask("GET", path, headers={"Accept-Language": language})
                page = Html(text)
                assert (response.status, len(page.texts["h1"])) == (200, 1)
                assert not set("\u202e\u2066\u200b\u2028\x00\x1b\ufeff") & set(page.source)
                assert "<bdi>49" not in page.source  # a nonce may hold 49 too
                assert len(page.source) < 20_000
                assert {"img", "b", "script"} & set(page.tags) == set()
        await site.bench.sql("UPDATE reconnections SET state = 'reconnected', closed_at = opened_at")
        response, text = await site.ask("POST", f"/r/{token}")
        assert response.status == 200
        assert {"img", "b", "script"} & set(Html(text).tags) == set()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_any_uri_that_may_be_stored_can_be_led_to(site_for: Any) -> None:
    site = await site_for()
    for n, (uri, led) in enumerate(
        {
            "https://bank.example/ü?scope=ä&state=é": "https://bank.example/%C3%BC?scope=%C3%A4&state=%C3%A9",
            "https://bücher.example/x?state=1#ß": "https://xn--bcher-kva.example/x?state=1#%C3%9F",
            "https://bank.example/a%2Fb?state=%2B+%25'()[]|^`{}": "https://bank.example/a%2Fb?state=%2B+%25'()[]|^`{}",
            "https://bank.example/?state=" + "s" * 8100: "https://bank.example/?state=" + "s" * 8100,
        }.items()
    ):
        token, _ = await linked(site.bench, f"m{n}", uri=uri)
        answer = await site.raw(
            f"POST /r/{token} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        head, _, _ = answer.partition(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 303 "), answer[:80]
        assert head.isascii()
        assert f"\r\nLocation: {led}\r\n" in head.decode() + "\r\n"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_long_headers_cost_nothing(site_for: Any) -> None:
    site = await site_for()
    bombs = [
        ("Accept-Language", ",".join(f"x{n};q=0.{n}" for n in range(500))),
        ("Accept-Language", "en;q=" + "9" * 7000),
        ("Accept-Language", "fr-" + "a-" * 3000),
        ("Accept-Language", "%n\xff;q=nan,*;q=inf,de;q=1e999,zh_Hans@x=y"),
        ("X-Forwarded-For", ",".join(["127.0.0.1"] * 800)),
        ("X-Forwarded-For", "1" * 8000),
        ("X-Forwarded-For", "::" + ":" * 5000),
        ("X-Forwarded-For", "[" * 4000 + ", [::1]:99999999999"),
        ("X-Forwarded-For", "٣.٣.٣.٣"),
        ("Cookie", "a=" + "b" * 8000),
        ("X-Reconnect-Challenge", "f" * 8000),
    ]
    loop = asyncio.get_running_loop()
    for name, value in bombs:
        for path in (f"/r/{new_token(site.bench.runtime.rng)}", "/readyz"):
            request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n{name}: ".encode() + value.encode("utf-8")
            began = loop.time()
            (status,) = await _status(site, request + b"\r\nConnection: close\r\n\r\n")
            assert status in {404, 200}, (name, value[:30], status)
            assert loop.time() - began < 2


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_who_reads_no_answer_is_cut_off(site_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "SEND_SECONDS", 0.5)
    site = await site_for()
    _, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1)
    request = f"GET /r/x HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n\r\n".encode()

    async def ask_on() -> None:
        while True:
            writer.write(request * 100)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(ask_on(), 30)
    writer.close()
    assert (await site.ask("GET", "/healthz"))[0].status == 200


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_body_that_nobody_wants_is_not_waited_for(site_for: Any) -> None:
    site = await site_for()
    for start in ("POST /done", "POST /x", "PUT /healthz", "GET /r/x"):
        head = f"{start} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n"
        for more in ("Content-Length: 999999999\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"):
            (status,) = await _status(site, head + more)  # one answer, then it is closed
            assert status in {404, 405, 408, 413}, (start, status)
    assert await _status(site, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") == [400]
