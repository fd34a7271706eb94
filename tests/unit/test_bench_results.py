"""Results of `make bench` and `make bench-full` are stored, and read again for the page that both share."""

from pathlib import Path

import pytest

from ops.bench import results
from ops.bench.plotting import Curve
from ops.bench.results import Results, row_of


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(results, "RESULTS", tmp_path / "RESULTS.md")
    return tmp_path / "RESULTS.md"


def test_the_page_shows_what_was_measured_last_in_each_form(page: Path) -> None:
    for form, seconds in (("bench", 0.4), ("bench-full", 0.2), ("bench", 0.3)):
        found = Results(form=form, rounds=3, machine={"machine": "2 cores"}, seconds=120)
        found.rows.append(row_of("a sweep", [seconds, seconds, 9.0], unit="s", at_most=0.25, detail="nothing due"))
        found.curves.append(Curve(name="sweeps", title="Sweeps", x="members", y="s", lines={"all": [(1, 1), (2, 2)]}))
        found.draw()
        found.write()
    text = page.read_text()
    assert "| a sweep | 0.30 s | ≤ 0.25 | **no** | 0.30 to 9.00 (3) | nothing due |" in text
    assert "| a sweep | 0.20 s | ≤ 0.25 | yes | 0.20 to 9.00 (3) | nothing due |" in text
    assert "0.40 s" not in text
    assert "- 3 rounds, 2 minutes in all" in text
    assert (page.parent / "kept" / "sweeps.svg").exists()


def test_parts_of_the_full_form_stand_beside_one_another_until_all_of_it_is_run(page: Path) -> None:
    def run(form: str, what: str, *only: str) -> None:
        found = Results(form=form, rounds=3, machine={}, only=only)
        found.rows.append(row_of(what, [1.0]))
        found.write()

    run("bench-full", "of tables", "tables", "memory")
    run("bench-full", "of sweeps", "standing")
    run("bench", "the short form")
    text = page.read_text()
    assert all(what in text for what in ("of tables", "of sweeps", "the short form"))
    run("bench-full", "all of it")
    text = page.read_text()
    assert "all of it" in text
    assert "the short form" in text
    assert "of tables" not in text
    assert "of sweeps" not in text
