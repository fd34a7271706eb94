"""The states of a reconnection and of a notification, and the moves between them.

Each state has a sentence. Each move tells who makes it, what else happens, and whether the application is told.

``store/reconnections/`` and ``store/notifications/`` check every move they write against the tables in this file.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TypeVar

from worker.policy.events import EventType


class ReconnectionState(StrEnum):
    """The state of one reconnection."""

    #: It waits for ``next_attempt_at``: the moment of its first message, of a retry, or of its next reminder.
    #: After a click or the end of OAuth it has a ``next_check_at`` too: fetch does not ask MX if the user must not be told.
    DUE = "due"
    #: A worker has leased it and is asking MX for a window.
    LEASED = "leased"
    #: A fresh window is stored, and the notification about it is on its way.
    #: The notification carries the window's URI. With ``PUBLIC_BASE_URL`` it carries our link, and the URI is for a click or stays unused.
    READY = "ready"
    #: The user was told and has not come back yet; ``next_attempt_at`` is the next reminder, ``next_check_at`` the next check.
    NOTIFIED = "notified"
    #: The member is well again.
    RECONNECTED = "reconnected"
    #: MX says that the member cannot use OAuth; asked again after 4 weeks, since registrations change.
    UNSUPPORTED = "unsupported"
    #: MX does not know the member any more, or the application deleted it.
    GONE = "gone"
    #: Every attempt failed or every reminder went unanswered; `reconnect retry` requeues it.
    EXHAUSTED = "exhausted"
    #: The application's row no longer says that the member is broken, and MX did not say that it is back; or a notice lost its reason;
    #: or the row names another user.
    #: A sweep, the visit after a webhook of MX, fetch and deliver cancel reconnections. No command does.
    CANCELLED = "cancelled"
    #: An operator must look: MX answered with a hostile URI or rejected the request, or workers died with the row.
    QUARANTINED = "quarantined"


class NotificationState(StrEnum):
    """The state of one message to one user."""

    #: It waits for ``next_attempt_at``.
    PENDING = "pending"
    #: A worker has claimed it until its lease expires; ``dispatched_at`` tells whether it may already have left.
    SENDING = "sending"
    #: The other side took responsibility for it.
    SENT = "sent"
    #: It was refused for good, ``MAX_ATTEMPTS`` attempts failed, or six workers died with it.
    FAILED = "failed"
    #: The answer was lost after dispatch began: it may have arrived. A first message is followed by another the next day.
    UNKNOWN = "unknown"
    #: Nothing was left to tell: the user came back, or every bank was left out of it.
    CANCELLED = "cancelled"
    #: The address does not exist, or its owner wants no messages.
    SUPPRESSED = "suppressed"


_R, _N = ReconnectionState, NotificationState
State = TypeVar("State", bound=StrEnum)

#: A member has at most one reconnection in these.
OPEN = (_R.DUE, _R.LEASED, _R.READY, _R.NOTIFIED)
#: A user has at most one notification in these.
LIVE = (_N.PENDING, _N.SENDING)

ENDS = frozenset({_R.RECONNECTED, _R.GONE, _R.EXHAUSTED, _R.CANCELLED, _R.QUARANTINED, _R.UNSUPPORTED})


class Mover(StrEnum):
    """Who moves a row."""

    #: A sweep; also the visit that follows a webhook of MX at once (``store/transactions/catch_up.py``).
    SWEEP = "sweep"
    FETCH = "fetch"
    DELIVER = "deliver"
    VERIFY = "verify"
    #: `reconnect retry`.
    RETRY = "retry"
    #: A click on a link, by MX's answer to it.
    CLICK = "click"
    #: `reconnect sync` or a hint, by what MX says of the member.
    SYNC = "sync"


@dataclass(frozen=True, slots=True)
class Move:
    """From any state of ``before`` (empty: the row is new) to any state of ``after``."""

    name: str
    before: tuple[StrEnum, ...]
    after: tuple[StrEnum, ...]
    by: tuple[Mover, ...]
    #: What else happens, in the same transaction.
    also: str
    #: Whether the application is told of it. The event depends on the state that it leads to: :data:`TELLS`.
    has_event: bool


#: The states in which a reconnection ends without being back.
_GIVEN_UP = (_R.UNSUPPORTED, _R.GONE, _R.EXHAUSTED, _R.CANCELLED, _R.QUARANTINED)
_WIPED = (
    "the window's URI is deleted; a message about the reconnection is sent without it, or cancelled if nothing is left"
)
_WIPED_WELL = f"{_WIPED}; if it ends as `reconnected` because MX said so, MX's status is written into `members`"

#: The moves of a reconnection. Only ``store/reconnections/`` makes them.
RECONNECTION_MOVES = (
    Move("open", (), (_R.DUE,), (Mover.SWEEP,), "nothing: the member has no other open reconnection", has_event=True),
    Move(
        "lease",
        (_R.DUE, _R.NOTIFIED),
        (_R.LEASED,),
        (Mover.FETCH,),
        "the epoch grows; the user's other reconnections that are due within a day are leased in the same claim. A `notified` "
        "reconnection is leased only together with one that is due; its planned check is dropped unless it follows a click",
        has_event=False,
    ),
    Move("release", (_R.LEASED,), (_R.DUE,), (Mover.FETCH,), "nothing is counted", has_event=False),
    Move(
        "recover",
        (_R.LEASED,),
        (_R.DUE,),
        (Mover.SWEEP,),
        "the lease ran out: the epoch grows, one more lost lease",
        has_event=False,
    ),
    Move(
        "reschedule",
        (_R.LEASED,),
        (_R.DUE,),
        (Mover.FETCH,),
        "a retry counts an attempt, a deferral does not",
        has_event=False,
    ),
    Move(
        "ready",
        (_R.LEASED,),
        (_R.READY,),
        (Mover.FETCH,),
        "the older window's URI is deleted, the new window is stored, the message is queued",
        has_event=False,
    ),
    Move(
        "notify",
        (_R.READY,),
        (_R.NOTIFIED,),
        (Mover.DELIVER, Mover.SWEEP),
        "the message ended; reminder and check are planned. A sweep does it where the message's worker died after dispatch",
        has_event=True,
    ),
    Move(
        "go_on",
        (_R.READY,),
        (_R.DUE,),
        (Mover.DELIVER,),
        "the message ended and told nobody: the next message is planned",
        has_event=False,
    ),
    Move(
        "leave_out",
        (_R.READY,),
        (_R.DUE,),
        (Mover.DELIVER,),
        _WIPED,
        has_event=False,
    ),
    Move(
        "remind",
        (_R.NOTIFIED,),
        (_R.DUE,),
        (Mover.SWEEP,),
        "`attempts` is set to 0; the planned check is dropped unless it follows a click. The move is also made before the reminder's "
        "day if a click failed and none was served for an hour: then the user is owed a message, and `owed_at` is cleared",
        has_event=False,
    ),
    Move(
        "resend", (_R.NOTIFIED,), (_R.READY,), (Mover.RETRY,), "its unknown message is pending again", has_event=False
    ),
    Move(
        "close",
        (_R.DUE, _R.READY, _R.NOTIFIED),
        (_R.RECONNECTED, _R.CANCELLED, _R.GONE),
        (Mover.SWEEP,),
        _WIPED,
        has_event=True,
    ),
    Move("close", (_R.DUE, _R.READY), (_R.QUARANTINED,), (Mover.SWEEP,), f"its workers died; {_WIPED}", has_event=True),
    Move(
        "close",
        (_R.NOTIFIED,),
        (_R.EXHAUSTED,),
        (Mover.SWEEP,),
        "after the last reminder; the window's URI is deleted",
        has_event=True,
    ),
    Move(
        "close",
        (_R.LEASED, _R.READY),
        (_R.RECONNECTED, *_GIVEN_UP),
        (Mover.FETCH, Mover.DELIVER),
        f"fetch ends what is leased, deliver what is ready; {_WIPED_WELL}",
        has_event=True,
    ),
    Move("close", (_R.DUE, _R.NOTIFIED), (_R.RECONNECTED, _R.GONE), (Mover.VERIFY,), _WIPED_WELL, has_event=True),
    Move(
        "close", (_R.DUE, _R.READY, _R.NOTIFIED), (_R.RECONNECTED, _R.GONE), (Mover.SYNC,), _WIPED_WELL, has_event=True
    ),
    Move(
        "close",
        OPEN,
        (_R.RECONNECTED, _R.UNSUPPORTED, _R.GONE, _R.QUARANTINED),
        (Mover.CLICK,),
        f"what a fetch under way finds is discarded; {_WIPED_WELL}",
        has_event=True,
    ),
    Move(
        "reopen",
        (_R.EXHAUSTED, _R.QUARANTINED, _R.UNSUPPORTED),
        (_R.DUE,),
        (Mover.RETRY,),
        "`attempts` is set to 0, and the reminders begin again with the first message",
        has_event=True,
    ),
    Move(
        "give_back",
        (_R.EXHAUSTED,),
        (_R.DUE,),
        (Mover.DELIVER,),
        "MX served nobody: the last attempt does not count",
        has_event=True,
    ),
)
#: The moves of a notification. Only ``store/notifications/`` makes them.
NOTIFICATION_MOVES = (
    Move("queue", (), (_N.PENDING,), (Mover.FETCH,), "its reconnections are ready", has_event=False),
    Move("claim", (_N.PENDING,), (_N.SENDING,), (Mover.DELIVER,), "the epoch grows", has_event=False),
    Move("release", (_N.SENDING,), (_N.PENDING,), (Mover.DELIVER,), "nothing is counted", has_event=False),
    Move(
        "recover",
        (_N.SENDING,),
        (_N.PENDING,),
        (Mover.SWEEP,),
        "the lease ran out before dispatch, or after it with resend; one more lost lease",
        has_event=False,
    ),
    Move(
        "retry",
        (_N.SENDING,),
        (_N.PENDING,),
        (Mover.DELIVER,),
        "a retry counts an attempt, a deferral does not",
        has_event=False,
    ),
    Move(
        "finish",
        (_N.SENDING,),
        (_N.SENT, _N.UNKNOWN),
        (Mover.DELIVER, Mover.SWEEP),
        "its reconnections are notified. A sweep only makes it `unknown`, where its worker died after dispatch",
        has_event=True,
    ),
    Move(
        "finish",
        (_N.SENDING,),
        (_N.FAILED, _N.SUPPRESSED),
        (Mover.DELIVER,),
        "its reconnections are due again",
        has_event=True,
    ),
    Move("finish", (_N.SENDING,), (_N.CANCELLED,), (Mover.DELIVER,), "nothing is left to tell", has_event=False),
    Move(
        "cancel",
        (_N.PENDING,),
        (_N.CANCELLED,),
        (Mover.SWEEP, Mover.CLICK, Mover.SYNC),
        "all its reconnections closed",
        has_event=False,
    ),
    Move(
        "give_up",
        (_N.PENDING,),
        (_N.FAILED,),
        (Mover.SWEEP,),
        "its workers died: its reconnections are quarantined",
        has_event=True,
    ),
    Move("resend", (_N.UNKNOWN,), (_N.PENDING,), (Mover.RETRY,), "its reconnections are ready again", has_event=False),
)
#: If a streak of refusals was caused by our sender or our credentials (``policy/streaks.py``), its effects are undone, unless other work
#: was begun for the user since. Nothing else makes these moves.
UNDONE_REFUSALS = (
    Move(
        "revive",
        (_N.FAILED, _N.SUPPRESSED),
        (_N.PENDING,),
        (Mover.DELIVER,),
        "its reconnections are ready again",
        has_event=False,
    ),
    Move(
        "restore_step",
        (_R.DUE,),
        (_R.READY,),
        (Mover.DELIVER,),
        "its message is pending again, and the step that it had used up is to come again",
        has_event=False,
    ),
)


#: The event of a move that the application is told of, by the state that it leads to.
TELLS: dict[StrEnum, EventType] = {
    _R.DUE: EventType.OPENED,
    _R.NOTIFIED: EventType.NOTIFIED,
    _R.RECONNECTED: EventType.RECONNECTED,
    _R.UNSUPPORTED: EventType.UNSUPPORTED,
    _R.GONE: EventType.GONE,
    _R.QUARANTINED: EventType.QUARANTINED,
    _R.EXHAUSTED: EventType.EXHAUSTED,
    _R.CANCELLED: EventType.CANCELLED,
    _N.SENT: EventType.SENT,
    _N.FAILED: EventType.FAILED,
    _N.SUPPRESSED: EventType.SUPPRESSED,
    _N.UNKNOWN: EventType.UNKNOWN,
}


@cache
def event_of(name: str, after: StrEnum) -> EventType | None:
    """What the application is told of a move of this name to this state; ``None``: nothing."""
    moves = [move for move in _moves_named(name) if _contains(move.after, after)]
    if not moves:
        raise ImpossibleMoveError(f"nothing may {name} to {type(after).__name__} {after}")
    return TELLS[after] if any(move.has_event for move in moves) else None


def _moves_named(name: str) -> list[Move]:
    return [move for move in (*RECONNECTION_MOVES, *NOTIFICATION_MOVES, *UNDONE_REFUSALS) if move.name == name]


def _contains(states: Iterable[StrEnum], wanted: StrEnum) -> bool:
    """Whether ``wanted`` is among the states. States of a reconnection and of a notification may have the same text."""
    return any(type(state) is type(wanted) and state == wanted for state in states)


def _steps(states: type[State], moves: Iterable[Move]) -> dict[State, set[State]]:
    pairs = [(before, after) for move in moves for before in move.before for after in move.after]
    return {state: {states(after) for before, after in pairs if before == state} for state in states}


#: From each state, the states that may follow it. An end is final, except for `reconnect retry` and the move `give_back`.
RECONNECTION_STEPS = _steps(ReconnectionState, RECONNECTION_MOVES)
NOTIFICATION_STEPS = _steps(NotificationState, NOTIFICATION_MOVES)


class ImpossibleMoveError(Exception):
    """No move of this file leads there: a fault in our code."""


@cache
def check(name: str, by: Mover, before: StrEnum, *after: StrEnum) -> None:
    """Raise :class:`ImpossibleMoveError` unless ``by`` may make the move of this name between these states."""
    moves = [move for move in _moves_named(name) if by in move.by and _contains(move.before, before)]
    for state in after:
        if not any(state in move.after for move in moves):
            raise ImpossibleMoveError(f"{by} may not {name} {type(before).__name__} {before} to {state}")
