"""Which pages of a list of MX are accepted, and which contradict the pages before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.policy.list_checks import ListLies, Position, shrank


@pytest.mark.parametrize(
    ("before", "now", "is_too_short"),
    [
        (0, 0, False),
        (5, 4, False),
        (5, 3, True),
        (20, 18, False),
        (20, 17, True),
        (100, 90, False),
        (100, 89, True),
        (10, 99, False),
    ],
)
def test_a_tenth_may_be_missing_and_one_of_a_few(before: int, now: int, *, is_too_short: bool) -> None:
    assert shrank(before, now) is is_too_short


def read(rows: int, *, asks: int, serves: int, lowers_after: int = 0) -> tuple[list[int], Position]:
    """Read a list of ``rows`` rows as a client does. After ``lowers_after`` answers MX serves ``serves`` rows a page.

    Returns the rows, with repetitions.
    """
    position, seen, answers = Position(per_page=asks), [], 0
    while not position.ended:
        size = asks if answers < lowers_after else serves
        first = (position.page - 1) * size
        page = list(range(rows))[first : first + size]
        answers += 1
        if position.accepts(current_page=position.page, per_page=size, total=rows, entries=len(page)):
            seen += page
        assert answers < 10 * rows + 10
    return seen, position


@given(
    rows=st.integers(0, 300),
    asks=st.sampled_from([25, 50, 100]),
    serves=st.sampled_from([25, 50, 100]),
    lowers_after=st.integers(0, 4),
)
def test_every_row_is_read_whatever_page_size_mx_lowers_to(
    rows: int, asks: int, serves: int, lowers_after: int
) -> None:
    serves = min(asks, serves)
    seen, position = read(rows, asks=asks, serves=serves, lowers_after=lowers_after)
    assert sorted(set(seen)) == list(range(rows))
    assert position.lowered == (serves < asks and position.per_page == serves)


def test_a_page_size_that_is_lowered_midway_goes_on_from_the_same_entry() -> None:
    position = Position(per_page=1000)
    assert position.accepts(current_page=1, per_page=1000, total=5000, entries=1000)
    assert not position.accepts(current_page=2, per_page=25, total=5000, entries=25)
    assert position.page == 41


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"current_page": 3, "per_page": 100, "total": 500, "entries": 100}, "page 3 came when page 2 was asked for"),
        ({"current_page": 2, "per_page": 0, "total": 500, "entries": 0}, "a page of 0 entries"),
        ({"current_page": 2, "per_page": 100, "total": 500, "entries": 101}, "holds 101"),
        ({"current_page": 2, "per_page": 100, "total": 440, "entries": 100}, "shorter by more than a tenth"),
    ],
)
def test_what_contradicts_itself_is_a_lie(answer: dict[str, int], says: str) -> None:
    position = Position(per_page=100)
    assert position.accepts(current_page=1, per_page=100, total=500, entries=100)
    with pytest.raises(ListLies, match=says):
        position.accepts(**answer)


def test_a_list_that_becomes_a_little_shorter_ends_where_it_ends() -> None:
    position = Position(per_page=100)
    assert position.accepts(current_page=1, per_page=100, total=201, entries=100)
    assert position.accepts(current_page=2, per_page=100, total=199, entries=99)
    assert position.ended
