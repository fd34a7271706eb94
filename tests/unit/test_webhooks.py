"""The hints that are read from the body of a webhook of MX."""

import json

import pytest

from worker.intake.webhooks import hints_in
from worker.store.hints.arriving import OTHER, UNREADABLE

STATUS = {
    "action": "CHANGED",
    "type": "CONNECTION_STATUS",
    "connection_status": "DENIED",
    "connection_status_id": 2,
    "connection_status_message": "Please sign in again, Ann.",
    "member_guid": "MBR-1",
    "user_guid": "USR-1",
}


def said(value: object) -> list[tuple[str, str | None, str | None]]:
    return [(hint.kind, hint.member_guid, hint.user_guid) for hint in hints_in(json.dumps(value).encode())]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (STATUS, ("CONNECTION_STATUS", "MBR-1", "USR-1")),
        ({"type": "MEMBER", "action": "deleted", "guid": "MBR-2", "aggregated_at": None}, ("MEMBER", "MBR-2", None)),
        ({"type": "MEMBER", "member": {"guid": "MBR-3", "user_guid": "USR-3"}}, ("MEMBER", "MBR-3", "USR-3")),
        ({"type": "AGGREGATION", "guid": "JOB-1", "member_guid": "MBR-4"}, ("AGGREGATION", "MBR-4", None)),
        ({"type": "NEW_KIND", "data": [{"memberGuid": "MBR-5"}]}, ("NEW_KIND", "MBR-5", None)),
        ({"type": "CONSENT_REVOKED", "consent": {"id": "c", "guid": "CON-1"}}, ("CONSENT_REVOKED", None, None)),
        ({"type": "MEMBER", "member_guid": "MBR-../../x", "user_guid": 7}, ("MEMBER", None, None)),
        ({"type": "a b\n", "member_guid": None}, (OTHER, None, None)),
        ("MBR-1", (UNREADABLE, None, None)),
    ],
)
def test_the_member_is_found_wherever_a_body_names_it(body: object, found: tuple[str, str | None, str | None]) -> None:
    assert said(body) == [found]


def test_a_list_is_as_many_hints_as_it_has() -> None:
    assert said([STATUS, STATUS | {"member_guid": "MBR-9"}]) == [
        ("CONNECTION_STATUS", "MBR-1", "USR-1"),
        ("CONNECTION_STATUS", "MBR-9", "USR-1"),
    ]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"null", b'"\\ud800"', b"[" * 50_000, b"[]", b'{"a": "\\ud800"}', b"1" * 60_000]
)
def test_what_is_no_json_object_is_one_unreadable_hint(body: bytes) -> None:
    (hint,) = hints_in(body)
    assert hint.kind in {UNREADABLE, OTHER}
    assert hint.member_guid is None


def test_the_key_is_that_of_what_is_said_and_not_of_how() -> None:
    (one,) = hints_in(json.dumps(STATUS).encode())
    (same,) = hints_in(json.dumps(dict(reversed(STATUS.items())), indent=4).encode())
    (other,) = hints_in(json.dumps(STATUS | {"connection_status": "IMPAIRED"}).encode())
    assert one.key == same.key != other.key


def test_no_word_of_a_hint_holds_what_a_log_or_a_column_could_trip_over() -> None:
    (hint,) = hints_in(json.dumps(STATUS | {"type": "x\x00y", "action": "a" * 500, "connection_status": {}}).encode())
    assert (hint.kind, hint.action, hint.connection_status) == (OTHER, None, None)
