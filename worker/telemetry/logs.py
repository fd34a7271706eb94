"""Logs: one event a line with its fields; JSON for machines, or plain text on a terminal.

What is logged is chosen where it is logged: words, counts, member GUIDs. URIs, keys, tokens and addresses are never given to a
logger; the loggers of libraries that might quote them are held at WARNING. What libraries log all the same passes one scrubber:
an exception becomes its cause in plain words, once, instead of ``server:ResponseError`` and ``<traceback object at 0x…>``.
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


class _Plain:
    """Stands for an exception among the arguments of a message, whether it asks for ``%s`` or ``%r``."""

    def __init__(self, error: BaseException) -> None:
        self._text = cause_of(error)

    def __repr__(self) -> str:
        return self._text


class _Arguments(logging.Filter):
    """Puts causes in the place of exceptions before a message is made of them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it: a stage that failed has said so itself."""
        if isinstance(record.args, Mapping):
            record.args = {name: _plain(value) for name, value in record.args.items()}
        elif record.args:
            record.args = tuple(map(_plain, record.args))
        return not (
            record.name == "celery.app.trace" and record.exc_info and isinstance(record.exc_info[1], StageFailed)
        )


def _plain(value: object) -> object:
    return _Plain(value) if isinstance(value, BaseException) else value


def _say_causes(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An exception beside a message: what caused it, unless the message says it already, and where it was raised."""
    found = event.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    if isinstance(found, BaseException):
        found = (type(found), found, found.__traceback__)
    if isinstance(found, tuple) and isinstance(found[1], BaseException):
        cause = cause_of(found[1])
        if cause not in str(event.get("event")):
            event["cause"] = cause
        if place := place_of(found[2]):
            event["at"] = place
    for name, value in event.items():
        if isinstance(value, BaseException):
            event[name] = cause_of(value)
        elif isinstance(value, str):
            event[name] = scrub(value)
    return event


def configure_logs(level: int = logging.INFO) -> None:
    """Send our events and the libraries' records through one renderer to stderr."""
    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(sort_keys=True)
    )
    handler = logging.StreamHandler()
    handler.addFilter(_Arguments())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _say_causes, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
