"""Kombu's Redis transport, made to tolerate foreign entries in its keys.

Kombu assumes that every entry of a queue's list is one of its own messages. Any other entry ends the worker's main process; an entry
in ``unacked`` is restored and ends it again after each start. Our messages say only "there is work in this stage", so an
entry that cannot be read is dropped and logged as ``foreign_entry_dropped``. The next sweep sends a new message.
"""

from queue import Empty
from typing import Any

import structlog
from kombu.exceptions import InconsistencyError
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as base
from redis.exceptions import RedisError

log = structlog.get_logger()

#: Errors of the connection, not of an entry.
_CONNECTION = (RedisError, OSError, Empty)


def _drop(where: str, error: Exception) -> None:
    log.warning(
        "foreign_entry_dropped",
        where=where,
        why=f"it is no message that we can read ({type(error).__name__}): something else writes to this Redis database",
    )


class QoS(base.QoS):
    """Messages that a worker has received and not acknowledged.

    If Redis refuses an acknowledgement, Celery logs that and continues, but Kombu would still count the message as unacknowledged. A
    worker takes as many messages as it has children, so with each refusal it would take one less, and finally none. Here the message is
    no longer counted. It is restored after the visibility timeout, which is harmless.
    """

    def ack(self, delivery_tag: Any) -> None:
        """Acknowledge a message."""
        try:
            super().ack(delivery_tag)
        except RedisError:
            self._quick_ack(delivery_tag)  # type: ignore[attr-defined]  # celery-types does not know it
            raise

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Put a message back, or drop it."""
        try:
            super().reject(delivery_tag, requeue)
        except RedisError:
            self._quick_ack(delivery_tag)  # type: ignore[attr-defined]
            raise

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Restore a message to its queue."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except InconsistencyError as error:  # its exchange is gone, for example after FLUSHALL
            self._forget(tag, error)
        except _CONNECTION:
            raise
        except Exception as error:  # noqa: BLE001 - a foreign entry can raise anything
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
        except Exception as error:  # noqa: BLE001 - a foreign entry can raise anything; it has left the list
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
    """Delivers messages to the consumers of a queue."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str | None) -> None:
        try:
            super()._deliver(message, queue)
        except _CONNECTION:
            raise
        except Exception as error:  # noqa: BLE001 - a foreign entry can raise anything, and must not be restored
            _drop(queue or "a queue", error)
            self._reject(message)

    def _reject(self, message: Any) -> None:
        """Remove a message from ``unacked``, if it is there."""
        try:
            tag = message["properties"]["delivery_tag"]
        except (TypeError, KeyError, IndexError):
            return
        for channel in self.channels or ():
            channel.qos.reject(tag)


def install() -> None:
    """Use this transport for ``redis://`` and ``rediss://`` in this process. Celery and Flower choose a transport by the URL's scheme."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "worker.broker_transport:Transport"
