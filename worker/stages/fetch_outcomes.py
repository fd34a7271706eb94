"""The result of an answer of MX in fetch, and the message about the fetched windows."""

import hashlib
from collections.abc import Sequence

import structlog

from worker.mx.answers import Window
from worker.policy.cadence import CadencePosition
from worker.policy.mx_failures import Close, MxFailure, MxUnavailable, Retry, after_asking
from worker.policy.retries import next_attempt
from worker.policy.states import ReconnectionState
from worker.runtime import Runtime
from worker.stages.planning import UserJob, defer
from worker.stages.recovered import well_by
from worker.store.reconnections.claims import ClaimedReconnection
from worker.store.transactions.fetch_results import FetchResult, NewNotification

log = structlog.get_logger()

_S = ReconnectionState


class FetchOutcomes:
    """Classified answers become results that the store can write."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._settings = runtime.settings

    def of_failure(self, claim: ClaimedReconnection, failure: MxFailure) -> FetchResult:
        """The result of a failure, by the table in :mod:`worker.policy.mx_failures`."""
        now, rng = self._runtime.clock.now(), self._runtime.rng
        limit = self._settings.max_attempts
        match after_asking(failure, attempts=claim.attempts, max_attempts=limit, now=now, rng=rng):
            case MxUnavailable(code=code, after=after):
                return defer(claim, next_attempt(1, now=now, rng=rng, after=after), code)
            case Retry(code=code, at=at, attempts=attempts):
                return FetchResult(claim=claim, state=_S.DUE, outcome=code, attempts=attempts, next_attempt_at=at)
            case Close(code=code, state=state, reopen_at=reopen_at, attempts=attempts):
                if state is _S.QUARANTINED:
                    log.warning("quarantined", member=claim.member_guid, outcome=code)
                return FetchResult(claim=claim, state=state, outcome=code, attempts=attempts, reopen_at=reopen_at)

    def of_window(self, claim: ClaimedReconnection, window: Window) -> FetchResult:
        """The window is stored, unless the member in the same answer is back."""
        member = window.member
        well = well_by(
            member,
            member_guid=claim.member_guid,
            broken_since=claim.broken_since,
            reason=claim.reason,
            skip_aggregation=self._settings.mx_skip_aggregation,
        )
        if well:
            return FetchResult(claim=claim, state=_S.RECONNECTED, outcome="back_already", well=well)
        if member.guid != claim.member_guid:
            log.info("member_moved", member=claim.member_guid, to=member.guid)
        uri = self._runtime.vault.encrypt(window.uri)
        # Earlier failed attempts still count: the next failure may come in the check before the message leaves.
        return FetchResult(
            claim=claim,
            state=_S.READY,
            outcome="window",
            attempts=claim.attempts,
            encrypted_uri=uri,
            window_guid=member.guid,
        )


def new_notification(job: UserJob, ready: Sequence[ClaimedReconnection]) -> NewNotification:
    """The message about ``ready``. Its key is the same whenever the same step is fetched again, so that it is stored once."""
    lead = ready[0] if len(ready) == 1 else min(ready, key=lambda claim: claim.id)
    identity = f"{lead.id} {lead.member_guid} {lead.step} {job.route.channel}"
    told_before = all(claim.first_notified_at is not None for claim in ready)
    return NewNotification(
        user_guid=job.user.user_guid,
        channel=job.route.channel,
        step=min(CadencePosition(claim.step, claim.base_step).reminder for claim in ready) if told_before else 0,
        message_key=hashlib.sha256(identity.encode()).hexdigest()[:32],
    )


def word_of(fetched: FetchResult) -> str:
    """How a result is counted in the task's short report."""
    if fetched.state is not _S.DUE:
        return str(fetched.state)
    return "retry" if fetched.attempts > fetched.claim.attempts else "deferred"
