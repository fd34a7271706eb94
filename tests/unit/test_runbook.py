"""The runbook's figures, commands, settings and links are those of the code: somebody acts on them at night."""

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import typer
from cryptography.fernet import Fernet

from worker import cli
from worker.app import configuration
from worker.policy import outage, streaks, suspicion
from worker.runtime import DATA_PATIENCE
from worker.settings import Settings, load_settings
from worker.stages.mx_failures import UNSUPPORTED_WAIT
from worker.stages.planning import UNREACHABLE_WAIT
from worker.stages.sweep import MOST_WOKEN

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = (ROOT / "ops" / "RUNBOOK.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS = load_settings(_env_file=None, mx_api_key="k", mx_client_id="c", uri_keys=Fernet.generate_key().decode())
COMMANDS = typer.main.get_command(cli.app).commands

_WORDS = {"three": 3, "five": 5, "six": 6, "eight": 8, "ten": 10, "twenty": 20}

#: A sentence of the runbook with a figure in it, and where the figure comes from.
FIGURES: list[tuple[str, Callable[[], object]]] = [
    (r"a sweep fills each up to what is due, (\w+) messages at most", lambda: MOST_WOKEN),
    (r"a sweep wakes up to (\w+) workers a stage", lambda: MOST_WOKEN),
    (r"`MAX_ATTEMPTS` \((\w+)\)", lambda: SETTINGS.max_attempts),
    (r"`exhausted`, an MX code: (\w+) attempts failed", lambda: SETTINGS.max_attempts),
    (r"yes, (\w+) at most", lambda: SETTINGS.max_attempts),
    (r"`LEASE_SECONDS`, (\w+) s", lambda: SETTINGS.lease_seconds),
    (r"hard limit \((\w+) s\)", lambda: configuration()["task_time_limit"]),
    (r"takes longer than (\w+) s", lambda: int(DATA_PATIENCE)),
    (r"(\w+) of a process's last \d+ calls", lambda: streaks.MANY),
    (r"of a process's last (\w+) calls", lambda: streaks.OUT_OF),
    (r"At least (\w+) members of an institution broke within an hour", lambda: outage.LEAST_BREAKS),
    (r"broke within an hour, (\w+) times its normal", lambda: outage.FACTOR),
    (r"less than (\w+) days of history", lambda: outage.LEAST_HISTORY // timedelta(days=1)),
    (r"asked again after (\w+) weeks", lambda: UNSUPPORTED_WAIT // timedelta(weeks=1)),
    (r"(\w+) workers died with this row in hand", lambda: suspicion.MOST_DEATHS),
    (r"tried in slices of (\d+, \d+, \d+)", lambda: ", ".join(str(suspicion.slice_size(200, n)) for n in (2, 3, 4))),
    (r"told (\w+) times, never came", lambda: len(SETTINGS.reminder_days)),
    (r"looked at again every (hour)", lambda: {timedelta(hours=1): "hour"}[UNREACHABLE_WAIT]),
    (r"fetch tasks follow each other at (\w+) s", lambda: SETTINGS.shift_seconds),
]


@pytest.mark.parametrize(("sentence", "figure"), FIGURES, ids=[sentence[:40] for sentence, _ in FIGURES])
def test_a_figure_is_the_one_in_the_code(
    sentence: str, figure: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mx_api_key", "mx_client_id", "uri_keys"):
        monkeypatch.setenv(name.upper(), Fernet.generate_key().decode())
    text = re.sub(r"\s+", " ", RUNBOOK)
    found = [next(group for group in match.groups() if group) for match in re.finditer(sentence, text)]
    assert found, f"the runbook no longer says {sentence!r}"
    for words in found:
        assert str(_WORDS.get(words.lower(), words)) == str(figure())


def test_every_command_and_option_that_is_named_exists() -> None:
    seen = 0
    for document in (RUNBOOK, README):
        for name, rest in re.findall(
            r"(?:^|[\s/`(])reconnect ([a-z][a-z-]*)((?: [^|;#`\n]*)?)", document, re.MULTILINE
        ):
            if name not in COMMANDS:  # "reconnect rows", in a sentence
                assert f"`reconnect {name}" not in document, name
                continue
            seen += 1
            options = {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help"}
            assert set(re.findall(r"--[a-z-]+", rest)) <= options, (name, rest)
    assert seen > 80


def test_every_setting_that_is_named_exists() -> None:
    known = {name.upper() for name in Settings.model_fields} | {"WORKER_CHILDREN", "FLOWER_PORT", "HTTPS_PROXY"}
    for name in re.findall(r"`([A-Z][A-Z]+_[A-Z_]+)(?:=[^`]*)?`", RUNBOOK):
        assert name in known, name


def test_every_link_leads_to_a_heading() -> None:
    for name, document in (("RUNBOOK.md", RUNBOOK), ("README.md", README)):
        headings = {
            re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
            for heading in re.findall(r"^#+ (.+)$", document, re.MULTILINE)
        }
        for anchor in re.findall(r"\]\(#([^)]+)\)", document):
            assert anchor in headings, f"{name}: #{anchor}"


def test_the_readme_names_the_runbook() -> None:
    assert "(ops/RUNBOOK.md)" in README
