"""The results of the demonstration, kind by kind, beside what was expected."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from worker.sandbox.customers import Saw
from worker.sandbox.demo.forty_days import Received, Results
from worker.sandbox.scenario import KINDS, DemoMember, Kind


def kinds_of(results: Results) -> list[dict[str, Any]]:
    """One row for each kind: expectation and result."""
    return [_row(results, kind, [p for p in results.demo_members if p.kind is kind]) for kind in KINDS]


def _row(results: Results, kind: Kind, those: list[DemoMember]) -> dict[str, Any]:
    at_first = Counter(results.at_first.get(p.member_guid) for p in those)
    ended = Counter(results.ended.get(p.member_guid) for p in those)
    received = [results.received.get(guid, Received()) for guid in dict.fromkeys(p.user_guid for p in those)]
    wrong = {
        p.member_guid
        for p in those
        if results.at_first.get(p.member_guid) != kind.at_first
        or results.ended.get(p.member_guid) != kind.ends
        or p.user_guid in results.miscounted
    }
    return {
        "kind": kind.name,
        "members": len(those),
        "users": len(received),
        "first_day": _by_name(at_first),
        "must_end": _name(kind.ends),
        "did": _by_name(ended),
        "must_get": {"mails": kind.messages * (kind.by == "mail"), "pushes": kind.messages * (kind.by == "push")},
        "mails_a_user": sorted({t.mails for t in received}),
        "pushes_a_user": sorted({t.pushes for t in received}),
        "wrong": len(wrong),
    }


def reach_of(results: Results) -> dict[str, Any]:
    """Where clicks led, for ``--json``."""
    reach, tried_again = results.reach, results.mx_down
    return {
        "reach": {"clicks": reach.clicks, "reached": reach.reached, "rows": reach.rows()},
        "mx_down": [{"saw": first, "then": then, "customers": count} for (first, then), count in tried_again.items()],
        "scans": results.scans,
    }


def reach_lines(results: Results) -> list[str]:
    """The lines that follow the table of first clicks."""
    press, down = results.scans["press"], results.mx_down
    asked = sum(count for (first, _), count in down.items() if first == Saw.TRY_AGAIN)
    reached = sum(count for (_, then), count in down.items() if then == Saw.CONSENT)
    return [
        f"Bots pressed {press['presses']} buttons, and used up {press['consent_pages']} links of MX by it.",
        f"MX was down when {down.total()} others clicked: {asked} were asked to try again, and {reached} did so with success.",
    ]


def summary_table(rows: Iterable[dict[str, Any]]) -> Table:
    """The rows as a table of eighty columns; a kind with a wrong result is red."""
    table = Table(
        title="What became of whom in forty days",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("kind")
    for name in ("first day", "must end", "did", "got"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        colour = "red" if row["wrong"] else "green"
        did = ", ".join(f"{count} {state}" for state, count in row["did"].items())
        table.add_row(row["kind"], ", ".join(row["first_day"]), row["must_end"], Text(did, style=colour), _got(row))
    return table


def _got(row: dict[str, Any]) -> str:
    """The messages of each user: one number if all got the same."""
    words = []
    for one, many in (("mail", "mails"), ("push", "pushes")):
        figures = row[f"{many}_a_user"]
        if any(figures):
            words.append(f"{'/'.join(map(str, figures))} {one if figures == [1] else many}")
    return ", ".join(words) or "nothing"


def _name(state: str | None) -> str:
    return state or "left alone"


def _by_name(states: Counter[str | None]) -> dict[str, int]:
    return {_name(state): count for state, count in states.most_common()}
