"""The state of the simulated members: status, position in the script, windows, and the consent given in them."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from worker.sandbox.oauth_uris import window_uri
from worker.sandbox.population import SimulatedMember, SimulatedUser
from worker.sandbox.script import Step
from worker.sandbox.webhooks import Webhooks

#: How long ago members were last aggregated: before every simulated break. So a client that takes any
#: ``successfully_aggregated_at`` for "the customer is back" fails its tests.
_LAST_AGGREGATED = timedelta(days=60)


class Member:
    """The present state of a simulated member."""

    __slots__ = (
        "_aggregation_ends", "_position", "connection_status", "gone", "guid", "key", "newest_window", "record",
        "script", "successfully_aggregated_at",
    )  # fmt: skip

    def __init__(self, record: SimulatedMember, *, born: datetime) -> None:
        self.record = record
        #: Its first GUID. The ledger uses it even after the member has moved to another GUID.
        self.key = record.member_guid
        self.guid = record.member_guid
        self.connection_status = record.connection_status
        self.successfully_aggregated_at = born - _LAST_AGGREGATED
        self.newest_window: Window | None = None
        self._aggregation_ends: datetime | None = None
        self.script: tuple[Step, ...]
        #: MX answers 404: the last step was ``gone``.
        self.gone: bool
        self.set_script(record.script)

    def set_script(self, script: tuple[Step, ...]) -> None:
        """Start this script at its first step."""
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
        """Whether MX aggregates now. The end of an aggregation takes effect when this is read."""
        if self._aggregation_ends is not None and datetime.now(UTC) >= self._aggregation_ends:
            # Whole seconds, as MX writes them. Rounded up, because a time before the consent would not count as being back.
            self.successfully_aggregated_at = self._aggregation_ends.replace(microsecond=0) + timedelta(seconds=1)
            self._aggregation_ends = None
        return self._aggregation_ends is not None

    def set_status(self, status: str) -> None:
        """Set ``connection_status`` and cancel a running aggregation."""
        self.connection_status = status
        self._aggregation_ends = None

    def connect(self, *, aggregation_takes: timedelta | None) -> None:
        """The customer is back. Aggregation ends after ``aggregation_takes``; ``None``: it never starts."""
        self.set_status("CONNECTED")
        if aggregation_takes is not None:
            self._aggregation_ends = datetime.now(UTC) + aggregation_takes


@dataclass(slots=True)
class Window:
    """One OAuth window: good for one decision."""

    member: Member
    skip_aggregation: bool
    #: Where the browser is sent at the end, with ``status`` and ``member_guid`` added.
    redirect_url: str | None
    minted_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    #: The first GET uses it up, as at a bank that starts a session with it.
    used_by_opening: bool = False
    #: Seconds until it expires; ``None``: :attr:`Members.link_seconds`.
    link_seconds: float | None = None
    #: The session id in the page of the first GET, if that GET uses the window up.
    session: str | None = None
    decision: Literal["allowed", "denied"] | None = None

    def __repr__(self) -> str:
        return f"Window({self.member.guid})"


class LinkUsed(Exception):  # noqa: N818 - it is an answer, not a fault
    """The customer has already decided in this window, or another GET has used it up."""


class LinkExpired(Exception):  # noqa: N818 - as above
    """The window has expired."""


class Members:
    """All simulated members and all windows minted for them."""

    def __init__(self, population: Iterable[SimulatedMember], *, aggregation_takes: timedelta) -> None:
        born = datetime.now(UTC)
        self._aggregation_takes = aggregation_takes
        #: Sends webhooks about changes, if a target is set.
        self.webhooks = Webhooks()
        #: Whether opening any link with GET uses it up.
        self.used_by_opening = False
        #: Seconds after which links expire; ``None`` for never.
        self.link_seconds: float | None = None
        self._windows: dict[str, Window] = {}
        self.by_guid = {record.member_guid: Member(record, born=born) for record in population}
        self.by_user: dict[str, list[Member]] = {}
        self.users: dict[str, SimulatedUser] = {}
        #: GUIDs by own ids.
        self._user_ids: dict[str, str] = {}
        self._member_ids: dict[tuple[str, str], Member] = {}
        for member in self.by_guid.values():
            self._register(member)

    def _register(self, member: Member) -> None:
        record = member.record
        guid = record.user_guid
        self.by_user.setdefault(guid, []).append(member)
        known = self.users.get(guid) or SimulatedUser(guid=guid)
        self.users[guid] = SimulatedUser(
            guid=guid,
            id=known.id or record.user_id,
            email=known.email or record.email,
            is_disabled=known.is_disabled or record.user_is_disabled,
        )
        if record.user_id is not None:
            self._user_ids[record.user_id] = guid
        if record.member_id is not None:
            self._member_ids[guid, record.member_id] = member

    def find(self, user: str, member: str, *, own_ids: bool = False) -> Member | None:
        """The member, if this user has it. ``own_ids``: both may be own ids."""
        user_guid = self.user_guid(user, own_ids=own_ids)
        found = self.by_guid.get(member) or (self._member_ids.get((user_guid, member)) if own_ids else None)
        return found if found is not None and found.record.user_guid == user_guid else None

    def user_guid(self, user: str, *, own_ids: bool) -> str:
        """The GUID of the user that a path names."""
        return self._user_ids.get(user, user) if own_ids else user

    def knows(self, guid: str) -> bool:
        """Whether a member or a user has this GUID."""
        return guid in self.by_guid or guid in self.users

    def delete(self, guid: str) -> None:
        """Delete a member, or a user with all members, as their client does at MX."""
        if guid in self.by_guid:
            self._delete(self.by_guid[guid])
            return
        for member in self.by_user.pop(guid, ()):
            self._delete(member)
        self.users.pop(guid, None)

    def _delete(self, member: Member) -> None:
        member.gone = True
        self.webhooks.deleted(member)

    def set_status(self, member: Member, status: str) -> None:
        """Set ``connection_status``, cancel a running aggregation, and send webhooks."""
        member.set_status(status)
        self.webhooks.status_changed(member)

    def move(self, member: Member, guid: str) -> Member:
        """Move ``member`` to ``guid``; returns it, or the member that had this GUID before."""
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
        """A new one-time URI. Older ones stay valid, because it is not known whether MX invalidates them."""
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
        """Open the page, as a GET does. If that uses the link up, returns the session id with which to decide.

        Raises :class:`LinkUsed` and :class:`LinkExpired`.
        """
        self.check(window, None)
        if self.used_by_opening or window.used_by_opening:
            window.session = secrets.token_hex(16)
        return window.session

    def decide(self, window: Window, *, allow: bool, session: str | None = None) -> None:
        """Allow, which connects the member, or deny, which does not. Either uses the window up.

        ``session`` is the result of :meth:`open`. Raises :class:`LinkUsed` and :class:`LinkExpired`.
        """
        self.check(window, session)
        window.decision = "allowed" if allow else "denied"
        if allow:
            takes = None if window.skip_aggregation else self._aggregation_takes
            window.member.connect(aggregation_takes=takes)
            self.webhooks.status_changed(window.member)
            if takes is not None:
                self.webhooks.aggregated(window.member, after=takes.total_seconds())

    def age(self, seconds: float) -> None:
        """Make every link older by these seconds."""
        for window in self._windows.values():
            window.minted_at -= timedelta(seconds=seconds)

    def check(self, window: Window, session: str | None) -> None:
        """Raise :class:`LinkUsed` or :class:`LinkExpired` unless this ``session`` can decide in the window."""
        if window.decision is not None or window.session not in {None, session}:
            raise LinkUsed
        seconds = self.link_seconds if window.link_seconds is None else window.link_seconds
        if seconds is not None and datetime.now(UTC) >= window.minted_at + timedelta(seconds=seconds):
            raise LinkExpired
