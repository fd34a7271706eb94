"""The record that dispatch begins, without which an answer that never comes could not be told from a message never sent."""

import asyncio

from worker.errors import WorkerError
from worker.store.deliver_settling import Sending
from worker.store.delivering import DeliverStore


class LeaseLost(Exception):  # noqa: N818 - it names what happened
    """The notification belongs to somebody else by now; nothing may be sent."""


class DispatchLog:
    """Puts "dispatch begins" on record, for all messages that stand before that point at once (a group commit)."""

    def __init__(self, store: DeliverStore) -> None:
        self._store = store
        self._queue: list[tuple[Sending, asyncio.Future[bool]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def begin(self, sending: Sending) -> None:
        """Returns once it is on record; raises :class:`LeaseLost` if the message is not ours any more."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.append((sending, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        if not await future:
            raise LeaseLost

    async def _write(self) -> None:
        while self._queue:
            group, self._queue = self._queue, []
            try:
                marked = await self._store.mark_dispatched([sending for sending, _ in group])
            except WorkerError:
                marked = set()
            for sending, future in group:
                if not future.done():
                    future.set_result(sending.id in marked)
