"""Pages of users and members: the fields that are read, and how a broken page is classified."""

import json
from datetime import UTC, datetime

import pytest

from worker.mx.answers import (
    NOT_MX,
    Gone,
    Member,
    MemberList,
    Pagination,
    RefusedClient,
    RejectedRequest,
    RetryLater,
    User,
    UserList,
)
from worker.mx.classifying import classify_member_list, classify_user_list

USER = "USR-fa7537f3-48aa-a683-a02a-b18940482f54"
PAGE = {"current_page": 2, "per_page": 25, "total_entries": 51, "total_pages": 3}


def users(body, status=200):
    return classify_user_list(status, {}, body if isinstance(body, bytes) else json.dumps(body).encode())


def members(body, status=200):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify_member_list(status, {}, text, asked=USER)


def test_a_user_of_either_flavour_is_read():
    atrium = {"guid": "USR-1", "identifier": "ours-1", "is_disabled": False, "metadata": '{"a": 1}'}
    platform = {"guid": "USR-2", "id": "ours-2", "email": "b@mail.example", "is_disabled": True, "metadata": None}
    assert users({"users": [atrium, platform], "pagination": PAGE}) == UserList(
        users=(
            User(guid="USR-1", id="ours-1", is_disabled=False, metadata='{"a": 1}'),
            User(guid="USR-2", id="ours-2", email="b@mail.example", is_disabled=True),
        ),
        pagination=Pagination(**PAGE),
    )


def test_a_member_is_read_as_far_as_a_sync_stores_it():
    listed = {
        "aggregated_at": "2016-10-13T18:07:57.000Z", "connection_status": "DENIED", "guid": "MBR-1", "id": "ours-1",
        "institution_code": "mxbank", "is_being_aggregated": False, "is_managed_by_user": False, "is_oauth": True,
        "name": " MX Bank ", "successfully_aggregated_at": "2016-10-13T17:57:38.000Z", "user_guid": "USR-9",
        "user_id": "u-9", "error": {"error_code": 2004}, "use_cases": ["PFM"],
    }  # fmt: skip
    assert members({"members": [listed], "pagination": PAGE}) == MemberList(
        members=(
            Member(
                guid="MBR-1",
                connection_status="DENIED",
                is_being_aggregated=False,
                successfully_aggregated_at=datetime(2016, 10, 13, 17, 57, 38, tzinfo=UTC),
                is_oauth=True,
                error_code=2004,
                id="ours-1",
                user_guid="USR-9",
                user_id="u-9",
                institution_code="mxbank",
                name="MX Bank",
                is_managed_by_user=False,
                aggregated_at=datetime(2016, 10, 13, 18, 7, 57, tzinfo=UTC),
                tells_error=True,
            ),
        ),
        pagination=Pagination(**PAGE),
    )


def test_a_member_that_names_no_user_belongs_to_the_one_whose_list_it_is():
    (listed,) = members({"members": [{"guid": "MBR-1", "user_guid": None}], "pagination": PAGE}).members
    assert listed.user_guid == USER


@pytest.mark.parametrize("row", [None, 7, "MBR-1", [], {}, {"guid": None}, {"guid": "MBR-a/b"}, {"guid": ["MBR-1"]}])
def test_a_row_that_cannot_be_read_costs_that_row_alone(row):
    answer = members({"members": [row, {"guid": "MBR-1"}], "pagination": PAGE})
    assert ([member.guid for member in answer.members], answer.unreadable) == (["MBR-1"], 1)
    answer = users({"users": [row, {"guid": "USR-1"}], "pagination": PAGE})
    assert ([user.guid for user in answer.users], answer.unreadable) == (["USR-1"], 1)


@pytest.mark.parametrize("value", [7, True, ["x"], {}, "", "  ", "a\x00b", "\ud800", "x" * 255])
def test_text_that_no_column_can_hold_counts_as_missing(value):
    (listed,) = members({"members": [{"guid": "MBR-1", "name": value, "id": value}], "pagination": PAGE}).members
    assert (listed.name, listed.id) == (None, None)


def test_a_name_in_any_script_is_kept():
    name = "Banco\u00a0do Brasil \U0001f3e6"
    (listed,) = members({"members": [{"guid": "MBR-1", "name": name}], "pagination": PAGE}).members
    assert listed.name == name


@pytest.mark.parametrize(
    "body",
    [
        {"members": [], "users": []},
        {"members": [], "users": [], "pagination": None},
        {"members": [], "users": [], "pagination": PAGE | {"total_entries": "51"}},
        {"members": [], "users": [], "pagination": PAGE | {"per_page": None}},
        {"members": [], "users": [], "pagination": PAGE | {"total_pages": -1}},
        {"members": {}, "users": {}, "pagination": PAGE},
        {"member": {"guid": "MBR-1"}, "pagination": PAGE},
        [],
        None,
    ],
)
def test_a_body_that_is_no_page_is_asked_for_again(body):
    assert users(body) == members(body) == RetryLater(code="unexpected_shape")


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"users": ['])
def test_a_body_that_is_no_json_is_asked_for_again(body):
    assert users(body) == members(body) == RetryLater(code="not_json")


def test_mx_always_has_a_list_of_users():
    assert users(b"", 404) == users(b"", 302) == RefusedClient(code=NOT_MX)
    assert members(b"", 404) == Gone()
    assert users(b"", 401) == members(b"", 401) == RefusedClient(code="http_401")
    assert users(b"", 422) == members(b"", 422) == RejectedRequest(code="http_422")
    assert users(b"", 500) == members(b"", 500) == RetryLater(code="http_500")


def test_no_repr_shows_a_person():
    answer = users({"users": [{"guid": "USR-1", "email": "b@mail.example", "metadata": "Beth"}], "pagination": PAGE})
    assert "mail.example" not in repr(answer)
    assert "Beth" not in repr(answer)
