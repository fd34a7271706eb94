"""Importing how long consents last, and what `status` and `explain` show of the dates reckoned from it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from worker.cli import app
from worker.cli.explain import explanation
from worker.cli.status import overview
from worker.intake import Problem, Row, is_of_institutions, read_institutions
from worker.stages.sweep import sweep
from worker.store.institutions import InstitutionStore

CSV = "institution_code;consent_days;note\nalder;365;x\nbirch;;y\ncedar;0;z\n;90;\nfir;ninety;\ngum;90\nalder;180;\n"
LINES = [
    {"institution_code": "alder", "consent_days": 365},
    {"institution_code": "birch", "consent_days": None},
    {"institution_code": "cedar", "consent_days": 4000},
    {"institution_code": "dogwood", "consent_days": True},
    {"institution_code": "elm", "consent_days": "90", "x": 1},
    {"consent_days": 90},
]


def _read(path: Path) -> tuple[dict[str, Any], dict[int, str]]:
    rows, problems = {}, {}
    for item in read_institutions(path):
        if isinstance(item, Row):
            rows[item.values["institution_code"]] = item.values["consent_days"]
        elif isinstance(item, Problem):
            problems[item.line] = item.text
    return rows, problems


def test_bad_rows_are_named_by_line_and_the_others_taken(tmp_path: Path) -> None:
    file = tmp_path / "institutions.csv"
    file.write_text(CSV)
    rows, problems = _read(file)
    assert rows == {"alder": 180, "birch": None}
    assert problems == {
        4: "consent_days '0' is no number of days from 1 to 3650",
        5: "institution_code is missing",
        6: "consent_days 'ninety' is no number of days from 1 to 3650",
        7: "has 2 cells where the header has 3",
    }
    file = tmp_path / "institutions.jsonl"
    file.write_text("\n".join(map(json.dumps, LINES)) + "\nnonsense\n")
    rows, problems = _read(file)
    assert rows == {"alder": 365, "birch": None, "elm": 90}
    assert sorted(problems) == [3, 4, 6, 7]


def test_a_file_of_institutions_is_told_from_one_of_members(tmp_path: Path) -> None:
    for name, text, expected in [
        ("a.csv", "institution_code,consent_days\n", True),
        ("b.csv", "user_guid,member_guid,institution_code\n", False),
        ("c.jsonl", '{"institution_code": "alder", "consent_days": 90}\n', True),
        ("d.json", '[{"user_guid": "USR-1", "member_guid": "MBR-1"}]', False),
        ("e.csv", "", False),
    ]:
        (tmp_path / name).write_text(text)
        assert is_of_institutions(tmp_path / name) is expected, name


@pytest.mark.parametrize("command", ["institutions", "import"])
def test_both_commands_take_the_file(
    command: str, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, settings_for: Any
) -> None:
    settings = settings_for(database_url=database_url)
    monkeypatch.chdir(tmp_path)
    for name in ("mx_api_key", "mx_client_id", "database_url"):
        monkeypatch.setenv(name.upper(), getattr(settings, name).get_secret_value())
    monkeypatch.setenv("URI_KEYS", settings.uri_keys[0].get_secret_value())
    file = tmp_path / "institutions.csv"
    file.write_text(CSV)
    for option, says in (
        (["--dry-run"], {"imported": 0, "refused": 4, "would_import": 3}),
        ([], {"imported": 3, "refused": 4}),
    ):
        result = CliRunner().invoke(app, [command, str(file), "--json", *option])
        assert result.exit_code == 1, result.output
        assert json.loads(result.stdout) == says
    file.write_text("institution_code,days\nalder,90\n")
    result = CliRunner().invoke(app, ["institutions", str(file)])
    assert result.exit_code != 0


async def test_status_shows_the_coming_weeks_by_institution_and_explain_whose_date_it_is(bench_for: Any) -> None:
    bench = await bench_for()
    for name in ("a", "b", "c"):
        await bench.member(name, connection_status="CONNECTED", institution_code="birch" if name == "c" else "alder")
    await InstitutionStore(bench.runtime.database).upsert([("alder", 10), ("birch", 25), ("elm", None)])
    await sweep(bench.runtime)
    own = bench.runtime.clock.now().replace(year=2027)
    await bench.sql("UPDATE members SET token_expires_at = :own WHERE member_guid = 'MBR-b'", own=bench.moment(own))
    now = (found := await overview(bench.runtime))["at"]
    weeks = [
        (w["institution_code"], (w["begins_at"] - now).days, w["members"], w["reckoned"]) for w in found["expiring"]
    ]
    assert weeks == [("alder", 7, 1, 1), ("birch", 21, 1, 1)]
    assert "reckoned from institutions.consent_days" in (await explanation(bench.runtime, "MBR-a"))["expiry"]
    assert (await explanation(bench.runtime, "MBR-b"))["expiry"].endswith("as your application wrote it")
