"""All processes count limits together. Addresses cannot be forged. While Redis is down, each process counts by itself."""

from typing import Any

import pytest
import redis

from tests.integration.stages.links import linked
from tests.integration.web.conftest import Html
from worker.web.limits import Limit, Limits

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def _statuses(site: Any, n: int, *, method: str = "POST", path: str = "/r/x", **headers: str) -> list[int]:
    return [(await site.ask(method, path, headers=headers))[0].status for _ in range(n)]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets every limit to 3 a minute."""
    from limits import RateLimitItemPerMinute

    for limit in Limit:
        monkeypatch.setattr(limit, "_value_", RateLimitItemPerMinute(3))


@pytest.mark.usefixtures("few")
async def test_an_address_is_limited_behind_a_proxy_by_what_the_proxy_says(site_for: Any) -> None:
    site = await site_for()
    for address in ("203.0.113.7", "2001:db8:0:1::1"):
        # A client may put any addresses in front. The trusted proxy appends the client's real address.
        statuses = [
            (await site.ask("POST", f"/r/{n}", headers={"X-Forwarded-For": f"198.51.100.{n}, {address}"}))[0].status
            for n in range(5)
        ]
        assert statuses == [404, 404, 404, 429, 429]
    assert await _statuses(site, 1, path="/r/9", **{"X-Forwarded-For": "2001:db8:0:1:ffff::2"}) == [429]  # the same /64
    assert await _statuses(site, 1, path="/r/9", **{"X-Forwarded-For": "203.0.113.8"}) == [404]
    response, text = await site.ask("POST", "/r/9", headers={"X-Forwarded-For": "203.0.113.7", "Accept-Language": "es"})
    assert 0 < int(response.headers["Retry-After"]) <= 60
    page = Html(text)
    page.check()
    assert page.lang == "es"
    # The proxy does not name the client: clients cannot be told apart, so none is limited by address.
    assert set(await _statuses(site, 6, method="GET")) == {404}


@pytest.mark.usefixtures("few")
async def test_nobody_else_is_believed(site_for: Any) -> None:
    site = await site_for(forwarded_allow_ips="10.0.0.0/8")
    statuses = [
        (await site.ask("GET", "/r/x", headers={"X-Forwarded-For": f"203.0.113.{n}"}))[0].status for n in range(4)
    ]
    assert statuses == [404, 404, 404, 429]


@pytest.fixture
def _patient_with_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real Redis may be given no CPU for a quarter of a second; then each process would count by itself."""
    monkeypatch.setattr("worker.web.limits.PATIENCE", 10.0)


@pytest.mark.usefixtures("few", "_patient_with_redis")
async def test_two_processes_count_together_and_redis_learns_no_address(site_for: Any, redis_url: str) -> None:
    one = await site_for()
    two = await site_for(bench=one.bench)
    here = {"Host": f"127.0.0.1:{one.port}"}
    token, _ = await linked(one.bench)
    statuses = [
        (await site.ask("POST", f"/r/{token}", headers=here | {"X-Forwarded-For": f"203.0.113.{n}"}))[0].status
        for n, site in enumerate([one, two, one, two, one])
    ]
    assert statuses[3:] == [429, 429]
    assert 429 not in statuses[:3]
    with redis.Redis.from_url(redis_url) as client:
        kept = repr([(key, client.get(key)) for key in client.scan_iter("*")])
    assert "reconnect:limits" in kept
    assert token not in kept
    assert "203.0.113" not in kept


@pytest.mark.usefixtures("few")
async def test_while_redis_is_away_each_process_counts_by_itself(site_for: Any) -> None:
    site = await site_for(redis_url="redis://127.0.0.1:9/0")
    assert await _statuses(site, 4, **{"X-Forwarded-For": "203.0.113.7"}) == [404, 404, 404, 429]


@pytest.mark.usefixtures("database_url", "_patient_with_redis")
async def test_redis_is_asked_again_once_it_is_back(settings_for: Any, redis_url: str) -> None:
    now = 0.0
    limits = Limits(settings_for(redis_url="redis://127.0.0.1:9/0"), clock=lambda: now)
    assert await limits.wait(Limit.LINK, "x") is None
    limits._url = redis_url
    await limits.close()
    assert await limits.wait(Limit.LINK, "x") is None
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        now = 6.0
        assert await limits.wait(Limit.LINK, "x") is None
        assert client.dbsize() > 0
    await limits.close()
