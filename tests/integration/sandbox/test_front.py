"""The sandbox's proxy in front of `reconnect web`: requests pass unchanged, and redirects to a simulated bank lead to the sandbox."""

import asyncio
import re

import pytest
from aiohttp import web

from worker.errors import WorkerError
from worker.sandbox.front import Front

BANK = "https://bank-northwind.sandbox.example/oauth/authorize?redirect_uri=https%3A%2F%2Fapp&state=abc"
ELSEWHERE = "https://app.example/done?from=%2F"


@pytest.fixture
async def fronted(start, tmp_path):
    """Yields a sandbox with a front, the requests that the server behind it got, and that server."""
    asked = []

    async def handle(request):
        asked.append((request.method, request.raw_path, dict(request.headers), await request.text()))
        if request.method == "POST":
            target = BANK if "bank" in request.path else ELSEWHERE
            return web.Response(
                status=303, headers={"Location": target}, text=f'<a href="{target}">', content_type="text/html"
            )
        return web.Response(text="plain", headers={"X-Robots-Tag": "noindex", "Retry-After": "30"}, status=503)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sandbox = await start(web=f"http://127.0.0.1:{runner.addresses[0][1]}")
    yield sandbox, asked, runner
    await runner.cleanup()


async def test_a_way_to_a_bank_leads_to_the_sandbox_and_any_other_stays(fronted):
    sandbox, _, _ = fronted
    url = sandbox.addresses.public_base_url
    async with sandbox.http.post(f"{url}/r/bank", data={"nonce": "n"}, allow_redirects=False) as response:
        assert response.headers["Location"] == BANK.replace(
            "https://bank-northwind.sandbox.example", sandbox.addresses.base_url
        )
        assert "sandbox.example" not in await response.text()
    async with sandbox.http.post(f"{url}/r/other", allow_redirects=False) as response:
        assert response.headers["Location"] == ELSEWHERE


async def test_requests_and_answers_pass_as_they_are_and_the_client_is_named(fronted):
    sandbox, asked, _ = fronted
    url = sandbox.addresses.public_base_url
    headers = {"X-Forwarded-For": "198.51.100.7", "Accept-Language": "fr"}
    async with sandbox.http.get(f"{url}/r/a%2Fb?x=%41", headers=headers) as response:
        assert (response.status, response.headers["Retry-After"], await response.text()) == (503, "30", "plain")
        assert response.headers["X-Robots-Tag"] == "noindex"
    async with sandbox.http.post(f"{url}/r/c", data={"nonce": "n"}, allow_redirects=False):
        pass
    (method, path, sent, _), (_, _, _, body) = asked
    assert (method, re.sub(r"%41|A", "A", path)) == ("GET", "/r/a%2Fb?x=A")
    assert (sent["X-Forwarded-For"], sent["Accept-Language"]) == ("198.51.100.7, 127.0.0.1", "fr")
    assert sent["Host"] == url.removeprefix("http://")
    assert body == "nonce=n"


async def test_while_nothing_listens_it_says_so(fronted):
    sandbox, _, runner = fronted
    await runner.cleanup()
    async with asyncio.timeout(20), sandbox.http.get(f"{sandbox.addresses.public_base_url}/r/a") as response:
        assert response.status == 502
        assert "does not answer" in await response.text()


@pytest.mark.parametrize("url", ["https://127.0.0.1:8080", "http://web.example:8080", "127.0.0.1:8080"])
def test_only_a_process_on_this_machine_gets_a_front(url):
    with pytest.raises(WorkerError, match="--web must be where"):
        Front(url)
