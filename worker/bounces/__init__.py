"""Reads delivery reports: which of our mails failed, for which address, and whether the address exists.

| module | answers |
|---|---|
| ``reading`` | What is this mail: a report, a complaint, a bounce in an unknown form, something else? |
| ``dsn``, ``plain``, ``feedback`` | What does each form of report say about each recipient? |
| ``evidence`` | Does a refusal mean that the address does not exist? |
| ``tracing`` | Which of our mails is the report about, and is it genuine? |
| ``parts``, ``report`` | How is a part read as text? What does a report consist of? |
"""

from worker.bounces.reading import LIMIT, Kind, Reading, parse, read
from worker.bounces.report import BounceOutcome, Report, Unreadable, spec_of, spellings
from worker.bounces.tracing import trace

__all__ = [
    "LIMIT",
    "BounceOutcome",
    "Kind",
    "Reading",
    "Report",
    "Unreadable",
    "parse",
    "read",
    "spec_of",
    "spellings",
    "trace",
]  # fmt: skip
