"""What each statement costs: ``EXPLAIN (ANALYZE, BUFFERS, WAL)`` of what a process says to PostgreSQL, at the moment at which it says it."""

import re
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

_EXPLAINED = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")
#: Characters of a line: a condition may name a thousand GUIDs, and the plan says again what the statement asks.
_LONGEST = 300
_TOOK = re.compile(r"Execution Time: ([\d.]+) ms")


@dataclass
class Plan:
    """The dearest of all times that one statement was said."""

    statement: str
    milliseconds: float
    lines: list[str]
    times: int = 1


@dataclass
class Plans:
    """The statements of one engine, a plan of each."""

    _found: dict[str, Plan] = field(default_factory=dict)

    def watch(self, engine: AsyncEngine) -> None:
        """From now on: each statement is executed under EXPLAIN first, in the same transaction, and that is taken back."""

        @event.listens_for(engine.sync_engine, "before_cursor_execute")
        def explain(
            connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool
        ) -> None:
            if executemany or not statement.lstrip().startswith(_EXPLAINED):
                return
            cursor = connection.connection.cursor()
            cursor.execute("SAVEPOINT explained")
            cursor.execute("EXPLAIN (ANALYZE, BUFFERS, WAL, SUMMARY) " + statement, parameters)
            lines = [line[:_LONGEST] for (line,) in cursor.fetchall()]
            cursor.execute("ROLLBACK TO SAVEPOINT explained")
            cursor.close()
            self._keep(statement, lines)

    def _keep(self, statement: str, lines: list[str]) -> None:
        took = _TOOK.search("\n".join(lines))
        plan = Plan(statement, float(took[1]) if took else 0.0, lines)
        known = self._found.get(statement)
        if known is not None:
            plan.times = known.times + 1
            if known.milliseconds > plan.milliseconds:
                plan.milliseconds, plan.lines = known.milliseconds, known.lines
        self._found[statement] = plan

    def shown(self, *, title: str, most: int | None = None) -> str:
        """Their plans, the dearest first; ``most``: so many of them."""
        plans = sorted(self._found.values(), key=lambda plan: -plan.milliseconds)
        parts = [
            f"{title}\n{len(plans)} statements, each at its dearest; EXPLAIN (ANALYZE, BUFFERS, WAL), PostgreSQL\n"
        ]
        for plan in plans[:most]:
            words = " ".join(plan.statement.split())[:_LONGEST]
            parts.append("\n".join((f"-- {plan.milliseconds:.2f} ms, said {plan.times} times", words, *plan.lines, "")))
        return "\n".join(parts)
