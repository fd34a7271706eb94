"""The texts that are read as moments."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.policy.moments import FAR, FIRST, NEVER, read_moment


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-01T09:30:00Z", "2026-11-01 09:30", "2026-11-01 09:30:00.000000", "2026-11-01t09:30z", "20261101T093000Z",
        "2026-11-01T10:30:00+01:00", "2026-11-01 10:30:00+01", "2026-11-01T10:30:00+0100", "2026-11-01 04:30:00 -0500",
        "2026-11-01 09:30:00 UTC", " 2026-11-01T09:30:00,000\n", "2026-11-01T09:30:00.0000000001+00", "20261101 0930",
        "2026-11-01 09:30:00+00:00", "2026-11-01 09:30:00.0+0000", "\u00a02026-11-01 09:30",
    ],
)  # fmt: skip
def test_a_moment_is_read_in_every_form_that_people_write(text: str) -> None:
    assert read_moment(text) == datetime(2026, 11, 1, 9, 30, tzinfo=UTC)


def test_a_date_alone_is_its_beginning() -> None:
    assert read_moment("2026-11-01") == read_moment("20261101") == datetime(2026, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "infinity",
        "Infinity",
        "9999-12-31",
        "9999-12-31T23:59:59-05:00",
        "2200-01-01",
        "10000-01-01",
        "294276-12-31 23:59:59",
        "2199-12-31T23:30-01:00",
    ],
)
def test_what_lies_beyond_2199_is_never(text: str) -> None:
    assert read_moment(text) == NEVER


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-infinity", "now", "12:00", "2460000.5", "1793525400", "1795010112345", "1793521231", "0000-00-00",
        "0000-00-00 00:00:00", "0001-01-01T00:00:00+01:00", "1970-01-01T00:00:00Z", "1795-01-01", "1990-01-01T00:30:00+01:00",
        "2026-09-31", "2026-13-01", "2026-02-29", "2026-11-01T24:00:00", "2026-11-01T09:60", "2026-11-01T09:30:60",
        "2026-11-01T09:30:00+24:00", "2026-11-01T09:30:00+01:60", "2026-11-01T09", "2026-W44-7", "2026-W44-7 09:30:00.000000",
        "2026-11-01x09:30:00", "2026-11-01T09:30:00 CET", "01.11.2026", "11/01/2026", "Nov 1, 2026", "2026-11-01T09:30:00Z\x00",
        "\u0662\u0660\u0662\u0666-11-01", "0044-03-15 BC", "2026-11-01T09:30:00." + "0" * 80, "9999-99-99",
    ],
)  # fmt: skip
def test_what_is_no_moment_is_none(text: str) -> None:
    assert read_moment(text) is None


@given(
    st.datetimes(datetime.fromisoformat("1980-01-01"), datetime.fromisoformat("2210-01-01")), st.integers(-23 * 60 - 59, 23 * 60 + 59),
)  # fmt: skip
def test_what_python_writes_is_read_as_it_was_meant(naive: datetime, minutes: int) -> None:
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    expected = NEVER if moment >= FAR else moment if moment >= FIRST else None
    assert read_moment(moment.isoformat()) == expected
    assert read_moment(moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")) == expected


@given(
    st.text()
    | st.text("0123456789-:+.TZ /,WBC", max_size=32)
    | st.from_regex(r"\d{4}-?\d\d-?\d\d[T ]\d\d:?\d\d(:\d\d)?.{0,8}")
)
@example("9999-12-31T23:59:59-23:59")
def test_no_text_is_more_than_a_moment_of_its_range_or_none(text: str) -> None:
    moment = read_moment(text)
    assert moment is None or moment == NEVER or FIRST <= moment < FAR
