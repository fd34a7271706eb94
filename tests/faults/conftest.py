"""Each test gets a machine with its own servers. The report of a failed test shows its schedule."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.records import Records
from tests.faults.schedule import LONG, Schedule, chosen_seed
from tests.faults.servers import OwnPostgres, OwnValkey
from tests.machine import Machine, cast_of, environment_for

Columns = Mapping[str, Callable[[int], str]]

_SEED = chosen_seed()


def pytest_report_header() -> str:
    return f"faults: {'long' if LONG else 'short'} form, FAULT_SEED={_SEED}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    schedule = getattr(item, "funcargs", {}).get("schedule")
    if report.failed and isinstance(schedule, Schedule):
        report.sections.append(("fault schedule", str(schedule)))
    return report


@pytest.fixture
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """The test's random numbers, and the list of the faults that it made."""
    return Schedule(_SEED, request.node.nodeid)


@pytest.fixture
def own_valkey() -> Iterator[OwnValkey]:
    """A broker that the test may kill."""
    server = OwnValkey()
    yield server
    server.kill()


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    """A PostgreSQL that the test may restart."""
    server = OwnPostgres()
    yield server
    server.close()


@pytest.fixture
def machine(tmp_path: Path, own_valkey: OwnValkey) -> Iterator[Machine]:
    """A machine with SQLite, its own broker, leases of ten seconds, and settings that send messages at once.

    In the short form sweeps do not look for old rows to delete, since there are none.
    """
    environment = environment_for(tmp_path, own_valkey.url)
    environment |= {"LEASE_SECONDS": "10", "MESSAGE_CAPS": ""} | ({} if LONG else {"RETENTION_DAYS": ""})
    with ExitStack() as stack:
        yield Machine(tmp_path, environment, stack)


@pytest.fixture
def populated(machine: Machine) -> Any:
    """Fills the machine's database and bank: ``populated(5000)``. It also takes options for the bank's command line, and more columns.

    A column is a name and a function of the member's number.
    """

    def populate(
        count: int, *options: str, url: str | None = None, columns: Columns | None = None, users: int | None = None
    ) -> Records:
        if url is not None:
            machine.environment["DATABASE_URL"] = url
        rows, csv = cast_of(count, users=users)
        if columns:
            head, *lines = csv.splitlines()
            lines = [",".join([line, *(of(n) for of in columns.values())]) for n, line in enumerate(lines)]
            csv = "\n".join([",".join([head, *columns]), *lines]) + "\n"
        (machine.folder / "members.csv").write_text(csv)
        for command in (["migrate"], ["import", "members.csv"]):
            ran = machine(*command, timeout=300)
            assert ran.code == 0, ran.err
        machine.start_sandbox(rows, *options)
        records = Records(machine.environment["DATABASE_URL"])
        records.watch_states()
        return records

    return populate
