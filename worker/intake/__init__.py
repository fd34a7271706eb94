"""Reads the file of `reconnect import`: CSV or JSON, one member a row. Every problem is reported with its line.

``cells`` has the rules for each column. ``csv_rows`` and ``json_rows`` read row by row and report bad rows; ``lines`` gives them the
lines. ``columns`` is the fast path: it reads a thousand lines of CSV at once, column by column, if all of them are good.
``institutions`` reads the file of `reconnect institutions`, and ``webhooks`` the body of a webhook of MX.
"""

from worker.intake.cells import COLUMNS
from worker.intake.columns import ColumnBatch, slices
from worker.intake.institutions import is_of_institutions, read_institutions
from worker.intake.items import Note, Problem, Row
from worker.intake.lines import STDIN, display_name
from worker.intake.reading import read

__all__ = [
    "COLUMNS",
    "STDIN",
    "ColumnBatch",
    "Note",
    "Problem",
    "Row",
    "display_name",
    "is_of_institutions",
    "read",
    "read_institutions",
    "slices",
]
