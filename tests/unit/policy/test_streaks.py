"""Whether refusals are about one message or about us: the number of equal refusals decides, and whether others were accepted meanwhile."""

from datetime import UTC, datetime, timedelta

import pytest

from worker.policy.streaks import MEMORY, Answer, alike

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
BLOCKED, OTHER = "554 5.7.1 at RCPT", "550 at RCPT"


def answers(*runs: tuple[int, str | None, float], concurrency: int = 3) -> list[Answer]:
    """The answers of these runs: each run is (how many, refusal or ``None``, minutes ago)."""
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
        # "unreachable": one refusal is enough, unless another message was accepted within the last minute.
        ("unreachable", answers((1, BLOCKED, 0)), 1),
        ("unreachable", answers((1, BLOCKED, 0), (5, None, 0.5)), 0),
        ("unreachable", answers((1, BLOCKED, 0), (5, None, 2)), 1),
        # "us": 3 if nothing was accepted within ten minutes, 8 in a row, or 20 of the last 25.
        ("us", answers((2, BLOCKED, 0)), 0),
        ("us", answers((3, BLOCKED, 0)), 3),
        ("us", answers((2, BLOCKED, 0), (2, OTHER, 0)), 0),
        ("us", answers((3, BLOCKED, 0), (9, None, 11)), 3),
        ("us", answers((7, BLOCKED, 0), (9, None, 1)), 0),
        ("us", answers((8, BLOCKED, 0), (9, None, 1)), 8),
        ("us", answers((1, None, 0), (19, BLOCKED, 1)), 0),
        ("us", answers((1, None, 0), (20, BLOCKED, 1)), 20),
        # Refusals of a single domain do not count while other domains accept.
        ("us", [*answers((24, BLOCKED, 0), concurrency=1), accepted("other.example")], 0),
        ("us", [*answers((24, BLOCKED, 0), concurrency=1), accepted("host0.example")], 24),
        ("us", answers((24, BLOCKED, 0), concurrency=1), 24),
        # "message" (it is about the recipient): 20 of the last 25, and nothing accepted.
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
