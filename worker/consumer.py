"""Celery's consumer, which does not end the worker for what happens to its broker.

Celery starts again after errors of the connection. A Redis that refuses (a replica, no rights, no memory, a key of another type)
ends its main process, and so does one that dies again while Celery starts again. Here whatever goes wrong is a reason to start
again, after a wait that doubles: 0, 1, 2, 4, 8, then 15 seconds, and none after a minute in which all was well.
"""

import time
from contextlib import suppress
from typing import Any

import structlog
from celery.worker import consumer
from celery.worker.state import maybe_shutdown

log = structlog.get_logger()

LONGEST = 15.0
#: After so long without a failure, the next one is the first (seconds).
WELL_AFTER = 60.0


class Consumer(consumer.Consumer):
    """Takes messages from the broker, whatever becomes of it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: All that it starts again for.
        self.connection_errors = (Exception,)
        self._wait, self._failed_at = 0.0, 0.0

    def start(self) -> None:
        """Consume until the worker stops."""
        while self.blueprint.human_state() in {"initializing", "running"}:
            try:
                super().start()
            except Exception as error:  # noqa: BLE001 - it happened while Celery cleaned up after another
                log.warning("consumer_failed", cause=error)
                self._pause()
                with suppress(Exception):
                    self.on_close()
                    self.blueprint.restart(self)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Celery's own, then a wait."""
        super().on_connection_error_after_connected(exc)
        self._pause()

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Celery's own, then a wait."""
        super().on_connection_error_before_connected(exc)
        self._pause()

    def _pause(self) -> None:
        now = time.monotonic()
        self._wait = 0.0 if now - self._failed_at > WELL_AFTER else min(max(self._wait * 2, 1.0), LONGEST)
        while time.monotonic() < now + self._wait:
            maybe_shutdown()  # raises when the worker is asked to stop
            time.sleep(0.1)
        self._failed_at = time.monotonic()
