"""The results: rows with their required values, curves, the printed table and ``RESULTS.md``."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ops.bench.plotting import Curve

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
KEPT = HERE / "results"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    #: The median.
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    #: Further figures, as text.
    detail: str = ""
    samples: Sequence[float] = ()

    @property
    def wanted(self) -> str:
        """The required value, such as ``≥ 0.9``; empty if there is none."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}" if self.at_most is not None else ""

    @property
    def reached(self) -> bool | None:
        """Whether the required value is reached; ``None`` if there is none."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return self.value <= self.at_most if self.at_most is not None else None

    @property
    def shown(self) -> str:
        """The value with its unit."""
        digits = 0 if abs(self.value) >= 100 else 1 if abs(self.value) >= 10 else 2 if abs(self.value) >= 0.2 else 3
        return f"{self.value:,.{digits}f} {self.unit}".strip()

    @property
    def spread(self) -> str:
        """The lowest and the highest sample, and their number."""
        if len(self.samples) < 2:
            return "one run" if self.samples else ""
        least, most = (Row(what="", value=value).shown for value in (min(self.samples), max(self.samples)))
        return f"{least} to {most} ({len(self.samples)})"


def row_of(what: str, samples: Sequence[float], **more: Any) -> Row:
    """A row for the median of samples."""
    return Row(what=what, value=median(samples), samples=tuple(samples), **more)


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    """The ratio for each round: the two values of a round are compared."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def in_turns(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Run all of them in each round. The order is reversed every other round, so that a drift of the machine affects all equally."""
    found: dict[str, list[Any]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name in runs if turn % 2 == 0 else reversed(list(runs)):
            found[name].append(runs[name]())
    return found


@dataclass(kw_only=True)
class Results:
    """All results of one form of the benchmark."""

    form: str
    rounds: int
    machine: Mapping[str, str]
    #: The measures that were taken, if not all of them.
    only: Sequence[str] = ()
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    def print(self) -> None:
        """Print the table."""
        table = Table("what", "figure", "wanted", "", "least to most", "behind it", title=f"make {self.form}")
        for row in self.rows:
            mark = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[row.reached]
            table.add_row(row.what, row.shown, row.wanted, mark, row.spread, escape(row.detail))
        console = Console(highlight=False, emoji=False)
        if not console.is_terminal:
            console.width = 200
        console.print(table)

    def draw(self) -> None:
        """Draw the curves."""
        KEPT.mkdir(exist_ok=True)
        for curve in self.curves:
            (KEPT / f"{curve.name}.svg").write_text(curve.svg(), encoding="utf-8")

    def write(self) -> None:
        """Store the results, and rewrite ``RESULTS.md`` from the last results of both forms.

        The full form takes long, so its parts may be run one by one. Each part is stored separately until the full form is run as a whole.
        """
        KEPT.mkdir(exist_ok=True)
        if self.form == FULL_FORM and not self.only:
            for part in KEPT.glob(f"{FULL_FORM}-*.json"):
                part.unlink()
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        (KEPT / f"{'-'.join((self.form, *self.only))}.json").write_text(text + "\n", encoding="utf-8")
        parts = [_INTRODUCTION]
        files = (*sorted(KEPT.glob(f"{FULL_FORM}*.json")), KEPT / "bench.json")
        parts += [_section(json.loads(file.read_text(encoding="utf-8"))) for file in files if file.exists()]
        parts.append((HERE / "NOTES.md").read_text(encoding="utf-8"))
        RESULTS.write_text("\n".join(parts), encoding="utf-8")


#: The name of the full form in ``forms.py``.
FULL_FORM = "bench-full"
_INTRODUCTION = """# How fast, how light, against what

Written by `make bench` and `make bench-full`; what is said in words at the end stands in `NOTES.md`. What is compared ran in
turns in one run; a figure is the median, with the least, the most and the number of samples beside it. Durability is on
everywhere: PostgreSQL with every setting as it comes (fsync included), fences, encryption, outbox and late acknowledgements.
"""


def _section(found: Mapping[str, Any]) -> str:
    rows = [Row(**row) for row in found["rows"]]
    only = f' ARGS="--only {" ".join(found["only"])}"' if found.get("only") else ""
    lines = [
        f"## `make {found['form']}{only}`\n",
        *(f"- {name}: {value}" for name, value in found["machine"].items()),
        f"- {found['rounds']} rounds, {found['seconds'] / 60:.0f} minutes in all\n",
        "| what | figure | wanted | reached | least to most (samples) | behind it |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        reached = {True: "yes", False: "**no**", None: ""}[row.reached]
        lines.append(f"| {row.what} | {row.shown} | {row.wanted} | {reached} | {row.spread} | {row.detail} |")
    lines.append("")
    lines += [f"![{curve['title']}](results/{curve['name']}.svg)\n" for curve in found["curves"]]
    return "\n".join(lines)
