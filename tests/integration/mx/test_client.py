"""The client against a web server: its requests, its results, and what it retries."""

import asyncio
import time

import pytest
from aiohttp import web

import worker
from tests.integration.mx.servers import CLIENT_ID, KEY, MEMBER, URI, USER, saying
from worker.mx.answers import (
    Gone,
    HostileUri,
    Member,
    MemberRead,
    MemberState,
    RefusedClient,
    RejectedRequest,
    RetryLater,
    Unsupported,
    Window,
)
from worker.mx.client import MOST_GONE, MxClient
from worker.mx.client import Mx as MxProtocol
from worker.mx.pacing import Pacing
from worker.mx.retrying import NOT_ASKED, TRIES

WINDOW = Window(uri=URI, member=MemberState(guid=MEMBER, connection_status="DENIED"))


async def test_a_window_is_asked_for_as_the_specification_says(web_mx):
    mx, client = await web_mx(saying())
    assert await client.oauth_window(USER, MEMBER) == WINDOW
    (request,) = mx.requests
    assert request.method == "GET"
    assert request.path == f"/users/{USER}/members/{MEMBER}/oauth_window_uri"
    assert request.headers.getall("Accept") == ["application/vnd.mx.atrium.v1+json"]
    assert request.headers.getall("MX-API-Key") == [KEY]
    assert request.headers.getall("MX-Client-ID") == [CLIENT_ID]
    assert request.headers.getall("User-Agent") == [f"reconnection-worker/{worker.__version__}"]
    assert "Authorization" not in request.headers
    assert dict(request.query) == {"referral_source": "BROWSER"}


async def test_mx_receives_all_four_parameters_as_they_were_set(web_mx):
    mx, client = await web_mx(
        saying(),
        mx_skip_aggregation=True,
        mx_referral_source="APP",
        mx_client_redirect_url="https://app.example/back?to=a+b&x=1%202",
        mx_ui_message_webview_url_scheme="my+app",
    )
    await client.oauth_window(USER, MEMBER)
    assert dict(mx.requests[0].query) == {
        "skip_aggregation": "true",
        "referral_source": "APP",
        "client_redirect_url": "https://app.example/back?to=a+b&x=1%202",
        "ui_message_webview_url_scheme": "my+app",
    }


async def test_a_member_is_read_without_parameters(web_mx):
    mx, client = await web_mx(saying())
    assert await client.read_member(USER, MEMBER) == MemberRead(
        member=Member(guid=MEMBER, connection_status="DENIED", user_guid=USER)
    )
    assert mx.requests[0].path_qs == f"/users/{USER}/members/{MEMBER}"
    assert mx.requests[0].headers["MX-API-Key"] == KEY


async def test_an_identifier_stays_in_its_place_in_the_path(web_mx):
    mx, client = await web_mx(saying())
    await client.read_member(USER, "MBR-1/../../x?y#z")
    assert mx.requests[0].raw_path == f"/users/{USER}/members/MBR-1%2F..%2F..%2Fx%3Fy%23z"


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (400, '{"error": {"message": "Member cannot use OAuth"}}', Unsupported()),
        (400, "<html>MEMBER CANNOT USE OAUTH</html>", Unsupported()),
        (400, "no", RejectedRequest(code="http_400")),
        (422, "no", RejectedRequest(code="http_422")),
        (401, "", RefusedClient(code="http_401")),
        (403, "", RefusedClient(code="http_403")),
        (406, "", RefusedClient(code="http_406")),
        (429, "", RetryLater(code="http_429")),
        (200, '{"member": {"oauth_window_uri": "https://127.1/"}}', HostileUri(code="uri_ip_literal")),
    ],
)
async def test_what_would_be_the_same_in_a_second_is_asked_once(web_mx, status, body, answer):
    mx, client = await web_mx(saying(status, body))
    assert await client.oauth_window(USER, MEMBER) == answer
    assert len(mx.requests) == 1


@pytest.mark.parametrize(
    "first",
    [
        saying(500),
        saying(502, "<html>Bad Gateway</html>"),
        saying(503, Retry_After="0"),
        saying(504),
        saying(409),
        saying(429, Retry_After="0"),
        saying(200, "<html>"),
        saying(200, ""),
        saying(200, "{}"),
        saying(200, '{"member": {"oauth_window_uri": null}}'),
    ],
)
async def test_what_may_pass_is_asked_again(web_mx, first):
    mx, client = await web_mx(first, saying())
    assert await client.oauth_window(USER, MEMBER) == WINDOW
    assert len(mx.requests) == 2


