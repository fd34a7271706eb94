"""How many clicks reached a live consent page, by the scanner that opened the mail before, and by the time when the customer came."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from worker.sandbox.customers import Saw
from worker.sandbox.scanning import KINDS, ScanKind, ScanRule

#: The scanners that open the demonstration's mails before their recipients. Each kind opens those to a share of the companies' addresses.
SCANNERS: Sequence[ScanRule] = tuple(
    ScanRule(to="*@corp.example", kind=kind, share=share)
    for kind, share in (("get", 0.2), ("head", 0.15), ("browser", 0.2), ("press", 0.2))
)

NOBODY = "nobody"
_BY_SCANNER = {
    "get": "scanner: GET",
    "head": "scanner: HEAD",
    "browser": "scanner: a browser",
    "press": "bot that presses buttons",
    NOBODY: "nobody",
}


@dataclass
class Reach:
    """Counts first clicks: a customer's first press for each bank."""

    #: When customers came, in order.
    moments: Sequence[str]
    _seen: dict[tuple[str, str], Counter[Saw]] = field(default_factory=dict)

    def count(self, scanner: ScanKind | None, moment: str, saw: Saw) -> None:
        """Count where a first click led. ``scanner``: the kind that opened the mail before."""
        self._seen.setdefault((scanner or NOBODY, moment), Counter())[saw] += 1

    @property
    def clicks(self) -> int:
        """All first clicks."""
        return sum(counts.total() for counts in self._seen.values())

    @property
    def reached(self) -> int:
        """Those that reached a live consent page."""
        return sum(counts[Saw.CONSENT] for counts in self._seen.values())

    def rows(self) -> list[dict[str, Any]]:
        """One row for each scanner and moment that occurred."""
        return [
            {
                "scanner": scanner,
                "came": moment,
                "clicks": counts.total(),
                "reached": counts[Saw.CONSENT],
                "saw": {saw.value: count for saw, count in counts.most_common()},
            }
            for scanner in (*KINDS, NOBODY)
            for moment in self.moments
            if (counts := self._seen.get((scanner, moment)))
        ]

    def table(self, title: str = "First clicks that reached a live consent page") -> Table:
        """The same as a table of eighty columns."""
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        table.add_column("opened first by")
        for moment in (*self.moments, "all"):
            table.add_column(moment, justify="right", no_wrap=True)
        for scanner in (*KINDS, NOBODY):
            cells = [self._seen.get((scanner, moment), Counter()) for moment in self.moments]
            if any(cells):
                table.add_row(_BY_SCANNER[scanner], *map(_cell, cells), _cell(sum(cells, Counter())))
        columns = [
            sum((c for (_, came), c in self._seen.items() if came == moment), Counter()) for moment in self.moments
        ]
        table.add_row("all", *map(_cell, columns), _cell(sum(columns, Counter())))
        return table


def _cell(counts: "Counter[Saw]") -> Text:
    clicks, reached = counts.total(), counts[Saw.CONSENT]
    if not clicks:
        return Text("-")
    return Text(f"{reached} of {clicks}", style="green" if reached == clicks else "red")
