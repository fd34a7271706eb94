"""A full or read-only disk: one clear line, exit 1, no partial writes, and commands work again once there is room."""

import sqlite3
from pathlib import Path

import pytest

from tests.faults.disks import WAYS, full, read_only
from tests.machine import Machine, Ran, cast_of

FEW, MANY = 100, 8_000


def _one_line(ran: Ran) -> str:
    assert ran.code == 1, ran
    (line,) = ran.err.strip().splitlines()
    return line


def _counts(path: Path) -> dict[str, int]:
    """How many rows each table has. Asserts that the file is intact."""
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        counts = {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("users", "members", "reconnections", "sweeps")
        }
    connection.close()
    return counts


@pytest.fixture
def folder(machine: Machine) -> Path:
    """The folder of a database with a few members."""
    folder = machine.folder / "disk"
    folder.mkdir()
    machine.environment["DATABASE_URL"] = f"sqlite:///{folder / 'reconnect.db'}"
    for count, name in ((FEW, "few.csv"), (MANY, "many.csv")):
        (machine.folder / name).write_text(cast_of(count)[1])
    assert machine("migrate").code == 0
    assert machine("import", "few.csv").code == 0
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk_is_one_line_and_nothing_is_half_written(machine: Machine, folder: Path, way: str) -> None:
    kept = folder if way == "limit" else folder.with_name("disk-kept")
    line = _one_line(machine("import", "many.csv", under=full(way, folder, left=600_000)))
    assert line.startswith("reconnect: database: SQLite file reconnect.db: ")
    assert ("the disk is full" if way == "mount" else "cannot be written") in line
    counts = _counts(kept / "reconnect.db")
    assert counts["members"] == counts["users"] < MANY
    assert counts["members"] % 1000 in {0, FEW}, "half a batch was written"
    if way == "limit":  # the next command has room
        assert machine("import", "many.csv").code == 0
        assert _counts(folder / "reconnect.db")["members"] == MANY


@pytest.mark.parametrize("way", WAYS)
def test_a_sweep_without_room_opens_all_or_nothing_and_the_next_one_does_the_rest(
    machine: Machine, folder: Path, way: str
) -> None:
    assert machine("import", "many.csv").code == 0
    line = _one_line(machine("sweep", under=full(way, folder, left=20_000)))
    assert "database: SQLite file reconnect.db: " in line
    kept = folder if way == "limit" else folder.with_name("disk-kept")
    assert _counts(kept / "reconnect.db")["reconnections"] < MANY
    assert machine("sweep").code == 0
    assert _counts(folder / "reconnect.db")["reconnections"] == MANY


@pytest.mark.parametrize("way", WAYS)
def test_a_read_only_file_is_one_line(machine: Machine, folder: Path, way: str) -> None:
    under, url = read_only(way, folder)
    # On a read-only disk SQLite cannot create the write-ahead log's files, so it cannot open the database.
    says = "it is read-only" if way == "limit" else "the file cannot be opened"
    there = {"DATABASE_URL": url}
    for ran in machine.each(("sweep", there), ("import few.csv", there), under=under):
        (line,) = ran.out.strip().splitlines()
        assert ran.code == 1, ran
        assert line.startswith(f"reconnect: database: SQLite file reconnect.db: {says}; ")
    if way == "limit":
        assert machine("status", environment={"DATABASE_URL": url}).code == 0, "reading needs no room"
