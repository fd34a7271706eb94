"""Which module may import which: imports run downwards, decisions do no I/O, SQL is in the store only, and nothing needs the sandbox."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import worker

ROOT = Path(worker.__file__).parent

#: The parts of the package from the bottom up. A part imports from the floors below it.
FLOORS = (
    {
        "__init__",
        "errors",
        "settings",
        "clock",
        "delayed_wakes",
        "schedules",
        "task_limits",
        "telemetry",
        "plain_text",
        "display_names",
        "stopping",
        "broker_faults",
        "signing",
        "restarting",
        "retry_after",
        "broker_transport",
        "consumer",
    },
    {"policy", "store", "mx", "channels", "sandbox"},
    {"endpoint", "runtime", "intake", "bounces", "publishing"},
    {"stages"},
    {"sandbox.demo"},
    {"app", "beat", "overdue_sweeps", "task_events", "tasks", "web", "cli", "__main__"},
)
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}
#: The floor whose parts must not import one another.
SEPARATE = 1
#: Exceptions: (importing part, imported module) on that floor, and why.
SIDEWAYS = {
    ("store", "worker.policy"): "rules and states are values; SQL says the same rule again",
    ("channels", "worker.mx.uris"): "one rule for which URI is fit to be opened",
}

SQL = {"sqlalchemy", "alembic", "psycopg", "psycopg2", "asyncpg", "aiosqlite", "sqlite3"}
#: Modules outside the store that may import a database library, and which names of it.
SQL_ALLOWED = {
    # One ``SELECT`` reads the database's clock when a process starts.
    "worker.runtime": {"sqlalchemy", "sqlalchemy.select"},
    # libpq parses DATABASE_URL before anything connects.
    "worker.settings.urls": {"psycopg", "psycopg.Error", "psycopg.conninfo", "psycopg.pq"},
}
NETWORK = {
    "aiohttp", "httpx", "httpcore", "h2", "requests", "yarl", "aiosmtplib", "smtplib", "socket", "ssl", "http",
    "urllib.request", "redis", "google", "pywebpush",
}  # fmt: skip
#: Modules that do I/O or start threads or processes, and ``time``.
OUTSIDE = NETWORK | SQL | {
    "asyncio", "concurrent", "io", "logging", "multiprocessing", "os", "pathlib", "select", "selectors", "shutil",
    "signal", "subprocess", "tempfile", "threading", "time", "urllib",
}  # fmt: skip
MAY_START_THE_SANDBOX = {"worker.cli.demo", "worker.cli.running"}


def module_of(path: Path) -> str:
    return ".".join(("worker", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imports_in(tree: ast.AST, module: str, *, is_package: bool = False) -> set[str]:
    """Every module that this tree imports, also inside functions; ``from a import b`` counts as ``a`` and as ``a.b``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


