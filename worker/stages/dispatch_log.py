"""Commits that dispatch begins, before a message leaves. Otherwise a lost answer would look like a message that was never sent."""

import asyncio
from collections.abc import Sequence

from worker.errors import WorkerError
from worker.store.links import NewLink
from worker.store.notifications.claimed import ClaimedNotification
from worker.store.transactions.deliver import DeliverStore

_Waiting = tuple[ClaimedNotification, NewLink | None, asyncio.Future[bool]]


class LeaseLost(Exception):  # noqa: N818 - it names what happened
    """The lease ran out, and perhaps another worker claimed the message. It must not be sent here."""


class NotRecorded(Exception):  # noqa: N818 - it names what happened
    """It is not known whether the commit succeeded, so the message must not be sent. The lease is still ours."""


#: How long the first message of a group waits for others (seconds). Nothing is committed meanwhile, so a crash in this time makes no
#: message unknown. Messages of one group leave together and their successors arrive together, so groups grow. The price: each mail may
#: take this much longer, which counts if the mail server is faster than the wait. `make bench ARGS="--only asked"` counts the commits.
GATHER = 0.006


class DispatchLog:
    """Commits "dispatch begins" for all messages that wait for it at once (a group commit).

    ``full_size``: a group of this size waits for no more messages.
    """

    def __init__(self, store: DeliverStore, *, full_size: int) -> None:
        self._store = store
        self._queue: list[_Waiting] = []
        #: The group that is being committed.
        self._group: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._full_size = full_size
        self._is_full_size = asyncio.Event()

    async def begin(self, notification: ClaimedNotification, link: NewLink | None = None) -> None:
        """Commit that dispatch begins, together with the message's link. The message may leave only after this returns.

        Raises :class:`LeaseLost` if the message is not ours any more, :class:`NotRecorded` if the database failed, and
        ``RuntimeError`` for an error of this worker.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.append((notification, link, future))
        if len(self._queue) >= self._full_size:
            self._is_full_size.set()
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        if not await future:
            raise LeaseLost

    async def stop_if_nobody_waits(self) -> None:
        """Cancel the writer if every waiting sender was cancelled, so that no transaction stays open. Whether their group was committed is unknown."""
        waiting = any(not future.done() for *_, future in (*self._group, *self._queue))
        if self._writer is not None and not waiting:
            self._writer.cancel()
            await asyncio.wait([self._writer])

    async def _write(self) -> None:
        """Commit groups until no message waits. If this ends early, by a cancellation too, every waiting sender gets an error."""
        try:
            while self._queue:
                await self._gather()
                self._group, self._queue = self._queue, []
                group = self._group = [
                    waiting for waiting in self._group if not waiting[-1].done()
                ]  # without the cancelled senders
                if not group:
                    continue
                try:
                    links = [link for _, link, _ in group if link is not None]
                    dispatched_ids = await self._store.mark_dispatched(
                        [notification for notification, *_ in group], *([links] if links else [])
                    )
                except Exception as error:  # noqa: BLE001 - the senders of this group get it, and the next group is tried anew
                    _fail(group, error)
                else:
                    for notification, _, future in group:
                        if not future.done():
                            future.set_result(notification.id in dispatched_ids)
        except BaseException as error:
            _fail([*self._group, *self._queue], error)
            self._queue = []
            raise

    async def _gather(self) -> None:
        """Wait until the group is large enough, or its first message has waited :data:`GATHER`."""
        if len(self._queue) < self._full_size:
            self._is_full_size.clear()
            timer = asyncio.get_running_loop().call_later(GATHER, self._is_full_size.set)
            try:
                await self._is_full_size.wait()
            finally:
                timer.cancel()


def _fail(group: Sequence[_Waiting], error: BaseException) -> None:
    """Raise the error in each waiting sender. A database error counts as no attempt; any other error is a bug of this worker and counts."""
    for *_, future in group:
        if not future.done():
            reason = NotRecorded() if isinstance(error, WorkerError) else RuntimeError(type(error).__name__)
            future.set_exception(reason)
