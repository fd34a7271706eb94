"""The table in the docstring of ``worker/policy/mx_failures.py`` agrees with what each stage does with each kind of failure."""

import re
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from worker.policy import mx_failures
from worker.policy.mx_failures import (
    ASKED_AGAIN,
    RECHECK_AFTER,
    UNCOUNTED,
    CheckAgain,
    Close,
    FailureKind,
    MxFailure,
    MxUnavailable,
    Retry,
    after_asking,
    after_checking,
)
from worker.policy.recovery import next_check
from worker.policy.states import ReconnectionState

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (mx_failures.__doc__ or "").splitlines()
    if re.match(r"\| `[A-Z]", line)
]


def asked(kind: FailureKind, attempts: int = 0) -> MxUnavailable | Retry | Close:
    failure = MxFailure(kind=kind, code="code", after=30.0)
    return after_asking(failure, attempts=attempts, max_attempts=8, now=NOW, rng=Random(1))


def in_words(outcome: MxUnavailable | Retry | Close) -> str:
    if isinstance(outcome, Close):
        return f"`{outcome.state}`"
    return "retry" if isinstance(outcome, Retry) else "unchanged"


def checked(kind: FailureKind) -> str:
    after = after_checking(MxFailure(kind=kind, code="code"), checks=3, now=NOW)
    if isinstance(after, ReconnectionState):
        return f"`{after}`"
    if after == CheckAgain(code="code", at=NOW + RECHECK_AFTER, counts=False):
        return "check again in 5 min"
    assert after == CheckAgain(code="code", at=next_check(4, NOW), counts=True)
    return "next check"


def test_every_kind_of_failure_has_its_row() -> None:
    assert [row[0].strip("`") for row in ROWS] == [kind.name for kind in FailureKind]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_row_says_what_every_stage_does(row: list[str]) -> None:
    kind = FailureKind[row[0].strip("`")]
    fetch, deliver, verify, click, hint = row[2:]
    becomes = in_words(asked(kind))
    assert fetch == becomes
    assert deliver == ("message waits" if becomes == "unchanged" else f"{becomes}, left out")
    assert verify in {checked(kind), "does not occur"}
    # A click never counts an attempt. So it ends a reconnection only for failures after which fetch ends it at once.
    assert click == (becomes if becomes.startswith("`") else "try again")
    read = {**dict.fromkeys(UNCOUNTED, "waits"), **dict.fromkeys(ASKED_AGAIN, "read again"), FailureKind.GONE: "`gone`"}
    assert hint in {read.get(kind, "hint `failed`"), "does not occur"}


@pytest.mark.parametrize("kind", FailureKind)
def test_only_what_may_be_the_members_fault_counts_as_an_attempt(kind: FailureKind) -> None:
    outcome = asked(kind, attempts=7)
    if kind in ASKED_AGAIN:
        assert isinstance(outcome, Close)
        assert (outcome.state, outcome.attempts) == (ReconnectionState.EXHAUSTED, 8)
    else:
        assert getattr(outcome, "attempts", 7) == 7


def test_a_wait_that_mx_asked_for_is_kept() -> None:
    paced, passing = asked(FailureKind.PACED), asked(FailureKind.PASSING)
    assert paced == MxUnavailable(code="code", after=30.0)
    assert isinstance(passing, Retry)
    assert passing.at >= NOW + timedelta(seconds=30)
