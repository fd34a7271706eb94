"""The rows that an import accepts, and the problems that it reports by line. No problem repeats an address."""

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.errors import UsageError
from worker.intake import COLUMNS, Note, Problem, Row, read
from worker.settings import CONNECTION_STATUSES

CSV, JSONL = "members.csv", "members.jsonl"
GOOD = {"user_guid": "USR-1", "member_guid": "MBR-1"}
NO_CELLS: tuple[object, ...] = ([], ["USR-1"], {"a": 1})
NEEDLE = "\u00f6rjan.\u00e5kesson"

Items = list[Row | Problem]
Import = Callable[..., Items]


@pytest.fixture
def items(tmp_path: Path) -> Import:
    """The rows and problems of a file with this content."""

    def make(name: str, content: str | bytes) -> Items:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
        return list(read(path))

    return make


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def values(item: Row | Problem) -> dict[str, Any]:
    assert isinstance(item, Row), item
    return dict(item.values)


def problems(found: Iterable[Row | Problem]) -> list[str]:
    return [str(item) for item in found if isinstance(item, Problem)]


def test_a_csv_row_with_every_column_is_read(items: Import) -> None:
    found = items(
        CSV,
        ",".join(COLUMNS) + "\r\n"
        'USR-1,MBR-1,alder,"Alder, Ash & Co",denied,true,2004,2026-11-01T09:30:00Z,2026-11-02T00:00:00+02:00,'
        "ana@mail.example,fr-CA,Europe/Madrid,push,fcm,token-1\r\n",
    )
    assert [values(item) for item in found] == [
        {
            "user_guid": "USR-1",
            "member_guid": "MBR-1",
            "institution_code": "alder",
            "institution_name": "Alder, Ash & Co",
            "connection_status": "DENIED",
            "is_oauth": True,
            "error_code": 2004,
            "token_expires_at": datetime(2026, 11, 1, 9, 30, tzinfo=UTC),
            "token_revoked_at": datetime(2026, 11, 1, 22, tzinfo=UTC),
            "email": "ana@mail.example",
            "locale": "fr-CA",
            "timezone": "Europe/Madrid",
            "channel": "push",
            "device_kind": "fcm",
            "device_address": "token-1",
        }
    ]


@pytest.mark.parametrize("name", ["members.jsonl", "members.ndjson", "members.JSON"])
def test_json_lines_are_read_with_the_keys_that_each_line_has(items: Import, name: str) -> None:
    found = items(
        name,
        jsonl(
            GOOD | {"is_oauth": False, "error_code": 2005, "connection_status": 2},
            GOOD | {"institution_name": "Crédit Érable", "email": None},
        ),
    )
    assert [values(item) for item in found] == [
        GOOD | {"is_oauth": False, "error_code": 2005, "connection_status": "DENIED"},
        GOOD | {"institution_name": "Crédit Érable", "email": None},
    ]


@pytest.mark.parametrize("name", [CSV, JSONL])
def test_a_byte_order_mark_is_no_part_of_the_file(items: Import, name: str) -> None:
    text = jsonl(GOOD) if name == JSONL else '"user_guid",member_guid\nUSR-1,MBR-1\n'
    assert [values(item) for item in items(name, b"\xef\xbb\xbf" + text.encode())] == [GOOD]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system_and_blank_ones_count_but_hold_nothing(items: Import, end: str) -> None:
    found = items(CSV, end.join(["user_guid,member_guid", "", "USR-1,MBR-1", "", "USR-2,WRONG", ""]))
    assert [item.line for item in found] == [3, 5]
    assert problems(found) == ["line 5: member_guid 'WRONG' is no member GUID; it starts with MBR-"]


def test_the_header_may_stand_in_any_order_case_and_spacing(items: Import) -> None:
    assert values(items(CSV, " Member_GUID , USER_GUID\n MBR-1 , USR-1 \n")[0]) == GOOD


