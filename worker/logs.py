"""Logs: one event a line with its fields; JSON for machines, or plain text on a terminal.

What is logged is chosen where it is logged: words, counts, member GUIDs. URIs, keys, tokens and addresses are never given to a
logger; the loggers of libraries that might quote them are held at WARNING.
"""

import logging
import sys

import structlog

_TALKATIVE = (
    "aiohttp", "aiosmtplib", "aiosqlite", "asyncio", "google", "hpack", "httpcore", "httpx", "mail.log", "psycopg", "redis",
    "sqlalchemy", "urllib3",
)  # fmt: skip


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
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
