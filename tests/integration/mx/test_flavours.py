"""The client in each flavour against the sandbox, which verifies credentials, version and parameters as MX does."""

import time
from typing import ClassVar

import pytest

from tests.conftest import make_settings
from worker.mx import client as mx_client
from worker.mx.answers import (
    Gone,
    HostileUri,
    MemberList,
    MemberRead,
    RefusedClient,
    RejectedRequest,
    RetryLater,
    Unsupported,
    UserList,
    Window,
)
from worker.mx.classifying import classify_window
from worker.mx.client import MOST_GONE, MxClient
from worker.mx.platform import Platform

USER, MEMBER = "USR-a", "MBR-a"
ANSWERS = {
    "ok": Window,
    "moved:MBR-anew": Window,
    "connected": Window,
    "unsupported": Unsupported,
    "gone": Gone,
    "rejected": RejectedRequest,
    "hostile:userinfo": HostileUri,
    "401": RefusedClient,
    "403": RefusedClient,
    "406": RefusedClient,
    "409": RetryLater,
    "429:60": RetryLater,
    "null_uri": RetryLater,
    "missing_uri": RetryLater,
    "empty_uri": RetryLater,
}


@pytest.fixture(params=["atrium", "platform"])
async def client_of(request):
    """Makes clients of a sandbox in this flavour."""
    made = []

    def make(sandbox, **given):
        given = {"mx_base_url": sandbox.addresses.base_url, "mx_api": request.param} | given
        made.append(MxClient(make_settings(**given), deadline=10.0))
        return made[-1]

    make.flavour = request.param
    yield make
    for client in made:
        await client.close()


async def test_each_answer_of_mx_means_the_same_in_every_flavour(client_of, sandbox_for):
    async with sandbox_for({str(n): [step] for n, step in enumerate(ANSWERS)}) as sandbox:
        client = client_of(sandbox)
        for n, (step, meaning) in enumerate(ANSWERS.items()):
            answer = await client.oauth_window(f"USR-{n}", f"MBR-{n}")
            assert isinstance(answer, meaning), (step, answer)
            if isinstance(answer, Window):
                assert answer.member.guid == ("MBR-anew" if step.startswith("moved") else f"MBR-{n}")
        flavours = (await sandbox.get("/sandbox/ledger?members=false"))["flavours"]
        assert flavours.keys() == {client_of.flavour}


async def test_all_parameters_are_ones_that_mx_takes(client_of, sandbox_for):
    app = {"mx_referral_source": "APP", "mx_client_redirect_url": "https://a.example/", "mx_skip_aggregation": True}
    own = {"mx_enable_app2app": False} if client_of.flavour == "platform" else {}
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        assert isinstance(await client_of(sandbox, **app, **own).oauth_window(USER, MEMBER), Window)


async def test_members_are_read_and_listed(client_of, sandbox_for):
    ids = {"member_id": "ours-1", "user_id": "u-1", "email": "a@mail.example", "error_code": 2004, "is_oauth": True}
    async with sandbox_for({"a": ids}) as sandbox:
        client = client_of(sandbox)
        read, users = await client.read_member(USER, MEMBER), await client.list_users(1, 100)
        assert isinstance(read, MemberRead)
        assert isinstance(users, UserList)
        members = await client.list_members(USER, 1, 100)
        assert isinstance(members, MemberList)
        assert members.members == (read.member,)
        seen = read.member
        assert (seen.guid, seen.id, seen.user_guid, seen.error_code) == (MEMBER, "ours-1", USER, 2004)
        assert (seen.institution_code, seen.name) == ("mx_bank_oauth", "MX Bank (OAuth)")
        assert (seen.connection_status, seen.is_oauth, seen.is_being_aggregated) == ("DENIED", True, False)
        assert seen.successfully_aggregated_at is not None
        (user,) = users.users
        is_platform = client_of.flavour == "platform"
        assert (user.guid, user.id, user.email) == (USER, "u-1", "a@mail.example" if is_platform else None)
        assert seen.is_managed_by_user is (True if is_platform else None)
        assert (users.pagination.per_page, members.pagination.total_entries) == (100, 1)