def test_a_blank_cell_empties_and_a_missing_column_leaves_alone(items: Import) -> None:
    found = items(CSV, "user_guid,member_guid,connection_status,email,token_expires_at\nUSR-1,MBR-1,, ,\n")
    assert values(found[0]) == GOOD | {"connection_status": None, "email": None, "token_expires_at": None}
    assert values(items(JSONL, jsonl(GOOD | {"locale": "  ", "is_oauth": None}))[0]) == GOOD | {
        "locale": None, "is_oauth": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-01T09:30:00", datetime(2026, 11, 1, 9, 30, tzinfo=UTC)),
        ("2026-11-01 09:30", datetime(2026, 11, 1, 9, 30, tzinfo=UTC)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T09:30:00.25Z", datetime(2026, 11, 1, 9, 30, 0, 250_000, tzinfo=UTC)),
        ("2026-11-01T09:30:00+05:45", datetime(2026, 11, 1, 3, 45, tzinfo=UTC)),
    ],
)
def test_a_moment_without_an_offset_is_utc(items: Import, text: str, moment: datetime) -> None:
    found = values(items(JSONL, jsonl(GOOD | {"token_revoked_at": text}))[0])["token_revoked_at"]
    assert found == moment
    assert found.tzinfo is UTC


@pytest.mark.parametrize("number", range(len(CONNECTION_STATUSES)))
def test_a_status_may_be_mx_number_for_it(items: Import, number: int) -> None:
    for found in (
        items(JSONL, jsonl(GOOD | {"connection_status": number})),
        items(CSV, f"user_guid,member_guid,connection_status\nUSR-1,MBR-1,{number}\n"),
    ):
        assert values(found[0])["connection_status"] == CONNECTION_STATUSES[number]


@pytest.mark.parametrize("text", ["EXPIRED", "impaired", "A_STATUS_OF_NEXT_YEAR"])
def test_a_status_that_mx_adds_later_is_taken(items: Import, text: str) -> None:
    assert values(items(JSONL, jsonl(GOOD | {"connection_status": text}))[0])["connection_status"] == text.upper()


@pytest.mark.parametrize(
    ("word", "truth"), [("TRUE", True), ("yes", True), ("1", True), (1, True), ("f", False), ("No", False), (0, False)]
)
def test_truth_has_many_names(items: Import, word: object, truth: bool) -> None:
    assert values(items(JSONL, jsonl(GOOD | {"is_oauth": word}))[0])["is_oauth"] is truth


