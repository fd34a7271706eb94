"""The states of a reconnection and of a notification, a sentence each, and the ways between them."""

from enum import StrEnum


class ReconnectionState(StrEnum):
    """Where one reconnection of a broken member stands."""

    #: It waits for ``next_attempt_at``: the moment of its first message, of a retry, or of its next reminder.
    DUE = "due"
    #: A worker holds it until its lease expires and is asking MX for a window.
    LEASED = "leased"
    #: A fresh window is stored and a notification that carries it is on its way.
    READY = "ready"
    #: The user was told and has not come back yet; ``next_attempt_at`` is the next reminder, ``next_check_at`` the next look.
    NOTIFIED = "notified"
    #: The member is well again.
    RECONNECTED = "reconnected"
    #: MX says that the member cannot use OAuth; looked at again after weeks, since registrations change.
    UNSUPPORTED = "unsupported"
    #: MX knows the member no more, or the application deleted it.
    GONE = "gone"
    #: Every attempt failed or every reminder went unanswered; `reconnect retry` requeues it.
    EXHAUSTED = "exhausted"
    #: Somebody here ended it.
    CANCELLED = "cancelled"
    #: A person must look: MX answered with a hostile URI, rejected the request, or the row took its workers down.
    QUARANTINED = "quarantined"


class NotificationState(StrEnum):
    """Where one message to one user stands."""

    #: It waits for ``next_attempt_at``.
    PENDING = "pending"
    #: A worker holds it until its lease expires; ``dispatched_at`` tells whether it may already have left.
    SENDING = "sending"
    #: The other side took responsibility for it.
    SENT = "sent"
    #: It was refused for good.
    FAILED = "failed"
    #: The answer was lost after dispatch began: it may have arrived. A first message is followed by another the next day.
    UNKNOWN = "unknown"
    #: Overtaken: the customer came back, or a fresher message replaced it.
    CANCELLED = "cancelled"
    #: The address does not exist, or its owner wants no messages.
    SUPPRESSED = "suppressed"


_R, _N = ReconnectionState, NotificationState

#: A member has at most one reconnection in these.
OPEN = (_R.DUE, _R.LEASED, _R.READY, _R.NOTIFIED)
#: A user has at most one notification in these.
LIVE = (_N.PENDING, _N.SENDING)

ENDS = frozenset({_R.RECONNECTED, _R.GONE, _R.EXHAUSTED, _R.CANCELLED, _R.QUARANTINED, _R.UNSUPPORTED})

#: From each state, the states that may follow it. What ended stays ended, but for what `reconnect retry` puts back. A row that
#: took its workers down is quarantined by the sweep, out of ``due``, where recovery has put it.
RECONNECTION_STEPS: dict[ReconnectionState, set[ReconnectionState]] = {
    _R.DUE: {_R.LEASED, _R.RECONNECTED, _R.GONE, _R.EXHAUSTED, _R.CANCELLED, _R.QUARANTINED},
    _R.LEASED: {_R.DUE, _R.READY, *ENDS},
    _R.READY: {_R.NOTIFIED, _R.DUE, *ENDS},
    _R.NOTIFIED: {_R.DUE, _R.LEASED, _R.READY, *ENDS},
    _R.EXHAUSTED: {_R.DUE},
    _R.QUARANTINED: {_R.DUE},
    _R.UNSUPPORTED: {_R.DUE},
    _R.RECONNECTED: set(),
    _R.GONE: set(),
    _R.CANCELLED: set(),
}
NOTIFICATION_STEPS: dict[NotificationState, set[NotificationState]] = {
    _N.PENDING: {_N.SENDING, _N.CANCELLED, _N.SUPPRESSED},
    _N.SENDING: {_N.SENT, _N.PENDING, _N.FAILED, _N.UNKNOWN, _N.CANCELLED, _N.SUPPRESSED},
    _N.SENT: set(),
    _N.FAILED: set(),
    _N.UNKNOWN: {_N.PENDING},
    _N.CANCELLED: set(),
    _N.SUPPRESSED: set(),
}

#: Besides, where a streak of refusals turned out to be of us (policy/streaks.py), what it had done is given back: a message that it
#: ended is pending again, and the reconnections behind it are ready, unless something else was begun for the user meanwhile.
GIVEN_BACK: dict[ReconnectionState | NotificationState, ReconnectionState | NotificationState] = {
    _N.FAILED: _N.PENDING,
    _N.SUPPRESSED: _N.PENDING,
    _R.DUE: _R.READY,
}
