"""On a database that accepts no writes, such as a read replica, commands that only read work. The others say in one line why they fail."""

from typing import Any

import psycopg
import pytest


@pytest.fixture
def replica(machine: Any, postgres: Any) -> Any:
    """A database with a member that would be picked and one with a reconnection. It accepts no more writes."""
    machine.environment["DATABASE_URL"] = url = postgres.database()
    (machine.folder / "m.csv").write_text(
        "user_guid,member_guid,institution_code,connection_status,email\n"
        "USR-a,MBR-a,alder,DENIED,a@mail.example\n"
        "USR-b,MBR-b,birch,CONNECTED,b@mail.example\n"
    )
    for command in (["import", "m.csv"], ["sweep"]):
        ran = machine(*command)
        assert ran.code == 0, ran.err
    name = url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE members SET connection_status = 'DENIED' WHERE member_guid = 'MBR-b'")
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    return machine


READS = {
    "status": "reconnections",
    "explain MBR-a": "MBR-a",
    "explain MBR-b": "MBR-b",
    "sweep --dry-run": "connection_status",
    "preview --user USR-a": "a@mail.example",
}
WRITES = ("sweep", "retry MBR-a", "pause", "optout USR-a", "forget USR-a --yes")


def test_what_reads_works_and_what_writes_says_in_one_line_that_it_needs_the_primary(replica: Any) -> None:
    for command, says in READS.items():
        ran = replica(*command.split())
        assert ran.code == 0, (command, ran.err)
        assert says in ran.out
    for command in WRITES:
        ran = replica(*command.split())
        assert ran.code == 1, (command, ran.out)
        assert len(ran.err.strip().splitlines()) == 1, ran.err
        assert "primary" in ran.err