@pytest.mark.parametrize(
    ("column", "cell", "says"),
    [
        ("user_guid", "MBR-1", "user_guid 'MBR-1' is no user GUID; it starts with USR-"),
        ("user_guid", "", "user_guid is missing"),
        ("user_guid", "USR-" + "x" * 200, "user_guid a text of 204 characters is no user GUID"),
        ("member_guid", "USR-1", "member_guid 'USR-1' is no member GUID; it starts with MBR-"),
        ("member_guid", "MBR-../1", "member_guid 'MBR-../1' is no member GUID"),
        ("member_guid", 7, "member_guid '7' is no member GUID"),
        # Personal data that ends up in this column if columns are shifted or a line is cut off.
        *(
            ("member_guid", left, f"member_guid a text of {len(left)} characters is no member GUID")
            for left in (
                "ana.perez",
                "ana2.perez",
                "ana_perez",
                "ana-perez",
                "ana+tag",
                "Ana Perez",
                "12 Main Street",
                "+34 600 123 456",
                "34600123456",
                "4111 1111 1111 1111",
                "1980-05-05",
                "0123456789abcdef0123456789abcdef01234567",
            )
        ),
        ("institution_code", 17, "institution_code must be text"),
        ("institution_code", "x" * 129, "institution_code is longer than 128 characters"),
        ("institution_name", "Alder\u0000", "institution_name holds a control character"),
        ("institution_name", "Al\x07der", "institution_name holds a control character"),
        *(
            ("institution_name", nothing, "institution_name ")
            for nothing in ("NULL", "\\N", "nan", "None", "N/A", "<NA>")
        ),
        (
            "connection_status",
            "null",
            "connection_status 'null' is what a program writes for a missing value; leave the cell empty",
        ),
        ("locale", "nan", "locale 'nan' is what a program writes for a missing value"),
        ("device_address", "undefined", "device_address 'undefined' is what a program writes for a missing value"),
        ("institution_name", "Al\u001b[31mder", "institution_name holds a control character"),
        ("institution_name", "Alder\ud800", "institution_name holds a control character"),
        ("institution_name", "x" * 201, "institution_name is longer than 200 characters"),
        ("connection_status", 22, "connection_status '22' is no status such as DENIED"),
        ("connection_status", -1, "connection_status '-1' is no status"),
        ("connection_status", True, "connection_status 'True' is no status"),
        ("connection_status", "9" * 5000, "connection_status a text of 5000 characters is no status"),
        ("connection_status", "NOT GOOD", "connection_status a text of 8 characters is no status"),
        ("is_oauth", "perhaps", "is_oauth 'perhaps' is neither true nor false"),
        ("is_oauth", 2, "is_oauth '2' is neither true nor false"),
        ("error_code", "E2004", "error_code 'E2004' is no error code such as 2004"),
        ("error_code", -1, "error_code '-1' is no error code"),
        ("error_code", 20.5, "error_code '20.5' is no error code"),
        ("error_code", False, "error_code 'False' is no error code"),
        ("error_code", "9" * 10, "error_code a text of 10 characters is no error code"),
        # It may be a birth date, so it is not repeated.
        ("token_expires_at", "1989-12-31", "token_expires_at a text of 10 characters is no moment such as"),
        ("token_expires_at", "tomorrow", "token_expires_at 'tomorrow' is no moment such as 2026-11-01T09:30:00Z"),
        ("token_expires_at", "2026-02-30", "token_expires_at '2026-02-30' is no moment"),
        *(
            (
                "token_expires_at",
                odd,
                f"token_expires_at {odd!r} is no moment such as 2026-11-01T09:30:00Z, from 1990 on",
            )
            for odd in (
                "1795010112345",
                "0000-00-00",
                "0000-00-00 00:00:00",
                "1970-01-01T00:00:00Z",
                "1793000000",
                "0",
            )
        ),
        *(
            (
                "token_expires_at",
                odd,
                f"token_expires_at {odd!r} is no moment before 2200; leave the cell empty for never",
            )
            for odd in ("2200-01-01", "9999-12-31T23:59:59Z", "infinity")
        ),
        ("token_expires_at", 1_793_000_000, "token_expires_at '1793000000' is no moment"),
        ("token_revoked_at", "0001-01-01T00:00+14:00", "token_revoked_at '0001-01-01T00:00+14:00' is no moment"),
        ("email", "not an address", "email is no e-mail address"),
        ("email", "a@b.example, c@d.example", "email is no e-mail address"),
        ("email", "a@b.example\nBcc: c@d.example", "email is no e-mail address"),
        ("email", 5, "email is no e-mail address"),
        ("email", "a" * 250 + "@b.example", "email is no e-mail address"),
        *(
            ("email", odd, "email is no e-mail address")
            for odd in ("a..b@c.example", "a@-b.example", "a@b.example.", "a b@c.example")
        ),
        ("locale", "français", "locale a text of 8 characters is no locale such as fr-CA"),
        ("timezone", "Mars/Olympus", "timezone 'Mars/Olympus' is no time zone such as Europe/Madrid"),
        ("timezone", "../etc/passwd", "timezone a text of 13 characters is no time zone"),
        ("channel", "pigeon", "channel 'pigeon' is none of email, push, fcm, apns, webpush, messenger, none"),
        ("device_kind", "fcm", "device_kind and device_address go together"),
        ("device_kind", "pager", "device_kind is none of fcm, apns, webpush"),
        ("device_address", "token", "device_kind and device_address go together"),
        *((column, cell, f"{column} must be one value") for column in COLUMNS for cell in NO_CELLS),
    ],
)
def test_a_bad_cell_is_named_with_its_line_and_the_rest_is_read_on(
    items: Import, column: str, cell: object, says: str
) -> None:
    found = items(JSONL, jsonl(GOOD, GOOD | {column: cell}, GOOD))
    assert [type(item) for item in found] == [Row, Problem, Row]
    assert str(found[1]).startswith(f"line 2: {says}")
    assert str(found[1]).isprintable()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("USR-2", "has 1 cells where the header has 3"),
        ("USR-2,MBR-2,a@b.example,more", "has 4 cells where the header has 3"),
        (" ", "has 1 cells where the header has 3"),
        (",,", "user_guid is missing"),
        ("USR-2,MBR-2,o'neil", "email is no e-mail address"),
        ('USR-2,MBR-2,"a@b.example', "is no CSV: "),
        ('USR-2,"MBR-2"x,a@b.example', "is no CSV: "),
        ('USR-2,MBR-2,"' + "x" * 140_000 + '"', "is no CSV: "),
        ("USR-2,MBR-2,a\x00@b.example", "email is no e-mail address"),
    ],
)
def test_a_bad_line_of_csv_is_named_and_spoils_no_other(items: Import, line: str, says: str) -> None:
    found = items(CSV, f"user_guid,member_guid,email\nUSR-1,MBR-1,\n{line}\nUSR-3,MBR-3,c@d.example\n")
    assert [type(item) for item in found] == [Row, Problem, Row]
    assert str(found[1]).startswith(f"line 3: {says}")
    assert values(found[2]) == {"user_guid": "USR-3", "member_guid": "MBR-3", "email": "c@d.example"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "is no JSON"),
        ('{"user_guid": "USR-1",}', "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('{"error_code": ' + "9" * 5_000 + "}", "is no JSON"),
        ('["USR-1", "MBR-1"]', "is no JSON object"),
        ("null", "is no JSON object"),
        ("{}", "user_guid is missing"),
        ("caf\udce9", "holds bytes that are not UTF-8"),
    ],
)
def test_a_bad_line_of_json_is_named_and_spoils_no_other(items: Import, line: str, says: str) -> None:
    found = items(JSONL, jsonl(GOOD) + line + "\n\n" + jsonl(GOOD))
    assert [type(item) for item in found] == [Row, Problem, Row]
    assert [item.line for item in found] == [1, 2, 4]
    assert str(found[1]) == f"line 2: {says}"