SOURCES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def trees() -> dict[str, ast.Module]:
    """The package, parsed. A function and no constant: every test process imports this file to collect its tests."""
    return {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in SOURCES.items()}


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports."""
    return {
        module: imports_in(tree, module, is_package=SOURCES[module].name == "__init__.py")
        for module, tree in trees().items()
    }


def part_of(name: str) -> str:
    """``worker.store.sql.tables`` belongs to ``store``; a name of ``worker`` itself belongs to ``__init__``."""
    if is_under(name, "worker.sandbox.demo"):  # the only part of the sandbox that may import stages
        return "sandbox.demo"
    part = name.split(".")[1] if "." in name else "__init__"
    return part if f"worker.{part}" in SOURCES else "__init__"


def is_under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def members(part: str) -> Iterator[tuple[str, set[str]]]:
    return ((module, names) for module, names in imports().items() if part_of(module) == part)


def own(names: set[str]) -> set[str]:
    return {name for name in names if is_under(name, "worker") and name != "worker"}


def test_every_part_of_the_package_has_its_floor() -> None:
    assert {part_of(module) for module in imports()} <= set(FLOOR), "place the new part in FLOORS"


def runs_upwards(module: str, name: str) -> bool:
    here, there = part_of(module), part_of(name)
    if there == here or FLOOR[there] < FLOOR[here]:
        return False
    if FLOOR[here] == FLOOR[there] == SEPARATE:
        return not any(here == who and is_under(name, whom) for who, whom in SIDEWAYS)
    return FLOOR[there] != FLOOR[here]


def test_imports_run_downwards() -> None:
    assert not [
        f"{module} imports {name}"
        for module, names in imports().items()
        for name in sorted(own(names))
        if runs_upwards(module, name)
    ]


def test_no_two_parts_need_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for module, names in imports().items():
        here = part_of(module)
        graph.setdefault(here, set()).update({part_of(name) for name in own(names)} - {here})
    assert list(TopologicalSorter(graph).static_order())


def test_no_modules_import_each_other_in_a_ring() -> None:
    graph = {
        module: {name for name in names if name in imports() and name not in {module, "worker"}}
        for module, names in imports().items()
    }
    assert list(TopologicalSorter(graph).static_order())


def needs_io(name: str) -> bool:
    top = name.split(".", maxsplit=1)[0]
    if top == "worker":
        return part_of(name) not in {"__init__", "policy"} and not is_under(name, "worker.settings.values")
    return any(is_under(name, outside) for outside in OUTSIDE) or not (
        top in {"msgspec", "babel"} or top in sys.stdlib_module_names  # of babel only the tables of CLDR
    )


def test_decisions_do_no_io() -> None:
    assert not [f"{module} imports {name}" for module, names in members("policy") for name in names if needs_io(name)]


def test_decisions_have_no_clock_and_no_files_of_their_own() -> None:
    calls = [
        (f"{module}, line {node.lineno}", node.func)
        for module, _ in members("policy")
        for node in ast.walk(trees()[module])
        if isinstance(node, ast.Call)
    ]
    assert not [
        where
        for where, called in calls
        if (isinstance(called, ast.Attribute) and called.attr in {"now", "utcnow", "today"})
        or (isinstance(called, ast.Name) and called.id in {"open", "print", "input"})
    ]


def test_sql_stands_in_the_store_only() -> None:
    assert not [
        f"{module} imports {name}"
        for module, names in imports().items()
        for name in names
        if module not in SQL_ALLOWED and part_of(module) != "store" and name.split(".")[0] in SQL
    ]


def test_what_is_allowed_beside_the_store_is_no_more_than_was_said() -> None:
    for module, allowed in SQL_ALLOWED.items():
        assert {name for name in imports()[module] if name.split(".")[0] in SQL} <= allowed


@pytest.mark.parametrize("part", ["store", "stages"])
def test_the_store_and_the_stages_speak_to_no_network_themselves(part: str) -> None:
    for module, names in members(part):
        assert not [name for name in names if any(is_under(name, library) for library in NETWORK)], module


def test_nothing_in_the_product_needs_the_sandbox() -> None:
    importers = {
        module for module, names in imports().items() if any(is_under(name, "worker.sandbox") for name in names)
    }
    assert {module for module in importers if not is_under(module, "worker.sandbox")} <= MAY_START_THE_SANDBOX


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import worker.store.sql.tables as t", "worker.store.sql.tables"),
        ("from worker import store", "worker.store"),
        ("from worker.store.sql import tables", "worker.store.sql.tables"),
        ("def f():\n    from worker.store.sql.tables import users", "worker.store.sql.tables"),
        ("if TYPE_CHECKING:\n    import sqlalchemy.orm", "sqlalchemy.orm"),
        ("try:\n    import a.b, socket\nexcept ImportError: ...", "socket"),
        ("from . import states", "worker.policy.states"),
        ("from .states import OPEN", "worker.policy.states"),
        ("from ..store.sql import tables", "worker.store.sql.tables"),
        ("from .. import store", "worker.store"),
    ],
)
def test_no_way_to_import_is_overlooked(source: str, found: str) -> None:
    assert found in imports_in(ast.parse(source), "worker.policy.cadence")


def test_a_package_imports_relative_to_itself() -> None:
    assert "worker.policy.states" in imports_in(ast.parse("from .states import OPEN"), "worker.policy", is_package=True)
