"""The tables of `status` and `demo`: the funnel, and the reasons why rows wait."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.table import Table

from worker.cli.session import when
from worker.policy.states import NotificationState, ReconnectionState
from worker.store.queries.standing import Count, Standing

#: At most this many reasons have a row of their own; the others are added up in one row, so that the output fits on a screen.
_ROWS = 10

#: `status` shows tokens that expire within so many weeks.
EXPIRING_WEEKS = 8

_R, _N = ReconnectionState, NotificationState

#: The meaning of each reason to wait.
MEANINGS = {
    "grace": "the end of NOTIFY_AFTER: many breaks mend by themselves",
    "now": "the next sweep, or a worker",
    "paused": "a pause: see above",
    "reminder": "the day of the next reminder",
    "quiet_hours": "the end of QUIET_HOURS on the customer's clock",
    "message_cap": "MESSAGE_CAPS: the user got messages lately",
    "other_notification_live": "the user's other message, which is sent first",
    "no_address": "an address or a device: the user has none; examined again every hour",
    "address_refused": "an address: the mail server refused the user's for good",
    "opted_out": "an end of the opt-out: the user wants no messages",
    "muted": "an end of the mute: the user wants no messages about this bank",
    "channel_not_configured": "the user's channel, which is not configured",
    "message_failed": "the day of the next reminder: the last message failed",
    "outage_over": "a turn: after an outage, messages are spread out",
    "requeued": "the next sweep, or a worker: `reconnect retry` requeued it",
    "lease_lost": "the next sweep, or a worker: the worker before died",
    "mx_paused": "MX, which is paused: whether the user is back is unknown",
    "broken_member_first": "a notice: a broken member of the same user goes first",
    "scheduled_notice": "a notice: its day",
}
_RETRY = "a retry: the attempt before failed"


def reason(count: Count) -> str | None:
    """Why rows are in their state, as one word; ``None`` if the state itself says it."""
    if count.state == _R.DUE and not count.outcome:
        return "grace" if count.later else "now"
    if count.state == _R.DUE and count.outcome in {"not_back", "window"}:
        return "reminder" if count.outcome == "not_back" else "message_failed"
    if count.state == _R.READY and count.outcome == "window":
        return None
    if count.state == _R.NOTIFIED and count.outcome == "window":
        return "told"
    if count.state == _N.PENDING and not count.outcome:
        return "now"
    return None if count.outcome == count.state else count.outcome


def counted(standing: Standing) -> dict[str, Any]:
    """The numbers of `status --json`: rows in each state, and the reasons why rows wait."""
    numbers: dict[str, Any] = {"estimated": standing.estimated}
    for kind, states, counts in (
        ("reconnections", _R, standing.reconnections),
        ("notifications", _N, standing.notifications),
    ):
        numbers[kind] = dict.fromkeys(map(str, states), 0)
        reasons: dict[tuple[str, str], int] = {}
        for count in counts:
            numbers[kind][count.state] += count.count
            if word := reason(count):
                reasons[count.state, word] = reasons.get((count.state, word), 0) + count.count
        name = "outcomes" if kind == "reconnections" else "notification_outcomes"
        numbers[name] = [
            {"state": state, "outcome": word, "count": number} for (state, word), number in sorted(reasons.items())
        ]
    numbers["waiting"] = [
        *_waiting("reconnections", standing.reconnections, _R.DUE),
        *_waiting("notifications", standing.notifications, _N.PENDING),
    ]
    return numbers


def _waiting(kind: str, counts: Iterable[Count], state: str) -> list[dict[str, Any]]:
    """How many rows in ``state`` wait for each reason, the largest number first."""
    rows: dict[str, dict[str, Any]] = {}
    for count in counts:
        if count.state == state:
            word = "paused" if count.paused else reason(count) or state
            row = rows.setdefault(word, {"what": kind, "why": word, "count": 0, "first_at": None})
            row["count"] += count.count
            row["first_at"] = min(filter(None, (row["first_at"], count.first_at)), default=None)
    return sorted(rows.values(), key=lambda row: (-row["count"], row["why"]))


def funnel_table(numbers: dict[str, Any]) -> Table:
    """The number of rows in each state and the reasons; without the last column if there are no reasons."""
    why: dict[tuple[str, str], list[str]] = {}
    for kind, name in (("reconnections", "outcomes"), ("notifications", "notification_outcomes")):
        for item in numbers.get(name, ()):
            why.setdefault((kind, item["state"]), []).append(f"{item['outcome']} {item['count']}")
    table = Table("", "state", "count", *(["why"] if why else []), title="Funnel", title_justify="left")
    for kind in ("reconnections", "notifications"):
        for position, (state, count) in enumerate(numbers[kind].items()):
            reasons = [", ".join(why.get((kind, state), ()))] if why else []
            about = "~" if f"{kind}.{state}" in numbers.get("estimated", ()) else ""
            table.add_row(
                kind if position == 0 else "", state, f"{about}{count}", *reasons, style=None if count else "dim"
            )
        table.add_section()
    return table


def waiting_table(waiting: Sequence[dict[str, Any]], now: datetime) -> Table:
    """How many rows wait for each reason, and the earliest moment at which one is due."""
    table = Table("", "waits for", "count", "first at", "which is", title="What waits", title_justify="left")
    largest = sorted(waiting, key=lambda row: -row["count"])[:_ROWS]
    for row in sorted(largest, key=waiting.index):
        first = row["first_at"]
        at = when(first) if first and first > now else "now"
        table.add_row(row["what"], row["why"], str(row["count"]), at, MEANINGS.get(row["why"], _RETRY))
    if len(waiting) > len(largest):
        rest = sum(row["count"] for row in waiting) - sum(row["count"] for row in largest)
        table.add_row("", "other reasons", str(rest), "", "see `reconnect status --json`")
    return table


def expiring_table(weeks: Sequence[dict[str, Any]]) -> Table:
    """How many tokens expire in each of the coming weeks, by institution: the largest ones, and the others together."""
    begins = sorted({week["begins_at"] for week in weeks})
    numbers: dict[str, dict[datetime, int]] = {}
    reckoned: dict[str, int] = {}
    for week in weeks:  # the largest institutions come first
        code = week["institution_code"] or "no institution_code"
        name = code if code in numbers or len(numbers) < _ROWS else "other institutions"
        row = numbers.setdefault(name, {})
        row[week["begins_at"]] = row.get(week["begins_at"], 0) + week["members"]
        reckoned[name] = reckoned.get(name, 0) + week["reckoned"]
    table = Table(
        "institution",
        *(f"{begin:%m-%d}" for begin in begins),
        "reckoned",
        title="Tokens that expire, by the week that begins",
        title_justify="left",
    )
    for name, row in numbers.items():
        table.add_row(name, *(str(row.get(begin, "")) for begin in begins), str(reckoned[name] or ""))
    return table
