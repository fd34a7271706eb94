"""Is a failure MX's or the member's?

One 503 may be the fault of one member: MX fails for it alone, again and again. Twenty failures among the last 25 calls are the fault of
MX. A member's own failure counts as an attempt; a failure of MX does not. At the time of a failure it is not known which of the two it is.
So a stage reports each answer to an :class:`Attribution`, and asks it before results are written:

====== ===================================== ============================ =========================
call    MX answers                            ``failed`` returns           ``may_be_mx`` of the failure
====== ===================================== ============================ =========================
1       503 for member A                      False                        True: it waits
2       a window for member B                 (``served``)                 False: A's own, an attempt
3-20    503 for 18 members                    False                        True: they wait
21      503 for another member                True: the breaker opens      ``was_mx`` of the 20: True
====== ===================================== ============================ =========================

Fetch does not write a failure while ``may_be_mx``; once ``was_mx``, it leaves the reconnection as it was. Deliver writes the failure at
once, because the message must leave, and undoes it later with ``take_blamed``. Verify counts no attempts, and only needs to know
when to stop asking.

The effect of each kind of failure is in :mod:`worker.policy.mx_failures`.
"""

from worker.mx.answers import Failure, Gone, HostileUri, RefusedClient, RejectedRequest, RetryLater, Unsupported
from worker.mx.retrying import NOT_ASKED
from worker.policy.mx_failures import NOT_SERVED, FailureKind, MxFailure
from worker.policy.streaks import OUT_OF
from worker.stages.breaker import Breaker

_PACED = frozenset({"http_429", NOT_ASKED})


def failure_of(answer: Failure | HostileUri) -> MxFailure:
    """The row of the table in :mod:`worker.policy.mx_failures` that an answer belongs to."""
    match answer:
        case RetryLater(code=code, after=after, upstream=upstream):
            kind = FailureKind.PACED if code in _PACED else FailureKind.UPSTREAM if upstream else FailureKind.PASSING
            return MxFailure(kind=kind, code=code, after=after)
        case RefusedClient():
            kind = FailureKind.REFUSED
        case Gone():
            kind = FailureKind.GONE
        case Unsupported():
            kind = FailureKind.UNSUPPORTED
        case RejectedRequest():
            kind = FailureKind.REJECTED
        case HostileUri():
            kind = FailureKind.HOSTILE
    return MxFailure(kind=kind, code=answer.code)


class Attribution:
    """Attributes the failures of one run to MX or to members, and reports MX's answers to the breaker."""

    def __init__(self, breaker: Breaker, *, probe: bool = False) -> None:
        """``probe``: the run tests whether MX serves us again. Then a failure is MX's unless MX served another call of the run before it."""
        self._breaker = breaker
        self._probe = probe
        #: How often MX served somebody in this run.
        self._served = 0
        #: Maps the id of a reconnection to the value of ``_served`` when it failed. If ``_served`` is larger now, MX has served others
        #: since, and the failure is that of the member.
        self._blamed: dict[int, int] = {}

    def served(self) -> None:
        """Record an answer that MX gives when it works."""
        self._breaker.went_well()
        self._served += 1

    def failed(self, failure: MxFailure, reconnection_id: int) -> bool:
        """Record a failure. Returns whether it is certain that MX is the cause; then MX is asked no more in this run."""
        if failure.kind not in NOT_SERVED:
            self.served()
        elif failure.kind is FailureKind.REFUSED:
            self._breaker.refused(failure.code)
            return True
        elif failure.kind is FailureKind.UPSTREAM:
            if self._breaker.failed(failure.code) or (self._probe and not self._served):
                return True
            self._blamed.pop(reconnection_id, None)
            self._blamed[reconnection_id] = self._served
        return False

    def may_be_mx(self, reconnection_id: int) -> bool:
        """Whether a failure of this reconnection is undecided: MX has served nobody since."""
        return self._blamed.get(reconnection_id) == self._served

    def was_mx(self, reconnection_id: int) -> bool:
        """Whether the breaker opens now, and a failure of this reconnection was one of those that opened it."""
        return self._breaker.tripped and reconnection_id in self._blamed

    def take_blamed(self) -> list[int]:
        """The reconnections whose failures made the streak, if the breaker opens now. Each streak is returned once."""
        if not self._breaker.tripped:
            return []
        blamed = list(self._blamed)[-OUT_OF:]
        self._blamed.clear()
        return blamed
