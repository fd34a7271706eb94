"""Text of libraries, servers and data in the log: the cause appears once, without secrets or control sequences."""

import io
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from kombu.exceptions import OperationalError
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError

from worker.broker_faults import AWAY, WORDS, broker_fault
from worker.errors import DatabaseUnavailable, StageFailed
from worker.telemetry.logs import configure_logs
from worker.telemetry.scrubbing import cause_of, scrub


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """Returns the lines that were logged since the last call."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logs()

    def read() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        stream.seek(0)
        stream.truncate()
        return lines

    return read


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Connected to redis://:pa/ss@127.0.0.1:6379/0", "Connected to redis://**@127.0.0.1:6379/0"),
        ("GET https://int-api.mx.com/oauth?state=a1b2 failed", "GET https://int-api.mx.com/… failed"),
        ("550 <jane.doe@mail.example> unknown", "550 <<address>> unknown"),
        ("key gAAAAABm1234567890_abcdefghijklmnopqrstuvwxyz-0123456789==", "key <secret>"),
        ("MBR-7c6f361b-e582-15b6-60c0-358f12466b4b gone", "MBR-7c6f361b-e582-15b6-60c0-358f12466b4b gone"),
        ("\x1b[31mred\x1b[0m\nforged line\u202e\u061c", "\\x1b[31mred\\x1b[0m forged line\\u202e\\u061c"),
        ("Crédit Agricole, 東京", "Crédit Agricole, 東京"),
    ],
)
def test_text_is_shown_without_secrets_and_control_sequences(text: str, shown: str) -> None:
    assert scrub(text) == shown


@pytest.mark.parametrize("code", [code for code in WORDS if code != "UNBLOCKED"])
def test_each_refusal_of_a_broker_is_told_apart_however_it_is_wrapped(code: str) -> None:
    refusal = BaseParser.parse_error(f"{code} 1 10.0.0.7:6379")
    wrapped = OperationalError("server:ResponseError")
    wrapped.__cause__ = refusal
    assert broker_fault(refusal) == broker_fault(wrapped) == WORDS[code]
    assert "10.0.0.7" not in (broker_fault(refusal) or "")
    in_a_pipeline = BaseParser.parse_error(f"{code} 1 10.0.0.7:6379")
    in_a_pipeline.args = (f"Command # 1 (LPUSH sweep secret) of pipeline caused error: {code} no",)
    assert broker_fault(in_a_pipeline) == broker_fault(refusal)


def test_a_broker_that_is_away_is_no_riddle_and_other_errors_are_not_a_brokers() -> None:
    assert broker_fault(RedisConnectionError("Error 111 connecting to 10.0.0.7:6379")) == AWAY
    assert broker_fault(ValueError("x")) is None
    assert cause_of(ValueError("jane@mail.example")) == "ValueError"
    assert cause_of(DatabaseUnavailable("database: away")) == "database: away"
    assert cause_of(AttributeError("'NoneType' object has no attribute 'hostname'")).endswith("attribute 'hostname'")


def _log(logger: str, message: str, error: Exception, *arguments: Any) -> None:
    """Log an exception as libraries do."""
    try:
        raise error
    except type(error):
        logging.getLogger(logger).exception(message, *arguments)


def test_an_exception_in_a_librarys_record_becomes_its_cause_once(said: Any) -> None:
    refusal = BaseParser.parse_error("WRONGTYPE Operation against a key holding the wrong kind of value")
    for message in ("Unrecoverable error: %r", "Cannot connect: %s", "It failed"):
        _log("celery.worker", message, refusal, *([refusal] if "%" in message else []))
        (line,) = said()
        assert json.dumps(line).count("(WRONGTYPE)") == 1, line
        assert line["at"].startswith("telemetry/test_logs.py:")
        assert "exc_info" not in line
        assert "object at 0x" not in json.dumps(line)


def test_a_stage_that_failed_is_said_once(said: Any) -> None:
    structlog.get_logger().error("stage_failed", stage="fetch", why="database: away")
    _log("celery.app.trace", "Task %(name)s raised", StageFailed("fetch: database: away"), {"name": "reconnect.fetch"})
    assert [line["event"] for line in said()] == ["stage_failed"]
