"""MX's interface: credentials, version, parameters, members and lists."""

import re

import pytest

GOOD = {
    "Accept": "application/vnd.mx.atrium.v1+json",
    "MX-API-Key": "key-of-the-test",
    "MX-Client-ID": "client-of-the-test",
}
WINDOW = "/users/USR-1/members/MBR-1/oauth_window_uri"
ENDPOINTS = (
    WINDOW,
    "/users/USR-1/members/MBR-1",
    "/users/USR-1/members/MBR-1/status",
    "/users/USR-1/members",
    "/users",
)


async def test_the_answer_is_the_whole_member_with_a_window(start, member):
    sandbox = await start([member(institution_code="mx_bank_oauth", institution_name="MX Bank (OAuth)")])
    status, body = await sandbox.window()
    assert status == 200
    # Exactly the fields of the sample on MX's page for this endpoint.
    assert set(body["member"]) == {
        "aggregated_at", "connection_status", "guid", "identifier", "institution_code", "is_being_aggregated",
        "metadata", "name", "oauth_window_uri", "status", "successfully_aggregated_at", "user_guid",
    }  # fmt: skip
    assert (body["member"]["guid"], body["member"]["user_guid"]) == ("MBR-1", "USR-1")
    assert body["member"]["connection_status"] == "DENIED"
    assert re.fullmatch(
        r"https://bank-mx-bank-oauth\.sandbox\.example/oauth/authorize\?client_id=[\w-]+"
        r"&redirect_uri=https%3A%2F%2F[^&]+&response_type=code&scope=openid&state=[0-9a-f]{32}",
        body["member"]["oauth_window_uri"],
    )


async def test_every_window_is_a_fresh_one(sandbox):
    assert len({await sandbox.mint() for _ in range(20)}) == 20


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 200),
        ({"MX-API-Key": None}, 401),
        ({"MX-Client-ID": None}, 401),
        ({"MX-API-Key": "another"}, 401),
        ({"MX-Client-ID": "another"}, 401),
        ({"Accept": None}, 406),
        ({"Accept": "application/json"}, 406),
        ({"Accept": "application/vnd.mx.atrium.v2+json"}, 406),
        ({"Accept": "text/html, application/vnd.mx.atrium.v1+json;q=0.9"}, 200),
        ({"Accept": None, "MX-API-Key": None}, 401),
    ],
)
async def test_every_endpoint_wants_credentials_and_version(sandbox, path, change, status):
    headers = {name: value for name, value in (GOOD | change).items() if value is not None}
    skip = () if "Accept" in headers else ("Accept",)
    async with sandbox.get(path, headers=headers, skip_auto_headers=skip) as response:
        assert response.status == status
    ledger = await sandbox.json("/sandbox/ledger")
    assert ledger["windows_minted"] == (1 if path == WINDOW and status == 200 else 0)


@pytest.mark.parametrize(
    "path",
    [
        "/users/USR-1/members/MBR-unknown/oauth_window_uri",
        "/users/USR-2/members/MBR-1/oauth_window_uri",
        "/users/USR-2/members/MBR-1",
        "/users/USR-1/members/MBR-unknown/status",
        "/users/USR-2/members",
        "/elsewhere",
    ],
)
async def test_an_unknown_guid_is_not_found(sandbox, path):
    async with sandbox.get(path) as response:
        assert response.status == 404


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"skip_aggregation": "true"}, 200),
        ({"skip_aggregation": "false", "referral_source": "BROWSER"}, 200),
        ({"skip_aggregation": "True"}, 400),
        ({"skip_aggregation": "1"}, 400),
        ({"referral_source": "APP"}, 200),
        ({"referral_source": "app"}, 400),
        ({"referral_source": "WEB"}, 400),
        ({"client_redirect_url": "https://app.example/done"}, 400),
        ({"client_redirect_url": "https://app.example/done", "referral_source": "BROWSER"}, 400),
        ({"client_redirect_url": "https://app.example/done", "referral_source": "APP"}, 200),
        ({"client_redirect_url": "nowhere", "referral_source": "APP"}, 400),
        ({"client_redirect_url": "https://app.example/\r\nSet-Cookie: a=b", "referral_source": "APP"}, 400),
        ({"ui_message_webview_url_scheme": "ourapp"}, 400),
        ({"ui_message_webview_url_scheme": "ourapp", "referral_source": "APP"}, 200),
        ({"something_else": "1"}, 200),
    ],
)
async def test_the_four_parameters_are_checked(sandbox, query, status):
    answered, body = await sandbox.window(**query)
    assert answered == status
    if status == 400:
        assert "Member cannot use OAuth" not in body["error"]["message"]


async def test_head_mints_nothing(sandbox):
    async with sandbox.http.head(sandbox.url(WINDOW), headers=GOOD) as response:
        assert response.status == 405
    assert (await sandbox.json("/sandbox/ledger"))["windows_minted"] == 0


async def test_a_member_and_its_status_can_be_read(sandbox):
    whole = await sandbox.member()
    async with sandbox.get("/users/USR-1/members/MBR-1/status") as response:
        short = (await response.json())["member"]
    assert "oauth_window_uri" not in whole
    assert whole["connection_status"] == short["connection_status"] == "DENIED"
    assert short["is_authenticated"] is False
    assert short["is_being_aggregated"] is False


@pytest.mark.parametrize(
    ("query", "size_and_page", "guids"),
    [
        ({}, (25, 1), range(25)),
        ({"page": "3"}, (25, 3), range(50, 60)),
        ({"records_per_page": "10", "page": "2"}, (10, 2), range(10, 20)),
        ({"records_per_page": "1000"}, (1000, 1), range(60)),
        ({"records_per_page": "1001"}, (25, 1), range(25)),
        ({"records_per_page": "9"}, (25, 1), range(25)),
        ({"records_per_page": "many", "page": "-1"}, (25, 1), range(25)),
        ({"page": "9"}, (25, 9), range(0)),
    ],
)
async def test_lists_come_in_pages(start, member, query, size_and_page, guids):
    sandbox = await start([member(f"MBR-{number:03}") for number in range(60)])
    size, page = size_and_page
    async with sandbox.get("/users/USR-1/members", params=query) as response:
        body = await response.json()
    assert [one["guid"] for one in body["members"]] == [f"MBR-{number:03}" for number in guids]
    assert body["pagination"] == {
        "current_page": page,
        "per_page": size,
        "total_entries": 60,
        "total_pages": -(-60 // size),
    }


async def test_users_are_listed_once_each(start, member):
    sandbox = await start([member("MBR-1"), member("MBR-2"), member("MBR-3", user_guid="USR-2")])
    async with sandbox.get("/users") as response:
        body = await response.json()
    assert [user["guid"] for user in body["users"]] == ["USR-1", "USR-2"]
    assert body["pagination"]["total_entries"] == 2
