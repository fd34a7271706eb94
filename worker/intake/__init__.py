"""Reading what `reconnect import` is given: CSV or JSON, one member a row, every problem told by its line.

``cells`` says what a cell of each column may hold. ``csv_rows`` and ``json_rows`` read row by row and name what is wrong, ``lines``
is the text below them, and ``columns`` reads a thousand lines of CSV at once, by the column, as long as nothing is wrong.
"""

from worker.intake.cells import COLUMNS
from worker.intake.columns import ColumnBatch, slices
from worker.intake.items import Note, Problem, Row
from worker.intake.lines import STDIN, called
from worker.intake.reading import read

__all__ = ["COLUMNS", "STDIN", "ColumnBatch", "Note", "Problem", "Row", "called", "read", "slices"]
