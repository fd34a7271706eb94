"""Kombu's Redis transport, which lives with what others put into our keys.

Kombu takes for granted that everything in a queue's list is a message of its own. Anything else ends the worker's main process, and
what was restored from ``unacked`` would end it again and again. A message of ours only says that there is work, so one that cannot
be read is dropped, with a line in the log: the next sweep sends another.
"""

from queue import Empty
from typing import Any

import structlog
from kombu.exceptions import InconsistencyError
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as base
from redis.exceptions import RedisError

log = structlog.get_logger()

#: Comes from the connection, not from what was read.
_CONNECTION = (RedisError, OSError, Empty)


def _drop(where: str, error: Exception) -> None:
    log.warning(
        "foreign_entry_dropped",
        where=where,
        why=f"it is no message that we can read ({type(error).__name__}): something else writes to this Redis database",
    )


class QoS(base.QoS):
    """Messages that are in a worker's hands."""

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put one back into its queue."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except InconsistencyError as error:  # its exchange is no more, as after FLUSHALL
            self._forget(tag, error)
        except _CONNECTION:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, it is not ours
            self._forget(tag, error)

    def _forget(self, tag: Any, error: Exception) -> None:
        _drop(self.unacked_key, error)
        self._remove_from_indices(tag).execute()  # type: ignore[attr-defined]  # celery-types does not know it


class Channel(base.Channel):
    """Reads queues."""

    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except _CONNECTION:
            raise
        except Exception as error:  # noqa: BLE001 - it was taken off the list before it was read
            _drop("a queue", error)
            raise Empty from None

    def _receive_one(self, c: Any) -> Any:
        try:
            return super()._receive_one(c)  # type: ignore[misc]
        except _CONNECTION:
            raise
        except Exception as error:  # noqa: BLE001
            _drop("a broadcast", error)
            raise Empty from None


class Transport(base.Transport):
    """Delivers what was read to whoever consumes the queue."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str | None) -> None:
        try:
            super()._deliver(message, queue)
        except _CONNECTION:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it must not come back
            _drop(queue or "a queue", error)
            self._reject(message)

    def _reject(self, message: Any) -> None:
        """Out of ``unacked``, if it came that far."""
        try:
            tag = message["properties"]["delivery_tag"]
        except (TypeError, KeyError, IndexError):
            return
        for channel in self.channels or ():
            channel.qos.reject(tag)


def install() -> None:
    """Serve ``redis://`` and ``rediss://`` in this process. By alias: Flower and Celery go by the URL's scheme."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "worker.transport:Transport"
