"""Files of populations: what a line may hold, and how mistakes are reported."""

import json

import pytest

from worker.errors import UsageError
from worker.sandbox.population import load_population
from worker.sandbox.script import STEPS, Step, parse_step


def write(tmp_path, *lines):
    path = tmp_path / "members.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_a_line_becomes_a_member(tmp_path):
    path = write(
        tmp_path,
        {
            "user_guid": "USR-1",
            "member_guid": "MBR-1",
            "institution_code": "acme",
            "institution_name": "Acme Bank",
            "connection_status": "IMPAIRED",
            "script": ["429:2", "ok"],
        },
        "",
        {"user_guid": "USR-1", "member_guid": "MBR-2"},
    )
    first, second = load_population(path)
    assert first.institution_name == "Acme Bank"
    assert first.script == (Step("429", seconds=2), Step("ok"))
    assert (second.connection_status, second.script) == ("DENIED", (Step("ok"),))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "members.jsonl:2: is not JSON"),
        ("[]", "members.jsonl:2: is not a JSON object"),
        ({"user_guid": "USR-2"}, "members.jsonl:2: member_guid is missing"),
        ({"user_guid": "USR-2", "member_guid": "USR-2"}, "members.jsonl:2: member_guid: expected MBR-"),
        ({"user_guid": "USR-2/..", "member_guid": "MBR-2"}, "members.jsonl:2: user_guid: expected USR-"),
        ({"user_guid": "USR-2", "member_guid": "MBR-1"}, "members.jsonl:2: member_guid is the same as on line 1"),
        ({"user_guid": "USR-2", "member_guid": "MBR-2", "scirpt": ["ok"]}, "'scirpt' is not a known field; known are"),
        ({"user_guid": "USR-2", "member_guid": "MBR-2", "script": "ok"}, "script: expected a list of steps"),
        ({"user_guid": "USR-2", "member_guid": "MBR-2", "script": []}, "script: expected a list of steps"),
        ({"user_guid": "USR-2", "member_guid": "MBR-2", "script": [429]}, "script: expected a list of steps"),
        ({"user_guid": "USR-2", "member_guid": "MBR-2", "script": ["okay"]}, "did you mean ok?"),
        ({"user_guid": "USR-2", "member_guid": "MBR-2", "connection_status": "denied"}, "connection_status: expected"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_line(tmp_path, line, told):
    path = write(tmp_path, {"user_guid": "USR-1", "member_guid": "MBR-1"}, line)
    with pytest.raises(UsageError) as caught:
        load_population(path)
    assert told in str(caught.value)
    assert f"{path}:2: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.jsonl: cannot be read: No such file"):
        load_population(tmp_path / "nowhere.jsonl")


def test_a_file_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"institution_name": "Cr\xe9dit"}\n')
    with pytest.raises(UsageError, match=r"latin\.jsonl: is not UTF-8"):
        load_population(path)


def test_a_population_of_nobody_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no member"):
        load_population(write(tmp_path, "", ""))


@pytest.mark.parametrize(
    "text",
    ["ok", "429", "429:30", "503:5", "slow:0.25", "reset", "hostile:userinfo", "moved:MBR-7c6f361b", "gone", "504"],
)
def test_a_step_reads_back_as_it_was_written(text):
    assert str(parse_step(text)) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("42", "known are ok, "),
        ("slow", "slow needs an argument: expected slow:SECONDS"),
        ("slow:soon", "expected slow:SECONDS"),
        ("429:1.5", "expected 429 or 429:SECONDS"),
        ("429:", "expected 429 or 429:SECONDS"),
        ("moved:USR-1", "expected moved:MBR-"),
        ("moved:MBR-1/status", "expected moved:MBR-"),
        ("hostile:unheard", "known are http, userinfo, backslash"),
        ("ok:1", "expected ok"),
    ],
)
def test_a_step_with_a_typo_says_what_was_expected(text, told):
    with pytest.raises(ValueError) as caught:
        parse_step(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_step_lists_all_that_are_known():
    with pytest.raises(ValueError) as caught:
        parse_step("explode")
    assert all(step in str(caught.value) for step in STEPS)