def test_a_space_that_does_not_break_is_a_space_and_no_control_character(items: Import) -> None:
    found = items(JSONL, jsonl(GOOD | {"institution_name": "Cr\u00e9dit\u00a0\u00c9rable"}))
    assert values(found[0])["institution_name"] == "Cr\u00e9dit\u00a0\u00c9rable"


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("", "the header lacks user_guid and member_guid"),
        ("user_guid,email", "the header lacks member_guid; columns are user_guid, member_guid"),
        ("user_guid;email", "the header lacks member_guid; columns are user_guid, member_guid"),
        ("user_guid,member_guid,caf\udce9", "the header holds bytes that are not UTF-8"),
        ("user_guid,member_guid,user_guid", "a column stands twice in the header"),
        ('user_guid,"member_guid', "the header is no CSV"),
    ],
)
def test_a_bad_header_refuses_the_file(items: Import, header: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        items(CSV, header + "\nUSR-1,MBR-1\n")
    assert str(caught.value).startswith(f"import: line 1: {says}")
    assert str(caught.value).isprintable()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", [CSV, JSONL])
def test_what_is_no_text_or_not_there_at_all_is_told_in_one_line(items: Import, name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"import: {name}: it is UTF-16, not UTF-8 text; save it as UTF-8"):
        items(name, "user_guid,member_guid\n".encode("utf-16"))
    with pytest.raises(UsageError, match=r"import: nowhere.csv: No such file or directory"):
        list(read(tmp_path / "nowhere.csv"))
    with pytest.raises(UsageError, match="Is a directory"):
        list(read(tmp_path))


def test_an_empty_json_file_holds_no_rows(items: Import) -> None:
    assert items(JSONL, "") == []


def test_a_row_keeps_its_values_to_itself(items: Import) -> None:
    assert "mail.example" not in repr(items(JSONL, jsonl(GOOD | {"email": "ana@mail.example"}))[0])


cells = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50) | st.lists(st.text(), max_size=2)
addresses = st.builds(
    "{}{}{}@mail.{}".format,
    st.text(max_size=30),
    st.just(NEEDLE),
    st.text(max_size=30),
    st.sampled_from(["example", ""]),
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    row=st.dictionaries(st.sampled_from(COLUMNS), cells | addresses, max_size=6),
    slipped=st.dictionaries(st.sampled_from(COLUMNS) | addresses, addresses, min_size=1, max_size=3),
)
def test_no_problem_ever_repeats_an_address_wherever_it_stands(
    items: Import, row: dict[str, object], slipped: dict[str, str]
) -> None:
    for found in (
        items(JSONL, jsonl(row | slipped, GOOD | slipped)),
        items(CSV, "user_guid,member_guid,email\n" + "".join(f"USR-1,{cell},{cell}\n" for cell in slipped.values())),
    ):
        for text in problems(found):
            assert "@" not in text
            assert NEEDLE not in text
            assert text.isprintable()


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=80) | st.text(max_size=80).map(str.encode), header=st.booleans())
@pytest.mark.parametrize("name", [CSV, JSONL])
def test_no_file_at_all_is_more_than_it_can_take(items: Import, name: str, content: bytes, header: bool) -> None:
    refused = False
    try:
        found = items(name, (b"user_guid,member_guid,email\n" if header and name == CSV else b"") + content)
    except UsageError:
        refused = True
    assert refused or all(isinstance(item, Row | Problem | Note) for item in found)


