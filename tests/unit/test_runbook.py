"""The figures, commands and settings in the documents agree with the code, because an engineer on call acts on them."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import typer
from cryptography.fernet import Fernet

from tests.pages import DOCS, PAGES, README, ROOT, RUNBOOK, Page
from worker import cli
from worker.app import configuration
from worker.channels import MOST_NAMED
from worker.channels.push.apns import doubtful
from worker.mx import retrying
from worker.policy import cadence, links, notices, outage, poison, recovery, retries, streaks
from worker.policy.channel_choice import MOST_DEVICES
from worker.policy.mx_failures import UNSUPPORTED_WAIT
from worker.settings import Settings, load_settings
from worker.stages.click import ASK_SECONDS
from worker.stages.freshness import TRUSTED_FOR
from worker.stages.planning import UNREACHABLE_WAIT
from worker.stages.runner import Runner
from worker.stages.sweep import MOST_WOKEN
from worker.task_limits import (
    ANSWER_SECONDS,
    BEGIN_SECONDS,
    CANCEL_SECONDS,
    MAIL_ANSWER_SECONDS,
    SETTLE_SECONDS,
    soft_limit,
    visibility_timeout,
)
from worker.web import overload
from worker.web.guard import VIEW_SECONDS
from worker.web.limits import Limit

SETTINGS = load_settings(_env_file=None, mx_api_key="k", mx_client_id="c", uri_keys=Fernet.generate_key().decode())
COMMANDS = typer.main.get_command(cli.app).commands

_WORDS = {"two": 2, "three": 3, "seven": 7, "five": 5, "six": 6, "eight": 8, "ten": 10, "twenty": 20}

_START = datetime(2026, 1, 1, tzinfo=UTC)


def _in_words(*spans: timedelta) -> str:
    """Spans as the documents write them: ``1 minute, 5 minutes``."""
    words = []
    for span in spans:
        number, unit = (
            (span // timedelta(hours=1), "hour") if span >= timedelta(hours=1) else (span.seconds // 60, "minute")
        )
        words.append(f"{number} {unit}" + ("s" if number > 1 else ""))
    return ", ".join(words)


def _checks() -> str:
    """How long after a message a member is checked, as the documents write it."""
    spans = [recovery.next_check(n, _START) - _START for n in range(10)]
    minutes = ", ".join(str(span.seconds // 60) for span in spans if span < timedelta(hours=1))
    hours = [str(span.seconds // 3600) for span in spans if span >= timedelta(hours=1)]
    return f"{minutes} minutes, after {', '.join(hours[:-1])} and {hours[-1]} hours"


def _checks_after_click() -> str:
    seconds = [int(span.total_seconds()) for span in recovery.AFTER_CLICK]
    *minutes, last = [str(span // 60) for span in seconds if span >= 60]
    return f"{' and '.join(str(span) for span in seconds if span < 60)} seconds, {', '.join(minutes)} and {last}"


#: A sentence of the documents with a figure in it, and the code that the figure comes from.
FIGURES: list[tuple[str, Callable[[], object]]] = [
    (r"a sweep fills each up to what is due, (\w+) messages at most", lambda: MOST_WOKEN),
    (r"a sweep wakes up to (\w+) workers a stage", lambda: MOST_WOKEN),
    (r"`MAX_ATTEMPTS` \((\w+)\)", lambda: SETTINGS.max_attempts),
    (r"`exhausted`, an MX code: (\w+) attempts failed", lambda: SETTINGS.max_attempts),
    (r"yes, (\w+) at most", lambda: SETTINGS.max_attempts),
    (r"`LEASE_SECONDS`, (\w+) s", lambda: SETTINGS.lease_seconds),
    (r"hard limit \((\w+) s\)", lambda: configuration()["task_time_limit"]),
    (r"takes longer than (\w+) s", lambda: int(MAIL_ANSWER_SECONDS)),
    (r"(\w+) of the last \d+ calls of one task", lambda: streaks.MANY),
    (r"of the last (\w+) calls of one task", lambda: streaks.OUT_OF),
    (r"At least (\w+) members of an institution broke within an hour", lambda: outage.LEAST_BREAKS),
    (r"broke within an hour, (\w+) times its normal", lambda: outage.FACTOR),
    (
        r"without a break in the (?:last )?two weeks that is older than (\w+) days",
        lambda: outage.LEAST_HISTORY // timedelta(days=1),
    ),
    (r"asked again after (\w+) weeks", lambda: UNSUPPORTED_WAIT // timedelta(weeks=1)),
    (r"(\w+) workers died while they had claimed this row", lambda: poison.MOST_DEATHS),
    (r"tried in batches of (\d+, \d+, \d+)", lambda: ", ".join(str(poison.batch_size(200, n)) for n in (2, 3, 4))),
    (r"told (\w+) times, never came", lambda: len(SETTINGS.reminder_days)),
    (r"examined again every (hour)", lambda: {timedelta(hours=1): "hour"}[UNREACHABLE_WAIT]),
    (r"fetch tasks follow each other at (\w+) s", lambda: SETTINGS.run_seconds),
    (r"[Aa]t least (\w+) members of an institution break within an hour", lambda: outage.LEAST_BREAKS),
    (r"break within an hour, and at least (\w+) times", lambda: outage.FACTOR),
    (r"the last (\w+) weeks\)", lambda: outage.HISTORY // timedelta(weeks=1)),
    (r"reads the member at MX: after (.*? 8 hours), then daily", _checks),
    (r"\| up to (1 minute, .*?), then 24 hours each", lambda: _in_words(*retries.SCHEDULE[:-1])),
    (r"up to (\d) requests within", lambda: retrying.TRIES),
    (r"starts one step later, at up to (5 minutes)", lambda: _in_words(retries.SCHEDULE[1])),
    (r"A wait of more than (\d+) seconds", lambda: int(retrying.PATIENCE)),
    (r"names (\w+) banks at most", lambda: MOST_NAMED),
    (r"at most (\w+) devices of a kind a day", lambda: MOST_DEVICES),
    (r"(\w+) days after the last reminder the reconnection", lambda: cadence.PATIENCE_AFTER_LAST.days),
    (r"(\d+), if nothing was accepted within ten minutes", lambda: streaks.FEW),
    (r"or (\d+) with no message accepted in between", lambda: streaks.UNBROKEN),
    (r"less than (\d+) hours away, one notice serves both", lambda: notices.NOTICES_APART // timedelta(hours=1)),
    (r"After (\w+) in a row in one process the channel stops", lambda: doubtful.MOST),
    (r"row whose workers died (\w+) times", lambda: poison.MOST_DEATHS),
    (r"After (\w+) deaths it is quarantined", lambda: poison.MOST_DEATHS),
    (
        r"batches: (\d+ rows, then \d+, \d+, \d+)",
        lambda: "{} rows, then {}, {}, {}".format(*(poison.batch_size(200, n) for n in (1, 2, 3, 4))),
    ),
    (r"asked again after (\w+) weeks", lambda: UNSUPPORTED_WAIT // timedelta(weeks=1)),
    (r"Requests and mails that are under way get (\w+) seconds", lambda: int(Runner.finish_seconds)),
    (r"for this click, before all batches, for (\d+) seconds at most", lambda: int(ASK_SECONDS)),
    (r"with one quick retry, within (\d+) seconds", lambda: int(ASK_SECONDS)),
    (r"A link has (\d+) mints in an hour", lambda: links.MINTS),
    (r"its (\d+) mints of an hour", lambda: links.MINTS),
    (r"more than (\d+) presses of the link", lambda: Limit.LINK.value.amount),
    (r"presses of the link, or (\d+) from the address", lambda: Limit.PRESSES.value.amount),
    (r"\*\*Check the member sooner:\*\* (20 .*?) minutes after the click", _checks_after_click),
    (r"a page took longer than (\d+) s", lambda: int(VIEW_SECONDS)),
    (r"(\d+) transactions of one web process were under way", lambda: overload.MOST),
    (r"with (\d+) transactions under way, pages and presses", lambda: overload.MOST),
    (r"the API with (\d+), and `web_overloaded`", lambda: overload.MOST_FOR_PROGRAMS),
    (r"has not begun (\d+) seconds later", lambda: int(BEGIN_SECONDS)),
    (r"and so is, after (\d+) more, what MX", lambda: int(ANSWER_SECONDS)),
    (r"`RUN_SECONDS` and (\d+), at least 240", lambda: soft_limit(200) - 200),
    (r"`RUN_SECONDS` and 210, at least (\d+)", lambda: soft_limit(1)),
    (r"ends by itself (\d+) seconds after `RUN_SECONDS`", lambda: int(BEGIN_SECONDS + ANSWER_SECONDS)),
    (r"(\d+) to write results", lambda: int(SETTLE_SECONDS)),
    (r"(\d+) more: kills a task", lambda: CANCEL_SECONDS),
    (r"`visibility_timeout` is (\d+) seconds", lambda: visibility_timeout(SETTINGS.run_seconds)),
    (r"last answer is older than a (minute)", lambda: {timedelta(minutes=1): "minute"}[TRUSTED_FOR]),
]


@pytest.mark.parametrize(("sentence", "figure"), FIGURES, ids=[sentence[:40] for sentence, _ in FIGURES])
def test_a_figure_is_the_one_in_the_code(
    sentence: str, figure: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mx_api_key", "mx_client_id", "uri_keys"):
        monkeypatch.setenv(name.upper(), Fernet.generate_key().decode())
    text = re.sub(r"\s+", " ", " ".join(page.text for page in (README, *DOCS.values())))
    found = [next(group for group in match.groups() if group) for match in re.finditer(sentence, text)]
    assert found, f"no document says {sentence!r} any more"
    for words in found:
        assert str(_WORDS.get(words.lower(), words)) == str(figure())


def test_every_command_and_option_that_is_named_exists() -> None:
    seen = 0
    for document in (page.text for page in PAGES):
        for name, rest in re.findall(
            r"(?:^|[\s/`(])reconnect ([a-z][a-z-]*)((?: [^|;#`\n]*)?)", document, re.MULTILINE
        ):
            if name not in COMMANDS:  # "reconnect rows", in a sentence
                assert f"`reconnect {name}" not in document, name
                continue
            seen += 1
            options = {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help"}
            assert set(re.findall(r"--[a-z-]+", rest)) <= options, (name, rest)
    assert seen > 120


#: Names in capitals that are no settings of ours.
_OTHERS = {
    "WORKER_CHILDREN", "FLOWER_PORT", "FLOWER_BASIC_AUTH", "FLOWER_COOKIE_SECRET", "HTTPS_PROXY", "NO_PROXY",
    "UNREGISTERED", "INVALID_ARGUMENT", "QUOTA_EXCEEDED", "SENDER_ID_MISMATCH", "THIRD_PARTY_AUTH_ERROR", "FAULT_SEED", "SO_REUSEPORT",
}  # fmt: skip


@pytest.mark.parametrize("page", [README, *DOCS.values()], ids=str)
def test_every_setting_that_is_named_exists(page: Page) -> None:
    known = {name.upper() for name in Settings.model_fields} | _OTHERS
    for name in re.findall(r"`([A-Z][A-Z]+_[A-Z_]+)(?:=[^`]*)?`", page.text):
        assert name in known, name


def test_every_complaint_of_the_web_process_stands_in_the_runbook() -> None:
    complaints = {
        event
        for path in (ROOT / "worker" / "web").glob("*.py")
        for event in re.findall(r'log\.(?:warning|error|exception)\(\s*"(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert len(complaints) > 4
    assert not {event for event in complaints if f"`{event}`" not in RUNBOOK.text}


def test_the_readme_leads_whoever_is_on_call_to_the_runbook() -> None:
    first = next(
        line for line in README.section("Where to read on").splitlines() if line.startswith("| ") and "](" in line
    )
    assert RUNBOOK.path in first
