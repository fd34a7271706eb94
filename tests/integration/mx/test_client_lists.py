"""Pages of users and members: how the client asks for them, and how it classifies the answers."""

import json

import pytest

from tests.integration.mx.servers import USER, saying
from worker.mx.answers import Gone, MemberList, RefusedClient, RetryLater, UserList

PAGE = {"current_page": 3, "per_page": 100, "total_entries": 201, "total_pages": 3}
USERS = json.dumps({"users": [{"guid": USER}], "pagination": PAGE})
MEMBERS = json.dumps({"members": [{"guid": "MBR-1"}], "pagination": PAGE})


async def test_a_page_of_users_is_asked_for_by_number_and_size(web_mx):
    mx, client = await web_mx(saying(200, USERS))
    answer = await client.list_users(3, 100)
    assert isinstance(answer, UserList)
    assert (answer.users[0].guid, answer.pagination.total_entries) == (USER, 201)
    assert mx.requests[0].path_qs == "/users?page=3&records_per_page=100"


async def test_a_page_of_members_is_asked_for_by_user(web_mx):
    mx, client = await web_mx(saying(200, MEMBERS))
    answer = await client.list_members(USER, 1, 25)
    assert isinstance(answer, MemberList)
    assert answer.members[0].user_guid == USER
    assert mx.requests[0].path_qs == f"/users/{USER}/members?page=1&records_per_page=25"
    await client.list_members("USR-1/../x", 1, 25)
    assert mx.requests[1].raw_path == "/users/USR-1%2F..%2Fx/members?page=1&records_per_page=25"


@pytest.mark.parametrize("first", [saying(500), saying(200, "<html>"), saying(200, '{"users": []}')])
async def test_a_page_that_failed_is_asked_for_again(web_mx, first):
    mx, client = await web_mx(first, saying(200, USERS))
    assert isinstance(await client.list_users(1, 25), UserList)
    assert len(mx.requests) == 2


async def test_a_page_may_be_larger_than_a_member(web_mx):
    rows = [{"guid": f"MBR-{n}", "metadata": "x" * 1000} for n in range(1000)]
    _, client = await web_mx(saying(200, json.dumps({"members": rows, "pagination": PAGE})))
    answer = await client.list_members(USER, 1, 1000)
    assert isinstance(answer, MemberList)
    assert len(answer.members) == 1000


async def test_a_user_that_mx_does_not_know_is_gone_and_a_server_without_users_is_not_mx(web_mx):
    _, client = await web_mx(saying(404))
    assert await client.list_members(USER, 1, 25) == Gone()
    assert await client.list_users(1, 25) == RefusedClient(code="not_mx")
    _, client = await web_mx(saying(429))
    assert await client.list_users(1, 25) == RetryLater(code="http_429")


async def test_users_that_are_all_gone_are_believed_only_of_mx(web_mx):
    mx, client = await web_mx(saying(404))
    for _ in range(20):
        assert await client.list_members(USER, 1, 25) == Gone()
    assert await client.list_members(USER, 1, 25) == RefusedClient(code="not_mx")
    mx.answers = [saying(404), saying(200, USERS), saying(404)]
    assert await client.list_members(USER, 1, 25) == Gone()
