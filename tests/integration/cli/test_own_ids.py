"""Commands that take the client's own ids, with ``MX_API=platform``."""

from typing import Any

PLATFORM = {"MX_API": "platform"}


def test_commands_take_own_ids_where_the_flavour_allows_them(machine: Any) -> None:
    (machine.folder / "m.csv").write_text("user_guid,member_guid,connection_status\nu-1,ours-1,DENIED\n")
    assert "is no user GUID; it starts with USR-" in machine("import", "m.csv").err
    machine.environment |= PLATFORM
    assert machine("import", "m.csv", "--dry-run").code == 0
    assert machine("import", "m.csv").code == 0
    assert machine("sweep").code == 0
    for command, says in (
        (("explain", "ours-1"), "Rule: picked"),
        (("link", "u-1"), "/r/"),
        (("optout", "u-1"), "u-1"),
    ):
        ran = machine(*command, environment={"PUBLIC_BASE_URL": "https://reconnect.example.com"})
        assert ran.code == 0, ran.err
        assert says in ran.out + ran.err
    for command, code, says in (
        (("explain", "u-1"), 2, "u-1 is a user; say which member: its members are ours-1"),
        (("explain", "ours-2"), 1, "ours-2 is not in the database"),
        (("explain", "a/b"), 2, "'a/b' is no member GUID"),
        (("retry", "ours-1"), 1, "ours-1 is due"),
        (("retry", "USR-1"), 2, "'USR-1' is no member GUID"),
        (("link", "MBR-1"), 2, "'MBR-1' is no user GUID"),
    ):
        ran = machine(*command)
        assert (ran.code, says in ran.err) == (code, True), ran.err
