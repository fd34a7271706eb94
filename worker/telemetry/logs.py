"""Logs: one event a line with its fields; JSON, or plain text on a terminal.

Our code logs words, counts and member GUIDs, never a URI, key, token or address. Loggers of libraries that might log these are set to
WARNING. Every line passes a scrubber. It replaces an exception by its cause in plain words, where libraries would log
``server:ResponseError`` and ``<traceback object at 0x…>``.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

from worker.errors import StageFailed
from worker.telemetry.scrubbing import cause_of, place_of, scrub

_TALKATIVE = (
    "aiohttp", "aiosmtplib", "aiosqlite", "asyncio", "google", "hpack", "httpcore", "httpx", "mail.log", "psycopg", "redis",
    "sqlalchemy", "urllib3",
)  # fmt: skip


class _Cause:
    """Replaces an exception among the arguments of a log message; ``%s`` and ``%r`` both give its scrubbed cause."""

    def __init__(self, error: BaseException) -> None:
        self._text = cause_of(error)

    def __repr__(self) -> str:
        return self._text


class _ScrubArguments(logging.Filter):
    """Replaces exceptions among the arguments of a log message."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log the record. Celery's own line about a :class:`StageFailed` is dropped: the task has logged it already."""
        if isinstance(record.args, Mapping):
            record.args = {name: _without_exception(value) for name, value in record.args.items()}
        elif record.args:
            record.args = tuple(map(_without_exception, record.args))
        return not (
            record.name == "celery.app.trace" and record.exc_info and isinstance(record.exc_info[1], StageFailed)
        )


def _without_exception(value: object) -> object:
    return _Cause(value) if isinstance(value, BaseException) else value


def _scrub_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Scrub every field. An exception becomes ``cause``, unless the message contains it, and ``at``, the place that raised it."""
    exc_info = event.pop("exc_info", None)
    if exc_info is True:
        exc_info = sys.exc_info()
    if isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    if isinstance(exc_info, tuple) and isinstance(exc_info[1], BaseException):
        cause = cause_of(exc_info[1])
        if cause not in str(event.get("event")):
            event["cause"] = cause
        if place := place_of(exc_info[2]):
            event["at"] = place
    for name, value in event.items():
        if isinstance(value, BaseException):
            event[name] = cause_of(value)
        elif isinstance(value, str):
            event[name] = scrub(value)
    return event


def configure_logs(level: int = logging.INFO) -> None:
    """Write our events and the libraries' log records to stderr, in one format."""
    shared_processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared_processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(sort_keys=True)
    )
    handler = logging.StreamHandler()
    handler.addFilter(_ScrubArguments())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared_processors,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _scrub_event, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
