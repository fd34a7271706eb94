"""Reading delivery reports: which mail of ours failed, for which address, and whether the address is to blame.

| module | answers |
|---|---|
| ``reading`` | what is this mail: a report, a complaint, a bounce that nobody understands, something else? |
| ``dsn``, ``plain``, ``feedback`` | what does each form of report say of each recipient? |
| ``evidence`` | does a refusal speak of the address? |
| ``tracing`` | which mail of ours is it about, and may the report be believed? |
| ``parts``, ``report`` | a mail's parts as text; what comes out |
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
