"""Counts the sandbox's requests and answers, for tests and measurements."""

import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

#: ``window``: a request for an OAuth window. ``read``: a member or its status. ``list``: a page of users or members, a read as well.
Endpoint = Literal["window", "read", "list"]


def peak(times: Sequence[float], window: float) -> int:
    """The most of ``times`` (ascending, seconds) that fall into any span ``[t, t + window)``."""
    most = first = 0
    for last, now in enumerate(times):
        while now - times[first] >= window:
            first += 1
        most = max(most, last - first + 1)
    return most


def per_second(times: Sequence[float]) -> list[int]:
    """How many of ``times`` fall into each whole second since the first, empty seconds included."""
    counts = Counter(int(now - times[0]) for now in times)
    return [counts[second] for second in range(max(counts) + 1)] if counts else []


@dataclass(slots=True)
class MemberCounts:
    """One member's share of the ledger."""

    #: Requests for a window, whatever the answer.
    requests: int = 0
    reads: int = 0
    #: When each window was minted, seconds since 1970.
    minted: list[float] = field(default_factory=list)
    #: GETs of its links, by customers and scanners.
    opened: int = 0
    #: Windows in which the customer allowed or denied.
    used: int = 0

    def as_json(self) -> dict[str, object]:
        return {
            "requests": self.requests,
            "reads": self.reads,
            "minted": len(self.minted),
            "minted_at": [datetime.fromtimestamp(moment, UTC).isoformat() for moment in self.minted],
            "opened": self.opened,
            "used": self.used,
        }


class Ledger:
    """Counts since the start, or since the last reset."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Set every count to 0. Members, windows and faults stay as they are."""
        self._arrivals: dict[str, array[float]] = {
            "all": array("d"), "window": array("d"), "read": array("d"), "list": array("d"),
        }  # fmt: skip
        self.statuses: Counter[str] = Counter()
        #: Requests whose credentials and version were right, by the flavour that they spoke.
        self.flavours: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.members: dict[str, MemberCounts] = {}
        #: The same of all members together.
        self.minted = self.opened = self.used = 0
        #: How many requests for a bank's pages had a ``Referer`` header, by its text without the query.
        self.referers: Counter[str] = Counter()
        self.in_flight_peak = self.in_flight

    def of(self, key: str) -> MemberCounts:
        """The counts of the member that was born with this GUID."""
        counts = self.members.get(key)
        if counts is None:
            counts = self.members[key] = MemberCounts()
        return counts

    def note_minted(self, key: str) -> None:
        """Count a window."""
        self.of(key).minted.append(time.time())
        self.minted += 1

    def note_opened(self, key: str) -> None:
        """Count a GET of one of its links."""
        self.of(key).opened += 1
        self.opened += 1

    def note_used(self, key: str) -> None:
        """Count a window in which the customer allowed or denied."""
        self.of(key).used += 1
        self.used += 1

    def note_referer(self, referer: str | None) -> None:
        """Count a ``Referer`` header that a bank's page got."""
        if referer:
            self.referers[referer.partition("?")[0]] += 1

    def arrivals(self, which: str) -> Sequence[float]:
        """Arrival times on the monotonic clock: ``all``, ``window``, ``read`` or ``list``; raises ``KeyError`` for others."""
        return self._arrivals[which]

    @contextmanager
    def request(self, endpoint: Endpoint) -> Iterator[None]:
        """Count one request, from its arrival until its answer is made."""
        now = time.monotonic()
        self._arrivals["all"].append(now)
        self._arrivals[endpoint].append(now)
        if endpoint == "list":
            self._arrivals["read"].append(now)
        self.in_flight += 1
        self.in_flight_peak = max(self.in_flight_peak, self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1

    def as_json(self, *, members: bool) -> dict[str, object]:
        """The ledger as JSON. Without ``members`` the counts of each member are left out, which grow with the population."""
        totals: dict[str, object] = {
            "requests": len(self._arrivals["all"]),
            "window_requests": len(self._arrivals["window"]),
            "reads": len(self._arrivals["read"]),
            "lists": len(self._arrivals["list"]),
            "flavours": dict(self.flavours),
            "in_flight": self.in_flight,
            "in_flight_peak": self.in_flight_peak,
            "windows_minted": self.minted,
            "links_opened": self.opened,
            "states_used": self.used,
            "statuses": dict(self.statuses),
            "steps": dict(self.steps),
            "referers": dict(self.referers),
        }
        if members:
            totals["members"] = {key: counts.as_json() for key, counts in self.members.items()}
        return totals
