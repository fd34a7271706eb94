"""``make bounces SET=DIR``: run the bounce reader on sisimai's public set of bounces; measure its recall and its precision.

``DIR`` is a checkout of https://github.com/sisimai/rb-sisimai, which contains the mails (``set-of-emails/``) and the meaning of each
(``test/public/*.rb``). It may also be a checkout of https://github.com/sisimai/set-of-emails with one of ``rb-sisimai`` beside it.
Nothing of either is part of this repository.

An address counts as dead if sisimai's reason is ``userunknown``, ``hostunknown`` or ``hasmoved``: 182 of 626 recipients. The reader
has found it if it would suppress it. ``ARGS=--misses`` names each mail in which the two differ. Exit 0 if recall is at least 0.75 and
precision at least 0.97, else 1; 2 if the set is missing.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ops.bouncecheck.truth import Expected, Missing, expected
from worker.bounces import BounceOutcome, Report, Unreadable, parse

RECALL, PRECISION = 0.75, 0.97

out = Console(highlight=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print the confusion table; return the exit code."""
    asked = _arguments(arguments)
    try:
        mails, lacking = expected(asked.set)
    except Missing as error:
        sys.stderr.write(f"bounces: {error}\n")
        return 2
    total: Counter[str] = Counter()
    for mail in mails:
        counts = compare(mail, read(mail.mail))
        total += counts
        if asked.misses and (counts["missed"] or counts["wrong"]):
            out.print(
                f"{mail.mail.name}: {counts['missed']} missed, {counts['wrong']} wrong ({', '.join(mail.reasons)})",
                markup=False,
            )
    recall, precision = _share(total["found"], total["missed"]), _share(total["found"], total["wrong"])
    out.print(_table(total))
    out.print(f"{len(mails)} mails, {sum(total.values())} recipients. Recall {recall:.3f}, precision {precision:.3f}.")
    if lacking:
        out.print(f"Not in this set: {', '.join(lacking)}", markup=False)
    return 0 if recall >= RECALL and precision >= PRECISION else 1


def read(mail: Path) -> list[Report]:
    """The reader's reports about a mail."""
    try:
        return parse(mail.read_bytes())
    except Unreadable:
        return []


def compare(mail: Expected, reports: list[Report]) -> Counter[str]:
    """How many recipients are found, missed, wrongly suppressed, and rightly not suppressed.

    Recipients are compared one by one if the reader has as many as sisimai. Otherwise only their numbers are compared, and a suppression
    counts as wrong first.
    """
    dead = mail.dead
    suppressed = [report.outcome is BounceOutcome.BAD_ADDRESS for report in reports]
    if len(suppressed) == len(dead):
        pairs = zip(dead, suppressed, strict=True)
        return Counter(_NAMES[pair] for pair in pairs)
    alive, hits = dead.count(False), sum(suppressed)
    wrong = min(hits, alive)
    found = min(hits - wrong, len(dead) - alive)
    return Counter(found=found, missed=len(dead) - alive - found, wrong=wrong, left=alive - wrong)


_NAMES = {(True, True): "found", (True, False): "missed", (False, True): "wrong", (False, False): "left"}


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part + rest else 0.0


def _table(total: Counter[str]) -> Table:
    table = Table("", "suppressed", "left alone")
    table.add_row("dead addresses", str(total["found"]), str(total["missed"]))
    table.add_row("all others", str(total["wrong"]), str(total["left"]))
    return table


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bounces", description="Measure the bounce reader on sisimai's public set."
    )
    parser.add_argument(
        "set", type=Path, metavar="SET", help="a checkout of rb-sisimai, or of set-of-emails beside one"
    )
    parser.add_argument("--misses", action="store_true", help="name each mail in which the reader and sisimai differ")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