async def test_after_four_tries_the_last_failure_is_the_answer(web_mx):
    mx, client = await web_mx(saying(500), saying(200, "x"), saying(504), saying(503))
    assert await client.oauth_window(USER, MEMBER) == RetryLater(code="http_503")
    assert len(mx.requests) == 4


async def test_a_busy_member_is_asked_twice(web_mx):
    mx, client = await web_mx(saying(409))
    assert await client.oauth_window(USER, MEMBER) == RetryLater(code="http_409", upstream=False)
    assert len(mx.requests) == 2


async def test_retry_after_is_waited_for(web_mx):
    mx, client = await web_mx(saying(503, Retry_After="1"), saying())
    started = time.monotonic()
    assert await client.oauth_window(USER, MEMBER) == WINDOW
    assert time.monotonic() - started >= 1
    assert len(mx.requests) == 2


@pytest.mark.parametrize("status", [429, 503])
async def test_a_long_retry_after_is_handed_back_at_once(web_mx, status):
    mx, client = await web_mx(saying(status, Retry_After="600"))
    started = time.monotonic()
    assert await client.oauth_window(USER, MEMBER) == RetryLater(code=f"http_{status}", after=600)
    assert time.monotonic() - started < 15
    assert len(mx.requests) == 1


async def test_a_wait_that_would_pass_the_deadline_is_not_begun(web_mx):
    mx, client = await web_mx(saying(503, Retry_After="50"), deadline=30)
    started = time.monotonic()
    assert await client.oauth_window(USER, MEMBER) == RetryLater(code="http_503", after=50)
    assert time.monotonic() - started < 15
    assert len(mx.requests) == 1


async def test_tries_and_waits_together_keep_the_deadline(web_mx):
    async def hang(_request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    mx, client = await web_mx(saying(500), hang, deadline=4)
    started = time.monotonic()
    assert await client.oauth_window(USER, MEMBER) == RetryLater(code="timeout")
    assert 3.9 <= time.monotonic() - started < 20
    assert len(mx.requests) == 2


async def test_a_request_that_mx_has_no_time_to_answer_is_not_begun(web_mx, make_settings):
    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(5.0)
        return web.Response(status=500)

    mx, _ = await web_mx(slow)
    settings = make_settings(mx_base_url=mx.url, mx_max_connections=1)
    pacing = Pacing(settings)
    client = MxClient(settings, deadline=6.0, pacing=pacing)
    try:
        # A request may begin within the first 4.5 of the 6 s, but MX answers after 5 s. So neither a retry of the first call nor the
        # first request of the second call begins.
        answers = await asyncio.gather(client.oauth_window(USER, MEMBER), client.oauth_window(USER, MEMBER))
        assert answers == [RetryLater(code="http_500"), RetryLater(code=NOT_ASKED, upstream=False)]
        assert len(mx.requests) == 1
        # The same holds for a click.
        beside = asyncio.create_task(client.oauth_window(USER, MEMBER))
        while not mx.under_way:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.001)
        assert await client.urgent_window(USER, MEMBER, within=6.0) == RetryLater(code=NOT_ASKED, upstream=False)
        await beside
    finally:
        await client.close()
        await pacing.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed_and_the_keys_stay(web_mx, status):
    elsewhere, _ = await web_mx(saying())

    mx, client = await web_mx(saying(status, Location=f"{elsewhere.url}/here"))
    assert await client.oauth_window(USER, MEMBER) == RejectedRequest(code=f"http_{status}")
    assert len(mx.requests) == 1
    assert not elsewhere.requests