QUOTED = "user_guid,member_guid,institution_name,email\n"


def lines_of(found: list[Any]) -> list[tuple[int, str]]:
    return [(item.line, item.values["member_guid"] if isinstance(item, Row) else "bad") for item in found]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_quoted_cell_may_go_on_over_the_end_of_its_line(items: Import, end: str) -> None:
    text = QUOTED + 'USR-1,MBR-1,"Alder\n  & Sons, \n\n ""Ash""",a@b.example\nUSR-2,MBR-2,Oak,\n'
    found = items(CSV, text.replace("\n", end))
    assert lines_of(found) == [(2, "MBR-1"), (6, "MBR-2")]
    assert values(found[0])["institution_name"] == 'Alder & Sons, "Ash"'


@pytest.mark.parametrize(
    "bad",
    ['USR-2,MBR-2,"Alder,b@c.example', 'USR-2,MBR-2,Alder,"b@c.example', '"USR-2,MBR-2,Alder,b@c.example', 'USR-2,MBR-2,"Al"der,x', "USR-2,MBR-2,caf\udce9,"],
)  # fmt: skip
@pytest.mark.parametrize("after", [0, 1, 3, 250])
def test_what_is_wrong_with_a_row_costs_that_row_wherever_it_stands(items: Import, bad: str, after: int) -> None:
    good = [f'USR-1,MBR-{n},"Oak ""{n}""",a@b.example' for n in range(after)]
    for before in (0, 2):
        lead = [f"USR-1,MBR-x{n},Oak," for n in range(before)]
        found = items(CSV, QUOTED + "\n".join([*lead, bad, *good, ""]))
        assert [name for _, name in lines_of(found)] == [
            *(f"MBR-x{n}" for n in range(before)),
            "bad",
            *(f"MBR-{n}" for n in range(after)),
        ]
        assert found[before].line == before + 2


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_other_separators_are_taken_and_said(items: Import, separator: str, name: str) -> None:
    found = items(
        CSV, QUOTED.replace(",", separator) + separator.join(["USR-1", "MBR-1", '"Alder, Oak; Ash"', "a@b.example"])
    )
    assert str(found[0]) == f"its cells are separated by {name}"
    assert values(found[1])["institution_name"] == "Alder, Oak; Ash"


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ("colour", "column 3 'colour' is none of ours and is skipped"),
        ("emial", "column 3 'emial' is none of ours and is skipped; is email meant?"),
        ("conection_status", "column 3 'conection_status' is none of ours and is skipped; is connection_status meant?"),
        ("", "column 3, which has no name, is none of ours and is skipped"),
        ("ana@mail.example", "column 3 a text of 16 characters is none of ours and is skipped"),
    ],
)
def test_a_column_that_is_not_ours_is_named_and_skipped(items: Import, column: str, says: str) -> None:
    found = items(CSV, f"user_guid,member_guid,{column},email\nUSR-1,MBR-1,nan,a@b.example\n")
    assert [str(item) for item in found if isinstance(item, Note)] == [says]
    assert values(found[1]) == {"user_guid": "USR-1", "member_guid": "MBR-1", "email": "a@b.example"}
    found = items(JSONL, jsonl(GOOD | {column: "x"}, GOOD | {column: "y"}))
    assert [str(item) for item in found if isinstance(item, Note)] == [says.replace("column 3", "key")]
    assert sum(isinstance(item, Row) for item in found) == 2


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", [JSONL, "members.json", "members.txt"])
def test_an_array_of_objects_is_read_by_its_objects(items: Import, indent: int | None, name: str) -> None:
    rows = [{"user_guid": "USR-1", "member_guid": f"MBR-{n}", "institution_name": "a ] } [ {"} for n in range(5)]
    found = items(name, json.dumps(rows, indent=indent))
    assert [values(item)["member_guid"] for item in found] == [f"MBR-{n}" for n in range(5)]
    assert [item.line for item in found] == ([1] * 5 if indent is None else [2, 7, 12, 17, 22])


