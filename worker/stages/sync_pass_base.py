"""The code that the two passes of a sync share, and the rule for when MX is asked no more in a run."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Generic, TypeVar

from worker.mx.answers import Failure
from worker.policy.mx_failures import NOT_SERVED, FailureKind, MxFailure
from worker.policy.streaks import MANY, OUT_OF
from worker.runtime import Runtime
from worker.stages.attribution import failure_of
from worker.stages.runner import Runner
from worker.store.syncs.store import SyncStore
from worker.store.syncs.sync import LISTING, MemberChecked, MemberToCheck, Sync, UserRead, UserToRead

#: Users or members claimed and settled at once; more than `BATCH_SIZE`, because most of them are written by no statement of their own.
BATCH = 500

Job = TypeVar("Job", UserToRead, MemberToCheck)
Done = TypeVar("Done", UserRead, MemberChecked)


class MxHealth:
    """Whether MX serves us. It does not once it refused us, or 20 of the last 25 calls failed for MX's own reasons (`UPSTREAM`).

    A 429 and a failure that passes by itself (`PACED`, `PASSING`) are not among these calls, as in :mod:`worker.stages.attribution`.
    """

    def __init__(self) -> None:
        self._last_calls: deque[bool] = deque(maxlen=OUT_OF)
        #: Why the run ends, as a short word of ``mx/answers.py``.
        self.code = ""
        #: Whether MX refused the client, which concerns every stage.
        self.refused = False

    def went_well(self) -> None:
        self._record_call(well=True)

    def failed(self, failure: MxFailure) -> bool:
        """Record a failure. Returns whether MX is asked no more in this run."""
        if failure.kind is FailureKind.REFUSED:
            self.code, self.refused = failure.code, True
        elif failure.kind is FailureKind.UPSTREAM:
            self._record_call(well=False)
            if self._last_calls.count(False) >= MANY:
                self.code = failure.code
        elif failure.kind not in NOT_SERVED:
            self.went_well()
        return bool(self.code)

    def _record_call(self, *, well: bool) -> None:
        self._last_calls.append(well)


@dataclass
class Progress:
    """How far a sync is, for a progress bar."""

    phase: str = LISTING
    #: Users whose members were read, or members that were checked; and of how many, as far as that is known.
    done: int = 0
    total: int = 0


class Pass(Generic[Job, Done]):
    """The base of both passes."""

    def __init__(
        self, runtime: Runtime, store: SyncStore, sync: Sync, mx_health: MxHealth, progress: Progress, *, seconds: float
    ) -> None:
        self._runtime = runtime
        self._store = store
        self._sync = sync
        self._mx_health = mx_health
        self._progress = progress
        self._lease = lease_of(runtime)
        self._claim_until = monotonic() + seconds
        self._last_id = 0
        #: How many rows are done, or had an attempt counted.
        self.advanced = 0
        self._claim_lock = asyncio.Lock()
        #: When each unsettled row was claimed, which was before MX was asked about it.
        self._claimed_at: dict[int, datetime] = {}
        self.runner: Runner[Job, Done] = Runner(
            stage=self,  # type: ignore[arg-type]  # the subclasses are stages
            slots=runtime.settings.mx_max_connections,
            batch=BATCH,
            seconds=seconds,
            renew_every=self._lease / 3,
            stopping=runtime.stopping,
            claims_at_once=2,
        )

    def _failed(self, answer: Failure) -> tuple[bool, bool]:
        """Record a failed call. Returns that the row failed (always ``True``), and whether that counts as an attempt."""
        failure = failure_of(answer)
        if self._mx_health.failed(failure):
            self.runner.halted = True
        return True, failure.kind not in {FailureKind.PACED, FailureKind.REFUSED} and not self._mx_health.code

    def _read_at(self, ids: Sequence[int]) -> datetime:
        now = self._runtime.clock.now()
        return min((self._claimed_at.pop(id_, now) for id_ in ids), default=now)

    async def release(self, jobs: Sequence[Job]) -> None:
        """Nothing to do: rows that are not settled are still pending."""

    async def renew(self, jobs: Sequence[Job]) -> None:  # noqa: ARG002 - the runner's signature
        """Extend the lease of the sync."""
        await self._store.renew(self._sync, seconds=self._lease, now=self._runtime.clock.now())


def lease_of(runtime: Runtime) -> float:
    """How long the lease of a sync lasts (seconds): long enough for a slow transaction, short enough that another process continues soon."""
    return min(float(runtime.settings.lease_seconds), 30.0)
