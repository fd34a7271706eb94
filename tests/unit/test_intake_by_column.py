"""Reading a file by column gives the same rows and problems as reading it by row."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.intake import COLUMNS, ColumnBatch, Note, Problem, Row, csv_rows, read, slices
from worker.intake.cells import LONGEST

ORDINARY = {
    "user_guid": ["USR-1", "USR-2b_-"],
    "member_guid": ["MBR-1", "MBR-" + "x" * 124],
    "institution_code": ["alder", "", "b\\1"],
    "institution_name": ["Alder & Sons", '"Alder, Ash"', "Nullsoft", "Örjan\u00a0銀行", "N\\N", ""],
    "connection_status": ["DENIED", "connected", "6", ""],
    "is_oauth": ["true", "0", ""],
    "error_code": ["2004", ""],
    "token_expires_at": ["2027-01-01T09:30:00+02:00", "2027-01-01", ""],
    "token_revoked_at": ["2026-11-01T09:30:00Z", ""],
    "email": ["ana@mail.example", "örjan@mail.example", ""],
    "locale": ["fr-CA", ""],
    "timezone": ["Europe/Madrid", ""],
    "channel": ["email", "push", ""],
    "device_kind": ["fcm", ""],
    "device_address": ["token", '"{""a"": 1}"', ""],
}
ODD = [
    " ", '"x\n"', "\u00a0", " x", "x ", "a,b", '"', '"open', '"a"b', '"a\nb"', "\x00", "\x07", "\x1c", "\x85", "\u2028", "a@b.example\x07",
    "a@b.example ", " USR-1", "USR-1 ", "USR-\u00e9", "USR-", "usr-1", "USR-" + "x" * 125, "MBR-1\x7f", "\u0661", "x" * 300,
    "a" * (LONGEST["email"] - 9) + "@b.example", "a@b.example,c@d.example", "\n", "\r", "\r\n", ",", "\\N", "\\.", "x" * 140_000, "\udcff", "caf\udce9", "NULL", "nan", "1795010112345", "9999-12-31", "a..b@c.example",
    "a@-b.example", "a@b_.example", "x" * 65 + "@b.example", "\u00e9" * 33 + "@b.example", "a@localhost", "2026-11-01T09:30:00.1234567Z", '"a\r\n\r\nb"',
]  # fmt: skip


@st.composite
def files(draw: st.DrawFn) -> str:
    """CSV texts with mostly ordinary cells, so that some blocks have no odd cell at all."""
    optional = draw(st.lists(st.sampled_from(COLUMNS[2:]), unique=True, max_size=5))
    header = draw(st.permutations(["user_guid", "member_guid", *optional]))
    lines = [",".join(header)]
    for _ in range(draw(st.integers(0, 9))):
        cells = [draw(st.sampled_from(ORDINARY[name])) for name in header]
        if draw(st.integers(0, 5)) == 0:
            cells[draw(st.integers(0, len(cells) - 1))] = draw(
                st.sampled_from(ODD) | st.text(st.characters(codec="utf-8"), max_size=5)
            )
        if draw(st.integers(0, 20)) == 0:
            cells = draw(st.sampled_from([cells[1:], [*cells, ""], [], [""]]))
        lines.append(",".join(cells))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    separator = draw(st.sampled_from([",", ",", ";", "\t"]))
    lines = [line.replace(",", separator) for line in lines]
    return end.join(lines) + draw(st.sampled_from(["", end, end * 2]))


def by_row(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    found = list(read(path))
    return [dict(i.values) for i in found if isinstance(i, Row)], [str(i) for i in found if not isinstance(i, Row)]


def by_column(path: Path, size: int) -> tuple[list[dict[str, Any]], list[str]]:
    taken: list[dict[str, Any]] = []
    problems = []
    for item in slices(path, size):
        if isinstance(item, Problem | Note):
            problems.append(str(item))
        else:
            assert len(item) > 0
            taken += (dict(zip(item.columns, row, strict=True)) for row in zip(*item.columns.values(), strict=True))
    return taken, problems


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=files(), size=st.integers(1, 5), block=st.integers(1, 4))
def test_by_the_column_a_csv_says_what_it_says_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, size: int, block: int
) -> None:
    path = tmp_path / "members.csv"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with monkeypatch.context() as patch:
        patch.setattr("worker.intake.columns._BLOCK", block)
        assert by_column(path, size) == by_row(path)


@pytest.mark.parametrize("column", COLUMNS)
def test_wherever_something_odd_stands_it_is_judged_as_in_its_row(tmp_path: Path, column: str) -> None:
    path = tmp_path / "members.csv"
    for odd in ODD:
        for quote in ("", '"'):
            header = ["user_guid", "member_guid", *({column} - {"user_guid", "member_guid"})]
            cells = {"user_guid": "USR-1", "member_guid": "MBR-1"} | {column: odd}
            ordinary = ",".join(ORDINARY[name][0] for name in header)
            line = ",".join(cells[name] for name in header)
            text = "\n".join(
                [",".join(header), ordinary, line, quote + ordinary.replace(",", f"{quote},", 1), ordinary, ""]
            )
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
            assert by_column(path, 1_000) == by_row(path), odd[:50]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_ordinary_file_is_not_read_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    lines = [",".join(COLUMNS)]
    pick = [name for name in COLUMNS if name not in {"device_kind", "device_address"}]
    for at in range(2_500):
        cells = {name: ORDINARY[name][at % len(ORDINARY[name])] for name in pick}
        pair = ("fcm", f"token-{at}") if at % 3 else ("", "")
        lines.append(",".join([*(cells[name] for name in COLUMNS[:-2]), *pair]))
    path = tmp_path / "members.csv"
    path.write_text(end.join([*lines, ""]), encoding="utf-8", newline="")
    expected = by_row(path)
    assert len(expected[0]) == 2_500
    monkeypatch.setattr(csv_rows.CsvRows, "rows", None)
    assert by_column(path, 1_000) == expected


def test_a_bad_line_makes_its_own_block_slow_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "members.csv"
    lines = [f"USR-{at},MBR-{at}" for at in range(3_000)]
    lines[1_500] = "USR-1500,WRONG"
    path.write_text("\n".join(["user_guid,member_guid", *lines]), encoding="utf-8")
    read_by_row: list[int] = []
    one = csv_rows.CsvRows._row

    def row(self: Any, number: int, text: str) -> Any:
        read_by_row.append(number)
        return one(self, number, text)

    monkeypatch.setattr(csv_rows.CsvRows, "_row", row)
    taken, problems = by_column(path, 20_000)
    assert len(taken) == 2_999
    assert problems == ["line 1502: member_guid 'WRONG' is no member GUID; it starts with MBR-"]
    assert read_by_row == list(range(1_002, 2_002))


def test_slices_end_where_columns_change_and_hold_about_as_many_rows_as_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "members.jsonl"
    one, two = '{"user_guid": "USR-1", "member_guid": "MBR-1"}', '{"member_guid": "MBR-1", "user_guid": "USR-1"}'
    three = '{"user_guid": "USR-1", "member_guid": "MBR-1", "email": null}'
    path.write_text(f"{one}\n{two}\nnonsense\n{one}\n{three}\n{one}", encoding="utf-8")
    sizes = [len(item) for item in slices(path, 1_000) if not isinstance(item, Problem)]
    assert sizes == [3, 1, 1]
    path.write_text("\n".join([one] * 5_500), encoding="utf-8")
    assert [len(item) for item in slices(path, 2_000) if isinstance(item, ColumnBatch)] == [2_000, 2_000, 1_500]


def test_a_slice_keeps_its_values_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "members.csv"
    path.write_text("user_guid,member_guid,email\nUSR-1,MBR-1,ana@mail.example\n", encoding="utf-8")
    assert "mail.example" not in repr(list(slices(path, 10)))
