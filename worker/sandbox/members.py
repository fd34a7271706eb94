"""What happens to the simulated members: their status, their script's progress, their windows and the consent given in them."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from worker.sandbox.oauth_uris import window_uri
from worker.sandbox.population import SimulatedMember
from worker.sandbox.script import Step

#: Members worked before they broke. The last time lies before any break that a demonstration or a test makes up, so that a
#: client that takes any ``successfully_aggregated_at`` for "the customer is back" is found out.
_LAST_AGGREGATED = timedelta(days=60)


class Member:
    """A simulated member, now."""

    __slots__ = (
        "_aggregation_ends", "_position", "connection_status", "gone", "guid", "key", "newest_window", "record",
        "script", "successfully_aggregated_at",
    )  # fmt: skip

    def __init__(self, record: SimulatedMember, *, born: datetime) -> None:
        self.record = record
        #: The GUID it was born with: its name in the ledger, whatever GUID it moves to.
        self.key = record.member_guid
        self.guid = record.member_guid
        self.connection_status = record.connection_status
        self.successfully_aggregated_at = born - _LAST_AGGREGATED
        self.newest_window: Window | None = None
        self._aggregation_ends: datetime | None = None
        self.script: tuple[Step, ...]
        #: MX knows it no more (the ``gone`` step was the last one).
        self.gone: bool
        self.set_script(record.script)

    def set_script(self, script: tuple[Step, ...]) -> None:
        """Begin this script at its first step."""
        self.script = script
        self._position = 0
        self.gone = False

    def next_step(self) -> Step:
        """The step for one request; the last one repeats."""
        step = self.script[self._position]
        if self._position < len(self.script) - 1:
            self._position += 1
        return step

    @property
    def is_being_aggregated(self) -> bool:
        """Whether MX fetches data just now; finishing is noticed here, when somebody looks."""
        if self._aggregation_ends is not None and datetime.now(UTC) >= self._aggregation_ends:
            # Whole seconds, as MX writes them; rounded up, since a time before the consent would deny what it led to.
            self.successfully_aggregated_at = self._aggregation_ends.replace(microsecond=0) + timedelta(seconds=1)
            self._aggregation_ends = None
        return self._aggregation_ends is not None

    def set_status(self, status: str) -> None:
        """Set ``connection_status``; an aggregation under way is given up."""
        self.connection_status = status
        self._aggregation_ends = None

    def connect(self, *, aggregation_takes: timedelta | None) -> None:
        """The customer is back; aggregation ends after so long, or never begins (``None``)."""
        self.set_status("CONNECTED")
        if aggregation_takes is not None:
            self._aggregation_ends = datetime.now(UTC) + aggregation_takes

    def fields(self) -> dict[str, object]:
        """The member as MX's answers have it, without a window."""
        busy = self.is_being_aggregated  # first: it may move the times below
        aggregated_at = self.successfully_aggregated_at.isoformat(timespec="seconds")
        return {
            "aggregated_at": aggregated_at,
            "connection_status": self.connection_status,
            "guid": self.guid,
            "identifier": None,
            "institution_code": self.record.institution_code,
            "is_being_aggregated": busy,
            "metadata": None,
            "name": self.record.institution_name,
            "status": "COMPLETED" if self.connection_status == "CONNECTED" else "HALTED",
            "successfully_aggregated_at": aggregated_at,
            "user_guid": self.record.user_guid,
        }


@dataclass(slots=True)
class Window:
    """One OAuth window: good for one decision."""

    member: Member
    skip_aggregation: bool
    #: Where the browser goes afterwards, with ``status`` and ``member_guid`` added.
    redirect_url: str | None
    minted_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    #: Whoever opens it first with GET uses it up, as at a bank that keeps a session from then on.
    used_by_opening: bool = False
    #: How long it is good for, in seconds; ``None``: as long as :attr:`Members.link_seconds` says.
    link_seconds: float | None = None
    #: What the page of the first GET carries, where opening uses it up.
    session: str | None = None
    decision: Literal["allowed", "denied"] | None = None

    def __repr__(self) -> str:
        return f"Window({self.member.guid})"


class LinkUsed(Exception):  # noqa: N818 - it is an answer, not a fault
    """A decision was already made in this window, or somebody else has opened it."""


class LinkExpired(Exception):  # noqa: N818 - as above
    """The window's time is over."""


class Members:
    """All simulated members and all windows minted for them."""

    def __init__(self, population: Iterable[SimulatedMember], *, aggregation_takes: timedelta) -> None:
        born = datetime.now(UTC)
        self._aggregation_takes = aggregation_takes
        #: Whether opening any link with GET uses it up.
        self.used_by_opening = False
        #: Seconds after which links expire; ``None`` for never.
        self.link_seconds: float | None = None
        self._windows: dict[str, Window] = {}
        self.by_guid = {record.member_guid: Member(record, born=born) for record in population}
        self.by_user: dict[str, list[Member]] = {}
        for member in self.by_guid.values():
            self.by_user.setdefault(member.record.user_guid, []).append(member)

    def find(self, user_guid: str, member_guid: str) -> Member | None:
        """The member, if this user has it."""
        member = self.by_guid.get(member_guid)
        return member if member is not None and member.record.user_guid == user_guid else None

    def move(self, member: Member, guid: str) -> Member:
        """Who answers after ``member`` moved to ``guid``: itself under that GUID, or the member that had it already."""
        other = self.by_guid.setdefault(guid, member)
        if other is member:
            member.guid = guid
        return other

    def mint(
        self,
        member: Member,
        *,
        skip_aggregation: bool,
        redirect_url: str | None,
        used_by_opening: bool = False,
        link_seconds: float | None = None,
    ) -> str:
        """A fresh one-time URI. Older ones stay good: whether MX ends them is not known."""
        state = secrets.token_hex(16)
        window = Window(
            member, skip_aggregation, redirect_url, used_by_opening=used_by_opening, link_seconds=link_seconds
        )
        self._windows[state] = member.newest_window = window
        return window_uri(member.record.institution_code, state)

    def window(self, state: str) -> Window | None:
        """The window that ``state`` belongs to."""
        return self._windows.get(state)

    def open(self, window: Window) -> str | None:
        """Look at the page, as a GET does; where that uses the link up, the session that may decide.

        Raises :class:`LinkUsed` and :class:`LinkExpired`.
        """
        self._check(window, None)
        if self.used_by_opening or window.used_by_opening:
            window.session = secrets.token_hex(16)
        return window.session

    def decide(self, window: Window, *, allow: bool, session: str | None = None) -> None:
        """Use the window up: allowed, the member is connected; denied, it stays as it was.

        ``session`` is what :meth:`open` gave. Raises :class:`LinkUsed` and :class:`LinkExpired`.
        """
        self._check(window, session)
        window.decision = "allowed" if allow else "denied"
        if allow:
            window.member.connect(aggregation_takes=None if window.skip_aggregation else self._aggregation_takes)

    def _check(self, window: Window, session: str | None) -> None:
        if window.decision is not None or window.session not in {None, session}:
            raise LinkUsed
        seconds = self.link_seconds if window.link_seconds is None else window.link_seconds
        if seconds is not None and datetime.now(UTC) >= window.minted_at + timedelta(seconds=seconds):
            raise LinkExpired