async def test_one_connection_serves_many_answers_of_every_kind(web_mx):
    async def packed(_request: web.Request) -> web.Response:
        response = web.Response(body=b'{"member": {"oauth_window_uri": "' + URI.encode() + b'"}}')
        response.enable_compression(web.ContentCoding.gzip)
        return response

    async def in_pieces(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in (b'{"member": {"oauth', b'_window_uri": "', URI.encode(), b'"}}'):
            await response.write(piece)
        await response.write_eof()
        return response

    answers = [saying(), saying(404, "x" * 100_000), saying(401), packed, in_pieces, saying(422), saying(204), saying()]
    mx, client = await web_mx(*answers)
    answered = [await client.oauth_window(USER, MEMBER) for _ in range(len(answers))]
    assert [type(answer) for answer in answered].count(Window) == 5
    assert len(mx.peers) == 1


async def test_no_more_connections_are_opened_than_the_setting_allows(web_mx):
    async def slowly(_request: web.Request) -> web.Response:
        await asyncio.sleep(0.02)
        return await saying()(_request)

    mx, client = await web_mx(slowly, mx_max_connections=3)
    answers = await asyncio.gather(*(client.oauth_window(USER, MEMBER) for _ in range(15)))
    assert answers == [WINDOW] * 15
    assert mx.most_under_way == 3
    assert len(mx.peers) == 3


async def test_cookies_are_not_kept(web_mx):
    mx, client = await web_mx(saying(Set_Cookie="session=1; Path=/"))
    for _ in range(2):
        await client.oauth_window(USER, MEMBER)
    assert all("Cookie" not in request.headers for request in mx.requests)


async def test_a_uri_to_a_host_off_the_allow_list_is_hostile(web_mx):
    _, client = await web_mx(saying(), mx_allowed_uri_hosts="*.moneydesktop.com")
    assert await client.oauth_window(USER, MEMBER) == HostileUri(code="uri_host_not_allowed")


async def test_a_cancelled_call_stops_and_leaves_the_client_usable(web_mx):
    begun = asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        begun.set()
        await asyncio.sleep(30)
        return web.Response()

    _, client = await web_mx(hang, saying())
    call = asyncio.create_task(client.oauth_window(USER, MEMBER))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await client.oauth_window(USER, MEMBER) == WINDOW


async def test_a_client_can_be_closed_before_its_first_call_and_twice(web_mx):
    _, client = await web_mx(saying())
    await client.close()
    await client.oauth_window(USER, MEMBER)
    await client.close()
    await client.close()


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (200, None),
        (401, RefusedClient(code="http_401")),
        (403, RefusedClient(code="http_403")),
        (422, RejectedRequest(code="http_422")),
        (429, RetryLater(code="http_429")),
    ],
)
async def test_a_probe_finds_out_whether_mx_accepts_us(web_mx, status, found):
    mx, client = await web_mx(saying(status))
    assert await client.probe() == found
    assert mx.requests[0].path.endswith("/oauth_window_uri")
    assert MEMBER not in mx.requests[0].path


USERS = saying(200, '{"users": [{"guid": "USR-1"}], "pagination": {"current_page": 1}}')
PAGES = '"pagination": {"current_page": 1, "total_entries": 1}'


async def test_after_many_404s_in_a_row_mx_is_asked_for_what_it_always_has(web_mx):
    async def mx_without_members(request: web.Request) -> web.Response:
        return await (USERS if request.path == "/users" else saying(404))(request)

    mx, client = await web_mx(mx_without_members)

    def lists() -> int:
        return sum(request.path_qs == "/users?page=1&records_per_page=10" for request in mx.requests)

    answers = await asyncio.gather(*(client.oauth_window(USER, MEMBER) for _ in range(MOST_GONE)))
    assert answers == [Gone()] * MOST_GONE
    assert lists() == 0
    assert await client.read_member(USER, MEMBER) == Gone()
    assert await client.read_member(USER, MEMBER) == Gone()
    assert lists() == 1


async def test_whoever_serves_somebody_in_between_is_believed_without_a_question(web_mx):
    mx, client = await web_mx(*([saying(404)] * MOST_GONE), saying(), saying(404))
    for _ in range(MOST_GONE + 1):
        await client.oauth_window(USER, MEMBER)
    assert await client.oauth_window(USER, MEMBER) == Gone()
    assert len(mx.requests) == MOST_GONE + 2


