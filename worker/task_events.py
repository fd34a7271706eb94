"""Adds the reason to the event of a failed task, so that Flower shows it.

Flower's list has a column for results. Celery's ``task-failed`` event has no result, so the column would be empty. Our event has the
exception's text as its result.
"""

import re
from typing import Any

from celery.worker.request import Request

_REPR = re.compile(r"\w+\((?P<quote>['\"])(?P<text>.*)(?P=quote),?\)", re.DOTALL)


class StageRequest(Request):
    """A received task whose ``task-failed`` event has the reason in ``result``."""

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's name
        """Send an event of this task."""
        if type == "task-failed":
            reason = str(fields.get("exception") or "")
            match = _REPR.fullmatch(reason)
            fields["result"] = match["text"] if match else reason
        super().send_event(type, **fields)
