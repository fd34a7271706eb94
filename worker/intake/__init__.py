"""Reading what `reconnect import` is given: CSV or JSON Lines, one member a row, every problem told by its line.

``cells`` says what a cell of each column may hold, ``rows`` reads row by row and names what is wrong, and ``columns`` reads a
thousand lines at once, by the column, as long as nothing is wrong.
"""

from worker.intake.cells import COLUMNS
from worker.intake.columns import Slice, slices
from worker.intake.rows import Problem, Row, read

__all__ = ["COLUMNS", "Problem", "Row", "Slice", "read", "slices"]
