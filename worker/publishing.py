"""Wakes workers: puts tasks into a stage's queue, unless enough tasks wait there already."""

import asyncio
from typing import Any

import structlog
from celery import Celery

from worker.errors import BrokerUnavailable
from worker.telemetry.scrubbing import cause_of

log = structlog.get_logger()

_RETRY = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.4, "interval_max": 1.0}


def publish(app: Celery, stage: str, n: int, **kwargs: Any) -> int:
    """Fill a stage's queue up to ``n`` waiting tasks; returns how many were added. Example: if ``n`` is 4 and 3 wait, 1 is added.

    Tasks do not expire: a worker whose clock is ahead would drop them, and an old task does no harm, since it claims rows when it runs.

    Raises :class:`BrokerUnavailable` if Redis cannot be reached or refuses. Nothing is lost: the next sweep wakes the workers.
    """
    try:
        with app.producer_or_acquire() as producer:
            producer.connection.ensure_connection(max_retries=1, timeout=5)
            # The pooled connection may lead to a Redis that has restarted: one retry.
            count = producer.connection.ensure(producer, lambda: _queue_length(producer.channel, stage), max_retries=1)
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
    except Exception as error:  # noqa: BLE001 - Kombu raises errors of many types on a closed connection
        raise BrokerUnavailable(
            f"broker: no worker could be woken: {cause_of(error)}. Nothing is lost: the next sweep wakes them"
        ) from None
    return missing


def _queue_length(channel: Any, queue: str) -> int:
    return int(channel.client.llen(queue))


class Waker:
    """Wakes workers from an event loop without blocking it."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    async def __call__(self, stage: str, n: int) -> int:
        """:func:`publish`, but an unavailable broker is logged instead of raised: the next sweep wakes the workers."""
        try:
            return await asyncio.to_thread(publish, self._app, stage, n)
        except BrokerUnavailable as error:
            log.warning("nobody_woken", stage=stage, why=str(error))
            return 0