@pytest.mark.parametrize(
    ("says", "answer"),
    [
        (saying(404), RefusedClient(code="not_mx")),
        (saying(200, "<html>Welcome</html>"), RefusedClient(code="not_mx")),
        (saying(200, "[]"), RefusedClient(code="not_mx")),
        (saying(200, '{"users": null}'), RefusedClient(code="not_mx")),
        (saying(200, '{"users": [{"guid": "USR-1"}]}'), RefusedClient(code="not_mx")),
        (saying(200, f'{{"users": [{{"id": 7}}], {PAGES}}}'), RefusedClient(code="not_mx")),
        (saying(200, f'{{"users": ["USR-1"], {PAGES}}}'), RefusedClient(code="not_mx")),
        (saying(200, f'{{"users": [{{"guid": "7"}}], {PAGES}}}'), RefusedClient(code="not_mx")),
        (saying(200, ""), RefusedClient(code="not_mx")),
        (saying(204, ""), RefusedClient(code="not_mx")),
        (saying(206, f'{{"users": [{{"guid": "USR-1"}}], {PAGES}}}'), RefusedClient(code="not_mx")),
        (saying(302, Location="/login"), RefusedClient(code="not_mx")),
        (saying(307, Location="https://mx.example/users"), RefusedClient(code="not_mx")),
        (saying(400, "no"), RefusedClient(code="not_mx")),
        (saying(400, "Member cannot use OAuth"), RefusedClient(code="not_mx")),
        (saying(405), RefusedClient(code="not_mx")),
        (saying(410, "<html>Gone</html>"), RefusedClient(code="not_mx")),
        (saying(422), RefusedClient(code="not_mx")),
        (saying(200, f'{{"users": [], {PAGES}}}'), RefusedClient(code="no_users")),
        (USERS, Gone()),
        (saying(401), RefusedClient(code="http_401")),
        (saying(429), RetryLater(code="http_429")),
    ],
)
async def test_a_server_that_answers_404_to_everything_is_not_mx(web_mx, says, answer):
    _, client = await web_mx(saying(404), says)
    client.doubt()
    assert await client.oauth_window(USER, MEMBER) == answer


@pytest.mark.parametrize("first", [saying(404), saying(302, Location="/login"), saying(410), saying(405)])
async def test_what_any_server_may_say_is_believed_of_mx_alone(web_mx, first):
    async def other(request: web.Request) -> web.Response:
        return await first(request)

    _, client = await web_mx(other)
    for ask in (client.oauth_window, client.read_member):
        answers = [await ask(USER, MEMBER) for _ in range(MOST_GONE + 3)]
        assert set(answers[:MOST_GONE]) <= {Gone(), *(RejectedRequest(code=f"http_{s}") for s in (302, 405, 410))}
        assert answers[MOST_GONE:] == [RefusedClient(code="not_mx")] * 3
        client._unproven_in_a_row = 0


async def test_what_is_not_mx_today_is_asked_again_tomorrow(web_mx):
    _, client = await web_mx(saying(404), saying(404), saying(404), USERS)
    assert await client.probe() == RefusedClient(code="not_mx")
    assert await client.probe() is None


async def all_have_a_404(client: MxClient, calls: int) -> None:
    deadline = time.monotonic() + 30
    while client._unproven_in_a_row < MOST_GONE + calls:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_calls_that_wait_for_one_proof_share_its_failure(web_mx):
    lists = 0

    async def not_mx(request: web.Request) -> web.Response:
        nonlocal lists
        if request.path != "/users":
            return await saying(404)(request)
        lists += 1
        await all_have_a_404(client, 30)
        return await saying(503)(request)

    _, client = await web_mx(not_mx)
    client.doubt()
    answers = await asyncio.gather(*(client.oauth_window(USER, MEMBER) for _ in range(30)))
    assert answers == [RetryLater(code="http_503")] * 30
    assert lists == TRIES
    assert await client.oauth_window(USER, MEMBER) == RetryLater(code="http_503")
    assert lists == 2 * TRIES


async def test_when_a_call_is_cancelled_in_its_proof_those_that_wait_share_a_new_one(web_mx):
    lists = 0
    hangs = asyncio.Event()

    async def not_mx(request: web.Request) -> web.Response:
        nonlocal lists
        if request.path != "/users":
            return await saying(404)(request)
        lists += 1
        if lists == 2:
            hangs.set()
            await asyncio.sleep(30)
        return await saying(401 if lists == 1 else 403)(request)

    _, client = await web_mx(not_mx)
    client.doubt()
    assert await client.oauth_window(USER, MEMBER) == RefusedClient(code="http_401")
    cancelled = asyncio.create_task(client.oauth_window(USER, MEMBER))
    await hangs.wait()
    waiting = [asyncio.create_task(client.oauth_window(USER, MEMBER)) for _ in range(3)]
    await all_have_a_404(client, 5)
    cancelled.cancel()
    assert await asyncio.gather(*waiting) == [RefusedClient(code="http_403")] * 3
    assert cancelled.cancelled()
    assert lists == 3


async def test_a_probe_of_nobody_says_so(client_for, unused_tcp_port):
    assert await client_for(f"http://127.0.0.1:{unused_tcp_port}").probe() == RetryLater(code="connect_failed")


async def test_the_client_is_what_the_stages_ask_for(web_mx):
    _, client = await web_mx(saying())
    mx: MxProtocol = client
    assert await mx.oauth_window(USER, MEMBER) == WINDOW
