"""The permit of one request: how it is got, kept and returned, and what its answer says of MX.

============================  ===========================  ==========================================
MX answers                    limit of requests in flight  no process asks MX for
============================  ===========================  ==========================================
429                           cut                          ``Retry-After``, or :data:`PAUSE_WITHOUT_RETRY_AFTER`
nothing in time               cut
503 with ``Retry-After``      unchanged                    ``Retry-After``
any other ``RetryLater``      unchanged
``RefusedClient``             unchanged
anything else                 grows, if half of it is used
============================  ===========================  ==========================================
"""

from types import TracebackType
from typing import Self

from worker.mx.answers import RefusedClient, RetryLater
from worker.mx.pacing.permit_queue import PermitQueue
from worker.mx.pacing.schedule import LATE

#: After a 429 without ``Retry-After``, no process asks MX for this many seconds.
PAUSE_WITHOUT_RETRY_AFTER = 1.0

#: If a request's moment was lost while its connection opened, it waits at most this many seconds for another moment.
ANOTHER_MOMENT_WITHIN = 3.0

#: An urgent request without a limit of its own waits at most this many seconds for its permit.
URGENT_PATIENCE = 10.0

_TIMEOUTS = frozenset({"timeout", "connect_timeout"})


class Permit:
    """One request's slot and moment. :meth:`worker.mx.pacing.Pacing.permit` makes it."""

    __slots__ = ("_began", "_is_urgent", "_moment", "_queue", "_until", "_within")

    def __init__(self, queue: PermitQueue, within: float | None, *, urgent: bool) -> None:
        self._queue = queue
        self._is_urgent = urgent
        self._within = within
        self._until = float("inf") if within is None else queue.clock() + within
        self._began = 0.0
        self._moment = 0.0

    async def __aenter__(self) -> Self:
        queue = self._queue
        if self._is_urgent:
            self._moment = await queue.wait_urgently(self._within or URGENT_PATIENCE)
        else:
            moment = queue.permit_at_once()
            self._moment = await queue.wait(self._within) if moment is None else moment
        self._began = queue.last_began = queue.clock()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.leave(self._began)

    async def before_sending(self) -> None:
        """Await this when the connection is open, right before the first byte: waits for another moment if its own was lost.

        On a busy machine a connection takes longer to open than a moment is valid. Without this, all requests that waited for their
        connections would be sent at once. Raises ``NoPermit`` if no other moment comes within :data:`ANOTHER_MOMENT_WITHIN`.
        """
        if self._is_urgent:  # nobody else can use its moment, and a user waits
            return
        while (now := self._queue.clock()) > self._moment + LATE:
            self._moment = await self._queue.wait_again(min(ANOTHER_MOMENT_WITHIN, self._until - now))

    def heard(self, answer: object) -> None:
        """Adapt limit and silence to an answer of :mod:`worker.mx.answers`."""
        if not isinstance(answer, RetryLater):
            if not isinstance(answer, RefusedClient):
                self._queue.concurrency.went_well()
        elif answer.code == "http_429":
            self._queue.concurrency.pushed_back(self._began)
            self._queue.block(PAUSE_WITHOUT_RETRY_AFTER if answer.after is None else answer.after)
        elif answer.code == "http_503" and answer.after is not None:
            self._queue.block(answer.after)
        elif answer.code in _TIMEOUTS:
            self._queue.concurrency.pushed_back(self._began)
