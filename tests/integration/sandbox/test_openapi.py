"""The sandbox's Platform against MX's own OpenAPI file (tests/data/mx_platform_v20250224.json, which names its source and date)."""

import base64
import json
from pathlib import Path

import pytest
from openapi_schema_validator import OAS30Validator, oas30_format_checker

from worker.sandbox.script import STEPS

OPENAPI = json.loads((Path(__file__).parents[2] / "data" / "mx_platform_v20250224.json").read_text(encoding="utf-8"))
BASIC = base64.b64encode(b"client-of-the-test:key-of-the-test").decode()
HEADERS = {"Accept": "application/json", "Accept-Version": "v20250224", "Authorization": f"Basic {BASIC}"}
NAMES = {"user_identifier": "USR-1", "member_identifier": "MBR-1"}


def schema_of(path):
    """The schema of a path's answer with status 200. It allows no properties but those that it names."""
    whole = {"components": json.loads(json.dumps(OPENAPI["components"]))}
    for schema in whole["components"]["schemas"].values():
        schema["additionalProperties"] = False
    # MX's newer member objects have this property, but the file lacks it.
    whole["components"]["schemas"]["MemberResponse"]["properties"]["error"] = {"type": "object"}
    answer = OPENAPI["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    return whole | answer


def check(path, body):
    OAS30Validator(schema_of(path), format_checker=oas30_format_checker).validate(body)


@pytest.fixture
async def bank(start, member):
    full = {"member_id": "m-1", "user_id": "u-1", "email": "a@mail.example", "is_oauth": True, "error_code": 2004}
    return await start([member("MBR-1", **full), member("MBR-2", connection_status="CONNECTED", user_guid="USR-2")])


@pytest.mark.parametrize(
    "names",
    [
        NAMES,
        {"user_identifier": "u-1", "member_identifier": "m-1"},
        {"user_identifier": "USR-2", "member_identifier": "MBR-2"},
    ],
)
@pytest.mark.parametrize("path", OPENAPI["paths"])
async def test_each_endpoint_answers_as_mxs_openapi_file_says(bank, path, names):
    async with bank.get(path.format(**names), headers=HEADERS) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/json"
        check(path, await response.json())


@pytest.mark.parametrize(
    "step", ["ok", "null_uri", "missing_uri", "empty_uri", "moved:MBR-9", "connected", "hostile:http"]
)
async def test_each_window_is_one_of_mxs_whatever_the_script(bank, step):
    assert step.partition(":")[0] in {name.partition(":")[0] for name in STEPS}
    path = "/users/{user_identifier}/members/{member_identifier}/oauth_window_uri"
    await bank.control(member="MBR-1", script=[step])
    async with bank.get(path.format(**NAMES), headers=HEADERS) as response:
        body = await response.json()
    check(path, body)
    assert body["member"].keys() <= {"guid", "oauth_window_uri"}
    assert body["member"]["guid"] == ("MBR-9" if step.startswith("moved") else "MBR-1")


def test_the_check_would_see_a_property_too_many_and_a_wrong_type():
    path = "/users/{user_identifier}/members/{member_identifier}/oauth_window_uri"
    for wrong in ({"guid": 7}, {"guid": "MBR-1", "connection_status": "DENIED"}):
        with pytest.raises(Exception, match=r"7|connection_status"):
            check(path, {"member": wrong})


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 200),
        ({"Accept": "*/*"}, 200),
        ({"Accept": "text/html, application/json;q=0.9"}, 200),
        ({"Accept": "text/html"}, 406),
        ({"Accept-Version": None}, 406),
        ({"Accept-Version": "v20111101"}, 406),
        ({"Accept-Version": None, "Accept": "application/vnd.mx.api.v1+json"}, 200),
        ({"Authorization": None}, 401),
        ({"Authorization": "Basic !"}, 401),
        ({"Authorization": f"Bearer {BASIC}"}, 401),
        ({"Authorization": "Basic " + base64.b64encode(b"client-of-the-test:wrong").decode()}, 401),
        ({"Authorization": "Basic " + base64.b64encode(b"key-of-the-test:client-of-the-test").decode()}, 401),
        ({"Authorization": None, "MX-API-Key": "key-of-the-test", "MX-Client-ID": "client-of-the-test"}, 401),
        ({"Authorization": None, "Accept-Version": None}, 401),
    ],
)
async def test_every_endpoint_wants_platforms_credentials_and_version(bank, change, status):
    headers = {name: value for name, value in (HEADERS | change).items() if value is not None}
    for path in OPENAPI["paths"]:
        async with bank.get(path.format(**NAMES), headers=headers) as response:
            assert response.status == status, path


async def test_own_ids_came_with_the_version_that_has_them(bank):
    old = {"Accept": "application/vnd.mx.api.v1+json", "Authorization": HEADERS["Authorization"]}
    async with bank.get("/users/u-1/members/m-1", headers=old) as response:
        assert response.status == 404
    async with bank.get("/users/USR-1/members/MBR-1", headers=old) as response:
        assert response.status == 200


@pytest.mark.parametrize(("query", "status"), [("true", 200), ("false", 200), ("yes", 400), ("", 400)])
async def test_app2app_is_true_or_false(bank, query, status):
    path = "/users/USR-1/members/MBR-1/oauth_window_uri"
    async with bank.get(path, headers=HEADERS, params={"enable_app2app": query}) as response:
        assert response.status == status
    async with bank.get(path, params={"enable_app2app": query}) as response:
        assert response.status == 200, "Atrium has no such parameter"


@pytest.mark.parametrize(
    ("query", "guids"),
    [
        ({"id": "u-1"}, ["USR-1"]),
        ({"email": "a@mail.example"}, ["USR-1"]),
        ({"is_disabled": "true"}, []),
        ({"is_disabled": "false"}, ["USR-1", "USR-2"]),
        ({"id": "u-2"}, []),
    ],
)
async def test_users_can_be_searched(bank, query, guids):
    async with bank.get("/users", headers=HEADERS, params=query) as response:
        assert [user["guid"] for user in (await response.json())["users"]] == guids
