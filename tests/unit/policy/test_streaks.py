"""Refusals of one message are told from refusals of us by how many are alike, and by what is accepted meanwhile."""

from datetime import UTC, datetime, timedelta

import pytest

from worker.policy.streaks import MEMORY, Answer, alike

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
BLOCKED, OTHER = "554 5.7.1 at RCPT", "550 at RCPT"


def answers(*runs: tuple[int, str | None, float], concurrency: int = 3) -> list[Answer]:
    """So many answers of a kind, each run so many minutes ago."""
    return [
        Answer(
            at=NOW - timedelta(minutes=ago, seconds=count - i),
            refusal=refusal,
            user=f"USR-{refusal}-{i}",
            place=f"host{i % concurrency}.example",
        )
        for count, refusal, ago in runs
        for i in range(count)
    ]


def accepted(place: str) -> Answer:
    return Answer(at=NOW, refusal=None, user="USR-accepted", place=place)


@pytest.mark.parametrize(
    ("doubt", "found", "count"),
    [
        # Nobody answers: one is enough, unless somebody did within the minute.
        ("unreachable", answers((1, BLOCKED, 0)), 1),
        ("unreachable", answers((1, BLOCKED, 0), (5, None, 0.5)), 0),
        ("unreachable", answers((1, BLOCKED, 0), (5, None, 2)), 1),
        # It may be us: few where nothing is accepted for a while, more where something was.
        ("us", answers((2, BLOCKED, 0)), 0),
        ("us", answers((3, BLOCKED, 0)), 3),
        ("us", answers((2, BLOCKED, 0), (2, OTHER, 0)), 0),
        ("us", answers((3, BLOCKED, 0), (9, None, 11)), 3),
        ("us", answers((7, BLOCKED, 0), (9, None, 1)), 0),
        ("us", answers((8, BLOCKED, 0), (9, None, 1)), 8),
        ("us", answers((1, None, 0), (19, BLOCKED, 1)), 0),
        ("us", answers((1, None, 0), (20, BLOCKED, 1)), 20),
        # One strict domain is not everybody, as long as others accept.
        ("us", [*answers((24, BLOCKED, 0), concurrency=1), accepted("other.example")], 0),
        ("us", [*answers((24, BLOCKED, 0), concurrency=1), accepted("host0.example")], 24),
        ("us", answers((24, BLOCKED, 0), concurrency=1), 24),
        # It speaks of the recipient: nearly all, and nothing accepted.
        ("message", answers((19, BLOCKED, 0)), 0),
        ("message", answers((20, BLOCKED, 0)), 20),
        ("message", answers((24, BLOCKED, 0), (1, None, 1)), 0),
    ],
)
def test_how_many_alike_are_enough(doubt: str, found: list[Answer], count: int) -> None:
    assert alike(BLOCKED, doubt, found, now=NOW) == count
    assert alike(BLOCKED, doubt, found[::-1], now=NOW) == count
    assert alike("something else", doubt, found, now=NOW) == 0


def test_the_devices_of_one_user_count_once() -> None:
    tried = [Answer(at=NOW - timedelta(seconds=i), refusal=BLOCKED, user="USR-1") for i in range(25)]
    assert alike(BLOCKED, "us", tried, now=NOW) == 0


def test_nothing_is_no_streak() -> None:
    assert timedelta(minutes=10) < MEMORY
    assert alike(BLOCKED, "us", [], now=NOW) == 0
