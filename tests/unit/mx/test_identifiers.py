import pytest

from worker.mx.identifiers import MAX_LENGTH, is_member_guid, is_user_guid


@pytest.mark.parametrize(
    "rest", ["7c6f361b-e582-15b6-60c0-358f12466b4b", "123", "partner_id-9", "x" * (MAX_LENGTH - 4)]
)
def test_a_prefix_and_url_safe_characters_make_an_identifier(rest):
    assert is_member_guid(f"MBR-{rest}")
    assert is_user_guid(f"USR-{rest}")


@pytest.mark.parametrize(
    "rest",
    ["", "a b", "a/b", "../x", "a.b", "a%2F", "é", "\uff11", "a\n", "a\x00", "x" * (MAX_LENGTH - 3)],
)
def test_what_is_empty_too_long_or_unsafe_in_a_path_is_no_identifier(rest):
    assert not is_member_guid(f"MBR-{rest}")
    assert not is_user_guid(f"USR-{rest}")


def test_users_and_members_are_told_apart_by_their_prefix():
    assert not is_member_guid("USR-1")
    assert not is_user_guid("MBR-1")
    assert not is_member_guid("mbr-1")


@pytest.mark.parametrize("value", [None, 7, b"MBR-1", ["MBR-1"], {}])
def test_what_is_no_text_is_no_identifier(value):
    assert not is_member_guid(value)
    assert not is_user_guid(value)
