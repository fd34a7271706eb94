"""Importing users and members by the client's own ids, which MX's Platform allows."""

import json
from pathlib import Path

import pytest

from worker.intake import ColumnBatch, Problem, slices

GOOD = [("u-1", "ours_1"), ("USR-1", "MBR-1"), ("7", "x" * 128)]
BAD = [
    ("u 1", "MBR-1", "user_guid 'u 1' is no user GUID and no id of yours: letters, digits, - and _"),
    ("MBR-1", "MBR-1", "user_guid 'MBR-1' is no user GUID and no id of yours: letters, digits, - and _"),
    ("u-1", "USR-1", "member_guid 'USR-1' is no member GUID and no id of yours: letters, digits, - and _"),
    ("u-1", "a/b", "member_guid 'a/b' is no member GUID and no id of yours: letters, digits, - and _"),
    (
        "u-1",
        "y" * 129,
        "member_guid a text of 129 characters is no member GUID and no id of yours: letters, digits, - and _",
    ),
]


def found(path: Path, *, own_ids: bool = True) -> tuple[list[tuple[str, str]], list[str]]:
    rows, problems = [], []
    for item in slices(path, 100, own_ids=own_ids):
        if isinstance(item, ColumnBatch):
            rows += zip(item.columns["user_guid"], item.columns["member_guid"], strict=True)
        elif isinstance(item, Problem):
            problems.append(item.text)
    return rows, problems


def written(tmp_path: Path, form: str, rows: list[tuple[str, str]]) -> Path:
    path = tmp_path / f"members.{form}"
    lines = [json.dumps({"user_guid": user, "member_guid": member}) for user, member in rows]
    if form == "csv":
        lines = ["user_guid,member_guid", *(f"{user},{member}" for user, member in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_own_ids_are_names_where_the_flavour_allows_them(tmp_path: Path, form: str) -> None:
    path = written(tmp_path, form, GOOD)
    assert found(path) == (GOOD, [])
    rows, problems = found(path, own_ids=False)
    assert (rows, len(problems)) == ([("USR-1", "MBR-1")], 2)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_what_is_no_id_is_refused_by_line_and_the_rest_is_taken(tmp_path: Path, form: str) -> None:
    path = written(tmp_path, form, [*GOOD, *((user, member) for user, member, _ in BAD)])
    assert found(path) == (GOOD, [problem for _, _, problem in BAD])
