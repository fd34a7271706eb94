"""Waking workers: putting tasks into a stage's queue, no more than are needed there."""

import asyncio
from typing import Any

import structlog
from celery import Celery

from worker.errors import BrokerUnavailable
from worker.telemetry.scrubbing import cause_of

log = structlog.get_logger()

_RETRY = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.4, "interval_max": 1.0}


def publish(app: Celery, stage: str, n: int, **kwargs: Any) -> int:
    """Bring the number of tasks that wait in a stage's queue to ``n``; returns how many were put there, with these arguments.

    They do not expire: a queue never holds more than are needed, rows are claimed when a task runs, and a worker whose clock is
    ahead would throw them away.

    Raises :class:`BrokerUnavailable` when Redis is away or refuses: nothing is lost, since the next sweep does the same.
    """
    try:
        with app.producer_or_acquire() as producer:
            producer.connection.ensure_connection(max_retries=1, timeout=5)
            # The pool's connection may be one to a Redis that is gone: once more, then.
            count = producer.connection.ensure(producer, lambda: _waiting(producer.channel, stage), max_retries=1)
            missing = max(n - int(count()), 0)
            for _ in range(missing):
                app.send_task(
                    f"reconnect.{stage}",
                    kwargs=kwargs,
                    queue=stage,
                    producer=producer,
                    retry=True,
                    retry_policy=_RETRY,
                    argsrepr="()",
                    kwargsrepr=repr(kwargs),
                )
    except Exception as error:  # noqa: BLE001 - Kombu trips over its own closed connections too
        raise BrokerUnavailable(
            f"broker: no worker could be woken: {cause_of(error)}. Nothing is lost: the next sweep wakes them"
        ) from None
    return missing


def _waiting(channel: Any, queue: str) -> int:
    return int(channel.client.llen(queue))


class Waker:
    """Wakes from within an event loop, without holding it up."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    async def __call__(self, stage: str, n: int) -> int:
        """Put up to ``n`` tasks into a stage's queue. Redis being away is logged and waits for the next sweep."""
        try:
            return await asyncio.to_thread(publish, self._app, stage, n)
        except BrokerUnavailable as error:
            log.warning("nobody_woken", stage=stage, why=str(error))
            return 0
