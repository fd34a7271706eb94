"""Every state has a sentence in the source, and an ended row stays ended unless it is requeued."""

import ast
import re
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

import pytest

from worker.policy import states
from worker.policy.states import (
    ENDS,
    LIVE,
    NOTIFICATION_MOVES,
    NOTIFICATION_STEPS,
    OPEN,
    RECONNECTION_MOVES,
    RECONNECTION_STEPS,
    UNDONE_REFUSALS,
    ImpossibleMoveError,
    Move,
    Mover,
    NotificationState,
    ReconnectionState,
    check,
)

R, N = ReconnectionState, NotificationState
ALL = [*R, *N]
ALL_MOVES = [*RECONNECTION_MOVES, *NOTIFICATION_MOVES, *UNDONE_REFUSALS]


def sentences() -> dict[str, str]:
    """The line directly above each state in the source, by ``Class.NAME``."""
    source = Path(states.__file__).read_text(encoding="utf-8")
    lines, found = source.splitlines(), {}
    for cls in ast.parse(source).body:
        if isinstance(cls, ast.ClassDef) and cls.name in {R.__name__, N.__name__}:
            for item in cls.body:
                if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
                    found[f"{cls.name}.{item.targets[0].id}"] = lines[item.lineno - 2].strip()
    return found


@pytest.mark.parametrize("state", ALL, ids=lambda state: f"{type(state).__name__}.{state.name}")
def test_a_sentence_stands_above_every_state(state: StrEnum) -> None:
    assert re.fullmatch(r"#: [A-Z].+\.", sentences()[f"{type(state).__name__}.{state.name}"])


def test_no_two_states_share_a_sentence() -> None:
    assert len(set(sentences().values())) == len(sentences()) == len(ALL)


def test_the_states_are_those_of_the_design() -> None:
    assert [*R] == [
        "due", "leased", "ready", "notified", "reconnected", "unsupported", "gone", "exhausted", "cancelled",
        "quarantined",
    ]  # fmt: skip
    assert [*N] == ["pending", "sending", "sent", "failed", "unknown", "cancelled", "suppressed"]


def test_every_state_says_what_may_follow() -> None:
    assert set(RECONNECTION_STEPS) == set(R)
    assert set(NOTIFICATION_STEPS) == set(N)


def test_a_reconnection_is_open_or_has_ended() -> None:
    assert set(OPEN) | ENDS == set(R)
    assert not set(OPEN) & ENDS


def test_what_ended_only_a_retry_brings_back() -> None:
    for state in ENDS:
        assert RECONNECTION_STEPS[state] <= {R.DUE}
    assert {state for state in ENDS if RECONNECTION_STEPS[state]} == {R.EXHAUSTED, R.QUARANTINED, R.UNSUPPORTED}
    for message in set(N) - set(LIVE):
        assert NOTIFICATION_STEPS[message] == ({N.PENDING} if message is N.UNKNOWN else set())


def test_what_is_open_can_end_and_can_go_on() -> None:
    for state in OPEN:
        assert RECONNECTION_STEPS[state] & ENDS
        assert RECONNECTION_STEPS[state] & set(OPEN) - {state}
        assert R.RECONNECTED in RECONNECTION_STEPS[state]
    for message in LIVE:
        assert NOTIFICATION_STEPS[message] - set(LIVE)


def test_every_state_can_be_reached() -> None:
    assert set().union(*RECONNECTION_STEPS.values()) == set(R)
    assert set().union(*NOTIFICATION_STEPS.values()) | {N.PENDING} == set(N)


def test_a_round_goes_the_way_of_the_design() -> None:
    way = [R.DUE, R.LEASED, R.READY, R.NOTIFIED, R.DUE]
    assert all(after in RECONNECTION_STEPS[before] for before, after in pairwise(way))
    assert all(R.RECONNECTED in RECONNECTION_STEPS[state] for state in way)


def test_no_message_that_may_have_left_is_called_failed_or_sent_by_guesswork() -> None:
    assert N.SENT not in NOTIFICATION_STEPS[N.UNKNOWN]
    assert N.FAILED not in NOTIFICATION_STEPS[N.UNKNOWN]
    assert N.SENT not in NOTIFICATION_STEPS[N.PENDING]


@pytest.mark.parametrize("move", ALL_MOVES, ids=lambda move: move.name)
def test_a_move_says_who_makes_it_and_nobody_else_may(move: Move) -> None:
    assert move.also
    assert move.by
    for before in move.before:
        for by in move.by:
            check(move.name, by, before, *move.after)
        others = {other for one in ALL_MOVES if one.name == move.name and before in one.before for other in one.by}
        for stranger in set(Mover) - others:
            with pytest.raises(ImpossibleMoveError):
                check(move.name, stranger, before, *move.after)


def test_what_a_streak_gives_back_is_no_ordinary_move() -> None:
    for move in UNDONE_REFUSALS:
        for before in move.before:
            steps = RECONNECTION_STEPS[before] if isinstance(before, R) else NOTIFICATION_STEPS[N(before)]
            assert not set(move.after) & steps
