"""What Flower is told of a task that failed.

Flower's list has one column for results, and Celery's event of a failure carries no result, so a failed row would be empty there.
Ours carries the reason.
"""

import re
from typing import Any

from celery.worker.request import Request

_REPR = re.compile(r"\w+\((?P<quote>['\"])(?P<text>.*)(?P=quote),?\)", re.DOTALL)


class StageRequest(Request):
    """A task in a worker's hands, whose failure event says why in ``result``."""

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's name
        """Send an event of this task."""
        if type == "task-failed":
            reason = str(fields.get("exception") or "")
            match = _REPR.fullmatch(reason)
            fields["result"] = match["text"] if match else reason
        super().send_event(type, **fields)
