"""The API as the company's server uses it: every answer matches the OpenAPI document that is served."""

import json
from datetime import timedelta
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from structlog.testing import capture_logs

from tests.integration.stages.links import reconnection
from worker.policy.links import hash_of, hour_of
from worker.web.limits import Limit

KEYS = "first-key-of-the-company, second-key-of-the-company"
AUTH = {"Authorization": "Bearer second-key-of-the-company"}
SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Api:
    """Sends requests, and validates each answer against the document."""

    def __init__(self, site: Any, document: dict[str, Any]) -> None:
        self.site, self.document = site, document
        resource = Resource.from_contents(document, default_specification=DRAFT202012)
        self.registry = Registry().with_resource("urn:api", resource)

    async def ask(
        self, method: str, user: str, action: str, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> Any:
        path = f"/api/v1/users/{user}/{action}"
        response, text = await self.site.ask(method, path, headers=AUTH if headers is None else headers)
        assert response.status == status, text
        operation = self.document["paths"][f"/api/v1/users/{{user_guid}}/{action}"][method.lower()]
        kind = response.headers["Content-Type"].partition(";")[0]
        described = operation["responses"][str(status)]
        schema = {"$ref": "urn:api" + described["content"][kind]["schema"]["$ref"]}
        answer = json.loads(text)
        validator = OAS31Validator(schema, registry=self.registry, format_checker=OAS31Validator.FORMAT_CHECKER)
        assert list(validator.iter_errors(answer)) == []
        assert set(described.get("headers", {})) <= set(response.headers)
        assert not any(name.startswith("Access-Control") for name in response.headers)
        return answer

    async def list(self, user: str, **options: Any) -> Any:
        return await self.ask("GET", user, "reconnections", **options)


@pytest.fixture
async def api_for(site_for: Any) -> Any:
    async def make(**settings: Any) -> Api:
        site = await site_for(**({"api_keys": KEYS} | settings))
        response, text = await site.ask("GET", "/api/v1/openapi.json")
        assert response.status == 200
        document = json.loads(text)
        OpenAPIV31SpecValidator(document).validate()
        return Api(site, document)

    return make


async def test_a_banner_gets_what_is_open_with_a_link_that_leads_to_it(api_for: Any) -> None:
    api = await api_for()
    bench = api.site.bench
    await reconnection(bench, "ann")
    await reconnection(bench, "bo", user="ann", reason="expires_soon", since=timedelta(days=5), state="due")
    await reconnection(bench, "cy", user="ann", state="reconnected")
    await reconnection(bench, "dan")
    await bench.sql(
        "UPDATE members SET muted_at = :n WHERE member_guid = 'MBR-bo'", n=bench.moment(bench.runtime.clock.now())
    )
    found = await api.list("USR-ann")
    assert found["user_guid"] == "USR-ann"
    assert [(bank["member_guid"], bank["bank"], bank["state"], bank["muted"]) for bank in found["reconnections"]] == [
        ("MBR-ann", "Bank ann", "broken", False),
        ("MBR-bo", "Bank bo", "expires_soon", True),
    ]
    page = await api.site.page(found["link"].removeprefix(api.site.base))
    assert len(page.buttons) == 2
    token = found["link"].rpartition("/")[2]
    assert await bench.one("SELECT token_hash FROM links") == hash_of(token)
    assert token not in str(await bench.sql("SELECT * FROM links"))


async def test_at_most_one_link_is_minted_a_user_and_hour_and_each_answer_has_one_that_works(api_for: Any) -> None:
    api = await api_for()
    bench = api.site.bench
    await reconnection(bench, "ann")
    await reconnection(bench, "dan")
    clock = bench.runtime.clock
    hour = hour_of(clock.now()) + timedelta(hours=1)
    clock.set(hour)
    links = {(await api.list("USR-ann"))["link"] for _ in range(3)}
    clock.set(hour + timedelta(minutes=59, seconds=50))
    links |= {(await api.list("USR-ann"))["link"]}
    assert len(links) == 1
    assert await bench.one("SELECT count(*) FROM links") == 1
    other = (await api.list("USR-dan"))["link"]
    clock.set(hour + timedelta(minutes=60, seconds=1))
    later = (await api.list("USR-ann"))["link"]
    assert len({*links, other, later}) == 3
    for link in (*links, other, later):
        assert (await api.site.page(link.removeprefix(api.site.base))).buttons


async def test_where_nothing_is_open_no_link_is_minted(api_for: Any) -> None:
    api = await api_for()
    await api.site.bench.member("well", connection_status="CONNECTED")
    await reconnection(api.site.bench, "back", state="reconnected")
    for user in ("USR-well", "USR-back"):
        assert await api.list(user) == {"user_guid": user, "reconnections": [], "link": None, "link_expires_at": None}
    assert await api.site.bench.one("SELECT count(*) FROM links") == 0


async def test_an_opt_out_holds_and_may_be_repeated(api_for: Any) -> None:
    api = await api_for()
    bench = api.site.bench
    await reconnection(bench, "ann")
    for _ in range(2):
        assert await api.ask("POST", "USR-ann", "optout") == {"user_guid": "USR-ann", "opted_out": True}
    assert await bench.one("SELECT count(*) FROM users WHERE opted_out_at IS NOT NULL") == 1
    assert len((await api.list("USR-ann"))["reconnections"]) == 1


@SQLITE
async def test_strangers_learn_nothing(api_for: Any) -> None:
    api = await api_for()
    bench = api.site.bench
    await reconnection(bench, "ann")
    for user in ("USR-nobody", "MBR-ann", "x", "USR-%2e%2e", "USR-'; DROP TABLE users; --"):
        await api.list(user, status=404)
        await api.ask("POST", user, "optout", status=404)
    wrong = (
        "Bearer nonsense",
        "Bearer",
        "",
        "Basic c2Vjb25kLWtleQ==",
        "Bearer first-key-of-the-compan",
        "second-key-of-the-company",
    )
    for word in wrong:
        for method, action in (("GET", "reconnections"), ("POST", "optout")):
            await api.ask(method, "USR-ann", action, status=401, headers={"Authorization": word})
    await api.list("USR-ann", status=401, headers={})
    await api.list("USR-ann", headers={"Authorization": "bearer first-key-of-the-company"})
    assert await bench.one("SELECT count(*) FROM users WHERE opted_out_at IS NOT NULL") == 0


@SQLITE
async def test_what_it_does_not_have_is_a_problem_in_json(api_for: Any) -> None:
    api = await api_for()
    for method, path, status in [
        ("GET", "/api/v1/users", 404),
        ("GET", "/api/v2/users/USR-ann/reconnections", 404),
        ("DELETE", "/api/v1/users/USR-ann/reconnections", 405),
        ("OPTIONS", "/api/v1/users/USR-ann/reconnections", 405),
        ("HEAD", "/api/v1/users/USR-ann/reconnections", 405),
        ("GET", "/api/v1/users/USR-ann/optout", 405),
    ]:
        response, text = await api.site.ask(method, path, headers=AUTH | {"Origin": "https://evil.example"})
        assert (response.status, response.headers["Content-Type"].partition(";")[0]) == (
            status,
            "application/problem+json",
        )
        assert response.headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in response.headers
        if method != "HEAD":
            assert json.loads(text)["status"] == status


@SQLITE
async def test_without_keys_there_is_no_api(site_for: Any) -> None:
    site = await site_for()
    for method, path in [
        ("GET", "/api/v1/users/USR-ann/reconnections"),
        ("POST", "/api/v1/users/USR-ann/optout"),
        ("GET", "/api/v1/openapi.json"),
    ]:
        response, _ = await site.ask(method, path, headers={"Authorization": "Bearer "})
        assert response.status == 404


@SQLITE
async def test_limits_are_for_each_key_each_user_and_for_those_without_a_key(
    api_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limits import RateLimitItemPerMinute

    for limit, number in ((Limit.API, 6), (Limit.API_USER, 3), (Limit.UNAUTHORISED, 2)):
        monkeypatch.setattr(limit, "_value_", RateLimitItemPerMinute(number))
    api = await api_for()
    for name in ("ann", "bo"):
        await reconnection(api.site.bench, name)
    bad = {"Authorization": "Bearer nonsense", "X-Forwarded-For": "203.0.113.7"}
    for status in (401, 401, 429):
        await api.list("USR-ann", status=status, headers=bad)
    for status in (200, 200, 200, 429):
        await api.list("USR-ann", status=status)
    for status in (200, 200, 429):
        await api.list("USR-bo", status=status)
    await api.list("USR-bo", headers={"Authorization": "Bearer first-key-of-the-company"})


@SQLITE
async def test_a_failure_of_ours_is_a_problem_too_and_no_log_has_a_secret(
    api_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await api_for()
    await reconnection(api.site.bench, "ann")
    with capture_logs() as logs:
        link = (await api.list("USR-ann"))["link"]
        await api.ask("POST", "USR-ann", "optout", headers={"Authorization": "Bearer a-wrong-key"}, status=401)

        async def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("x")

        monkeypatch.setattr("worker.web.api.to_reconnect", broken)
        await api.list("USR-ann", status=500)
    routes = [entry["route"] for entry in logs if entry["event"] == "web_request"]
    assert routes == [
        "/api/v1/users/{user_guid}/reconnections",
        "/api/v1/users/{user_guid}/optout",
        "/api/v1/users/{user_guid}/reconnections",
    ]
    for secret in (link.rpartition("/")[2], "second-key", "a-wrong-key", "USR-ann"):
        assert secret not in repr(logs)


@SQLITE
async def test_it_is_served_under_the_path_of_a_public_address_too(site_for: Any) -> None:
    from worker.cli.processes import free_port

    site = await site_for(api_keys=KEYS, public_base_url=f"http://127.0.0.1:{free_port()}/bank")
    host = {"Host": site.bench.runtime.settings.public_base_url.removeprefix("http://").removesuffix("/bank")}
    for path in ("/api/v1", "/bank/api/v1"):
        response, text = await site.ask("GET", f"{path}/users/USR-x/reconnections", headers=AUTH | host)
        assert response.status == 404
        assert json.loads(text)["title"] == "Not Found"