@pytest.mark.parametrize(
    "bad",
    ['{"user_guid": "USR-1",}', '{"user_guid" "USR-1"}', '{"user_guid": "USR-\n1"}', "12", '"x"', '{"email": nope}', '{"institution_name": "caf\udce9"}', "[1, 2]"],
)  # fmt: skip
def test_a_bad_object_of_an_array_costs_itself(items: Import, bad: str) -> None:
    good = [json.dumps({"user_guid": "USR-1", "member_guid": f"MBR-{n}"}) for n in range(4)]
    found = items("members.json", "[\n" + ",\n".join([*good[:2], bad, *good[2:]]) + "\n]\n")
    assert [values(item)["member_guid"] for item in found if isinstance(item, Row)] == [
        "MBR-0",
        "MBR-1",
        "MBR-2",
        "MBR-3",
    ]
    assert {item.line for item in found if isinstance(item, Problem)} == {4}
    assert [item.line for item in found if isinstance(item, Row)][:2] == [2, 3]


@pytest.mark.parametrize(
    ("text", "rows", "says"),
    [
        ("[{0},\n{1}", 2, "line 2: the array is not closed"),
        ("[\n{0},\n{1},\n", 2, "line 4: the array is not closed"),
        ('[\n{0},\n{{"user_guid": "US', 1, "line 3: the array is not closed"),
        ("[", 0, "line 1: the array is not closed"),
        ("[{0}]\n[{1}]\n", 1, "line 2: stands after the end of the array"),
        ("[{0}]\n{1}\n", 1, "line 2: stands after the end of the array"),
        ("[{0}] ] ", 1, "line 1: stands after the end of the array"),
    ],
)
def test_an_array_that_is_cut_off_or_goes_on_is_not_taken_for_a_whole_one(
    items: Import, text: str, rows: int, says: str
) -> None:
    given = [json.dumps({"user_guid": "USR-1", "member_guid": f"MBR-{n}"}) for n in range(2)]
    found = items("members.json", text.format(*given))
    assert sum(isinstance(item, Row) for item in found) == rows
    assert str(found[-1]).startswith(says)


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        (JSONL, '{"user_guid": "USR-1", "member_guid": "MBR-0"}\n{"user_guid": "USR-1", "mem'),
        ("members.json", '{\n"user_guid": "USR-1",\n"member_guid": "MBR-0"\n}\n{\n"user_guid": "USR-1",\n"mem'),
        (CSV, 'user_guid,member_guid,institution_name\nUSR-1,MBR-0,Harbor\nUSR-1,MBR-1,"Har'),
        (CSV, "user_guid,member_guid,institution_name\nUSR-1,MBR-0,Harbor\nUSR-1,MB"),
    ],
)
def test_a_last_row_that_is_cut_off_is_reported(items: Import, name: str, cut: str) -> None:
    found = items(name, cut)
    assert [type(item) for item in found] == [Row, Problem]


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            ["[", "]", "{", "}", ",", '"', "\n", " ", "1", ":", '{"user_guid": "USR-1", "member_guid": "MBR-1"}']
        ),
        max_size=12,
    )
)
def test_no_array_is_more_than_it_can_take(items: Import, pieces: list[str]) -> None:
    assert all(isinstance(item, Row | Problem) for item in items("members.json", "[" + "".join(pieces)))


@pytest.mark.parametrize(
    ("column", "cell", "stored"),
    [
        ("timezone", "Eastern Standard Time", "America/New_York"), ("timezone", "europe/madrid", "Europe/Madrid"), ("channel", "None", "none"),
        ("channel", "Mail", "email"), ("connection_status", " denied ", "DENIED"), ("connection_status", "2.0", "DENIED"),
        ("email", "a@localhost", "a@localhost"), ("is_oauth", "on", True), ("institution_name", "Nullsoft", "Nullsoft"),
    ],
)  # fmt: skip
def test_what_is_plain_is_taken_as_the_tables_take_it(items: Import, column: str, cell: str, stored: object) -> None:
    assert values(items(JSONL, jsonl(GOOD | {column: cell}))[0])[column] == stored