async def test_the_probe_tells_right_credentials_from_wrong_ones(client_of, sandbox_for):
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        assert await client_of(sandbox).probe() is None
        assert await client_of(sandbox, mx_api_key="wrong").probe() == RefusedClient(code="http_401")
        assert await client_of(sandbox, mx_client_id="wrong").probe() == RefusedClient(code="http_401")
        elsewhere = {"mx_base_url": f"{sandbox.addresses.base_url}/v9"}
        assert await client_of(sandbox, **elsewhere).probe() == RefusedClient(code="not_mx")


async def test_after_a_streak_of_404s_mx_must_list_its_users(client_of, sandbox_for):
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        right = client_of(sandbox)
        wrong = client_of(sandbox, mx_base_url=f"{sandbox.addresses.base_url}/v9")
        for _ in range(MOST_GONE):
            assert await right.oauth_window(USER, "MBR-nobody") == Gone()
            assert await wrong.oauth_window(USER, MEMBER) == Gone()
        assert await right.oauth_window(USER, "MBR-nobody") == Gone()
        assert await wrong.oauth_window(USER, MEMBER) == RefusedClient(code="not_mx")
        assert (await sandbox.get("/sandbox/ledger?members=false"))["lists"] == 1


async def test_a_click_learns_who_is_back_already(client_of, sandbox_for):
    async with sandbox_for({"a": {"connection_status": "CONNECTED"}, "b": ["moved:MBR-c"]}) as sandbox:
        client = client_of(sandbox)
        answer = await client.urgent_window(USER, MEMBER, within=10)
        assert isinstance(answer, Window)
        assert answer.member.connection_status == "CONNECTED"
        answer = await client.urgent_window("USR-b", "MBR-b", within=10)
        assert (answer.member.guid, answer.member.connection_status) == ("MBR-c", "DENIED")
        ledger = await sandbox.get("/sandbox/ledger?members=false")
        assert (ledger["window_requests"], ledger["reads"]) == (2, 2 if client_of.flavour == "platform" else 0)


@pytest.mark.parametrize("client_of", ["platform"], indirect=True)
@pytest.mark.parametrize("fault", ["500", "slow:20", "reset", "429:60", "html"])
async def test_a_click_is_served_although_its_member_cannot_be_read(client_of, sandbox_for, fault):
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        await sandbox.control(fault=fault, on="read")
        began = time.monotonic()
        answer = await client_of(sandbox).urgent_window(USER, MEMBER, within=30)
        assert isinstance(answer, Window)
        assert time.monotonic() - began < 15


async def test_own_ids_are_names_as_good_as_guids_at_platform_alone(client_of, sandbox_for):
    async with sandbox_for({"a": {"member_id": "ours-1", "user_id": "u-1"}}) as sandbox:
        client = client_of(sandbox)
        answers = [await client.oauth_window("u-1", "ours-1"), await client.read_member("u-1", "ours-1")]
        if client_of.flavour == "atrium":
            assert answers == [Gone(), Gone()]
            return
        window, read = answers
        # MX answers with its own GUID. That is another name of the same member; it has not moved.
        assert (window.member.guid, read.member.guid) == ("ours-1", "ours-1")
        assert isinstance(await client.list_members("u-1", 1, 25), MemberList)
        (member,) = (await client.list_members("u-1", 1, 25)).members
        assert (member.guid, member.id, member.user_guid) == (MEMBER, "ours-1", USER)


async def test_a_third_flavour_is_one_class(web_mx, monkeypatch):
    """The example is MX's version of 2026: a POST whose answer has ``authorization_url``."""
    from tests.integration.mx.servers import URI, saying

    class Later(Platform):
        window_body: ClassVar = b'{"oauth": {}}'

        def window_url(self, user, member):
            return super().window_url(user, member).with_path(f"{self._member(user, member)}/authorizations")

        def classify_window(self, status, headers, body, **more):
            return classify_window(status, headers, body.replace(b"authorization_url", b"oauth_window_uri"), **more)

    monkeypatch.setitem(mx_client._FLAVOURS, "platform", Later)
    mx, client = await web_mx(saying(200, f'{{"member": {{"authorization_url": "{URI}"}}}}'), mx_api="platform")
    for answer in (await client.oauth_window(USER, MEMBER), await client.urgent_window(USER, MEMBER, within=5)):
        assert (answer.uri, answer.member.guid) == (URI, MEMBER)
    first = mx.requests[0]
    assert (first.method, first.path) == ("POST", f"/users/{USER}/members/{MEMBER}/authorizations")
    assert (first.headers["Content-Type"], first.content_length) == ("application/json", len(Later.window_body))
