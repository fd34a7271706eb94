"""Which modules write which table. Our tables have one owner each, so that "what can change this row?" is answered in one place.

Exception: triggers write ``changed_members`` too.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.unit.test_imports import SOURCES, is_under, trees
from worker.store.sql.tables import metadata

TABLES = set(metadata.tables)
OWNERS = {
    "reconnections": {"worker.store.reconnections"},
    "notifications": {"worker.store.notifications"},
    "notification_reconnections": {"worker.store.notifications"},
    "windows": {"worker.store.windows"},
    "links": {"worker.store.links"},
    "clicks": {"worker.store.clicks"},
    "hints": {"worker.store.hints"},
    "events": {"worker.store.events"},
    "pauses": {"worker.store.pauses"},
    "false_alarms": {"worker.store.outages"},
    "sweeps": {"worker.store.sweeping"},
    "daily_totals": {"worker.store.totals"},
    "syncs": {"worker.store.syncs"},
    "sync_users": {"worker.store.syncs"},
    "sync_missing": {"worker.store.syncs"},
    "changed_members": {"worker.store.changes", "worker.store.sql.triggers"},
    "sweep_marks": {"worker.store.changes"},
    "reconciliations": {"worker.store.reconciling"},
    # The application's tables: `reconnect import` writes its columns, the other modules write what the worker learned.
    "users": {"worker.store.importing", "worker.store.addresses", "worker.store.from_mx"},
    "devices": {"worker.store.importing", "worker.store.addresses"},
    "members": {
        "worker.store.importing",
        "worker.store.members",
        "worker.store.from_mx",
        "worker.store.consents",
        "worker.store.reckoning",
    },
    "institutions": {"worker.store.institutions"},
    "reckonings": {"worker.store.reckoning"},
}
#: Modules that write a table which is a variable in their source.
ANY_TABLE = {
    "worker.store.importing": "users, members and devices, as its KEYS say",
    "worker.store.transactions.forget": "a user is erased from all tables that the metadata has",
    "worker.store.sandbox_time": "accelerated time, for the sandbox alone: every stored moment moves",
}
#: Retention and `reconnect forget` delete from every table. These modules write nothing else.
DELETE = {"worker.store.transactions.retention", "worker.store.transactions.forget"}
WRITES = {"insert", "update", "delete"}
RAW = re.compile(rf"(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM|MERGE\s+INTO)\s+({'|'.join(TABLES)})\b", re.IGNORECASE)


def written_in(tree: ast.Module) -> Iterator[str]:
    """The tables that a module's sources write, by an expression of SQLAlchemy or by SQL in a string; ``?`` for a variable."""
    names = {table: table for table in TABLES} | {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in TABLES | WRITES
    }
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield from (found.lower() for found in RAW.findall(node.value))
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        target = node.args[0] if node.args else None
        if isinstance(called, ast.Name) and names.get(called.id) in WRITES:  # update(table)
            yield _table(target, names) or "?"
        elif isinstance(called, ast.Attribute) and called.attr in WRITES:
            if (table := _table(called.value, names)) or (table := _table(target, names)):  # table.update()
                yield table
            elif called.attr == "insert" and isinstance(called.value, ast.Name | ast.Attribute) and len(node.args) == 1:
                yield "?"


def _table(node: ast.expr | None, names: dict[str, str]) -> str | None:
    """The table that an expression names: ``reconnections``, ``tables.reconnections``, or an alias of it."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    found = names.get(name)
    return found if found in TABLES else None


@cache
def written() -> dict[str, set[str]]:
    """Which tables each module writes."""
    return {
        module: set(written_in(tree))
        for module, tree in trees().items()
        if is_under(module, "worker.store") or RAW.search(SOURCES[module].read_text(encoding="utf-8"))
    }


def test_every_table_has_its_owner() -> None:
    assert set(OWNERS) == TABLES


def test_only_its_owner_writes_a_table() -> None:
    """One test for all tables, because each process that ran a part of it would have to parse every module."""
    for table in sorted(TABLES):
        writers = {module for module, tables in written().items() if table in tables} - DELETE
        others = [module for module in writers if not any(is_under(module, owner) for owner in OWNERS[table])]
        assert not others, f"{others} write {table}"
        # Every owner does write its table. Owners in ANY_TABLE are left out, because their table is a variable.
        for owner in OWNERS[table] - set(ANY_TABLE):
            assert any(is_under(module, owner) for module in writers), f"{owner} does not write {table}"


def test_what_deletes_from_every_table_writes_nothing_else() -> None:
    called = {
        (module, node.func.id if isinstance(node.func, ast.Name) else node.func.attr)
        for module in DELETE & set(trees())
        for node in ast.walk(trees()[module])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    }
    assert {name for _, name in called} & WRITES == {"delete"}


def test_no_other_module_writes_a_table_that_it_does_not_name() -> None:
    assert {module for module, tables in written().items() if "?" in tables} == set(ANY_TABLE)


def test_queries_only_read() -> None:
    assert not {module for module, tables in written().items() if tables and is_under(module, "worker.store.queries")}


def test_windows_are_wiped_where_a_reconnection_moves_and_nowhere_else() -> None:
    wiping = {
        module
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "wipe"
    }
    assert wiping == {"worker.store.reconnections.closing"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("update(reconnections).values(state='due')", "reconnections"),
        ("from sqlalchemy import update as change\nchange(reconnections)", "reconnections"),
        ("from worker.store.sql.tables import reconnections as r\nr.update()", "reconnections"),
        ("sa.delete(tables.windows)", "windows"),
        ("self._rows.insert(notifications)", "notifications"),
        ("text('update  reconnections set state = 1')", "reconnections"),
        ("f'INSERT INTO windows VALUES ({x})'", "windows"),
        ("from sqlalchemy import update\nupdate(table)", "?"),
        ("self._rows.insert(table)", "?"),
    ],
)
def test_no_way_to_write_is_overlooked(source: str, found: str) -> None:
    names = "from sqlalchemy import insert, update, delete\n"
    assert found in set(written_in(ast.parse(names + source)))
