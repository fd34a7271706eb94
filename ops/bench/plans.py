"""The plan of each statement of a process: ``EXPLAIN (ANALYZE, BUFFERS, WAL)`` in PostgreSQL, right before the statement is executed."""

import re
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

_EXPLAINED = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")
#: The most characters of a line. A condition may contain a thousand GUIDs, and the plan repeats the statement's conditions.
_LONGEST = 300
_TOOK = re.compile(r"Execution Time: ([\d.]+) ms")


@dataclass
class Plan:
    """The slowest execution of one statement."""

    statement: str
    milliseconds: float
    lines: list[str]
    times: int = 1


@dataclass
class Plans:
    """The statements of one engine, with a plan of each."""

    _found: dict[str, Plan] = field(default_factory=dict)

    def watch(self, engine: AsyncEngine) -> None:
        """From now on, execute each statement first under EXPLAIN, in the same transaction, and roll that back."""

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
        """The plans as text, the slowest first, at most ``most`` of them."""
        plans = sorted(self._found.values(), key=lambda plan: -plan.milliseconds)
        parts = [
            f"{title}\n{len(plans)} statements, each at its dearest; EXPLAIN (ANALYZE, BUFFERS, WAL), PostgreSQL\n"
        ]
        for plan in plans[:most]:
            words = " ".join(plan.statement.split())[:_LONGEST]
            parts.append("\n".join((f"-- {plan.milliseconds:.2f} ms, said {plan.times} times", words, *plan.lines, "")))
        return "\n".join(parts)
