"""The sentences in which commands report results."""

import pytest

from worker.cli.reporting import came_back, span
from worker.store.queries.returns import Returns


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3_600, "1 h"),
        (3_600 + 59, "1 h"),
        (7_500, "2 h 5 min"),
        (86_400 * 3 + 3_600 * 4, "3 d 4 h"),
    ],
)
def test_a_span_has_its_two_largest_units(seconds, text):
    assert span(seconds) == text


def test_returns_tell_how_fast_and_how_many_after_a_message():
    returns = Returns(days=30, reconnected=8, after_a_message=6, median_seconds=7_500, median_seconds_after_message=300)
    assert came_back(returns) == (
        "In the last 30 days 8 came back, half of them within 2 h 5 min of being found broken; "
        "6 (75 %) after a message, half of them within 5 min of it."
    )


def test_nobody_came_back():
    returns = Returns(days=30, reconnected=0, after_a_message=0, median_seconds=None, median_seconds_after_message=None)
    assert came_back(returns) == "Nobody came back in the last 30 days."
