"""For which users is MX asked, on which channel are they told, and why are the others not told now?

This is decided before MX is asked, so that no URI is minted for a user who may not be told now. Nothing here does I/O.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo

import msgspec

from worker.policy import notices
from worker.policy.cadence import earliest, why_later
from worker.policy.channel_choice import Nobody, Route, choose
from worker.policy.recovery import ending
from worker.policy.selection import Reason
from worker.policy.states import ReconnectionState
from worker.policy.zones import Zones, zones_of
from worker.settings import Settings
from worker.store.members import MUTED
from worker.store.reconnections.claims import ClaimedReconnection
from worker.store.sql.moments import NEVER
from worker.store.transactions.fetch_results import OTHER_MESSAGE_WAIT, FetchResult, UserResult
from worker.store.users import User

#: Reconnections of a user that fall due within this time go into the same message as those that are due now.
SOON = timedelta(days=1)
#: A user who cannot be reached, or who wants no messages about a member, is examined again after this.
UNREACHABLE_WAIT = timedelta(hours=1)

_S = ReconnectionState


class UserJob(msgspec.Struct, frozen=True, kw_only=True):
    """One user, and the reconnections for which MX is asked for a window."""

    user: User
    route: Route
    claims: tuple[ClaimedReconnection, ...]


class Wait(msgspec.Struct, frozen=True):
    """Why a user may not be told now, and until when."""

    code: str
    until: datetime


class Planner:
    """Plans, given the settings and the configured channels."""

    def __init__(self, settings: Settings, *, configured: Collection[str]) -> None:
        self._settings = settings
        self._configured = configured

    def plan(
        self, claims: Sequence[ClaimedReconnection], users: Mapping[str, User], now: datetime
    ) -> tuple[list[UserJob], list[UserResult]]:
        """The users for whom to ask MX, and the results of the claims about which MX is not asked."""
        by_user: dict[str, list[ClaimedReconnection]] = {}
        for claim in claims:
            by_user.setdefault(claim.user_guid, []).append(claim)
        jobs: list[UserJob] = []
        settled: list[UserResult] = []
        for guid, user_claims in by_user.items():
            user = users[guid]
            unasked: list[FetchResult] = []
            open_claims = []
            for claim in user_claims:
                if (end := self.end_of(claim, now)) is not None:
                    unasked.append(end)
                elif claim.muted:
                    unasked.append(defer(claim, now + UNREACHABLE_WAIT, MUTED))
                else:
                    open_claims.append(claim)
            route = self.route_now(user, now)
            if isinstance(route, Wait):
                unasked += [defer(claim, route.until, route.code) for claim in open_claims]
            elif open_claims:
                message_claims, deferred_claims = broken_first(open_claims, now)
                if message_claims:
                    jobs.append(UserJob(user=user, route=route, claims=tuple(message_claims)))
                unasked += [defer(claim, at, outcome) for claim, at, outcome in deferred_claims]
            if unasked:
                settled.append(UserResult(unasked))
        return jobs, settled

    def end_of(self, claim: ClaimedReconnection, now: datetime) -> FetchResult | None:
        """The end of a reconnection by the application's data, or after its last reminder. ``None``: it stays open, and MX is asked."""
        end = ending(
            claim.facts,
            reason=claim.reason,
            broken_since=claim.broken_since,
            is_of_other_user=claim.is_of_other_user,
            statuses=self._settings.reconnect_statuses,
            notice_days=self._settings.expiry_notice_days,
            now=now,
        )
        if end is not None:
            return FetchResult(claim=claim, state=end[0], outcome=end[1])
        if claim.reason != Reason.EXPIRES_SOON and claim.step - claim.base_step >= len(self._settings.reminder_days):
            return FetchResult(claim=claim, state=_S.EXHAUSTED, outcome="reminders_exhausted", reopen_at=NEVER)
        return None

    def route_to(self, user: User) -> Route | Nobody:
        """The channel and address of a message to this user, whenever it is sent."""
        failed, tried = user.failed_channels, user.failed_devices
        route = choose(user.contact, configured=self._configured, failed=failed, tried=tried)
        if isinstance(route, Nobody) and (failed or tried):
            route = choose(user.contact, configured=self._configured)  # better the channel that failed than none
        return route

    def route_now(self, user: User, now: datetime) -> Route | Wait:
        """The route to the user; or why they may not be told now, and until when. `explain` uses it too."""
        if user.message_under_way:
            return Wait("other_notification_live", now + OTHER_MESSAGE_WAIT)
        route = self.route_to(user)
        if isinstance(route, Nobody):
            return Wait(route.code, now + UNREACHABLE_WAIT)
        zones = zones_of_user(user, self._settings).all
        quiet = self._settings.quiet_hours
        moment = earliest(now, zones=zones, quiet=quiet, caps=self._settings.message_caps, sent=user.sent)
        if moment > now:
            return Wait(why_later(now, zones=zones, quiet=quiet), moment)
        return route


def zones_of_user(user: User, settings: Settings) -> Zones:
    """The zones in all of which it must be day when a user is written to."""
    return zones_of(user.timezone, user.locale, default=settings.time_zone, fallback=settings.fallback_time_zones)


def zone_of_message(user: User, settings: Settings) -> tzinfo:
    """The zone in which a message gives dates: the user's, or the likeliest."""
    return zones_of_user(user, settings).all[0]


def broken_first(
    claims: Sequence[ClaimedReconnection], now: datetime
) -> tuple[list[ClaimedReconnection], list[tuple[ClaimedReconnection, datetime, str]]]:
    """The claims that a user is told about now, and those that wait: until when, and why.

    A message says that something stopped, or that it will stop, never both. A notice that is not due joins the message only if its day
    is at most 12 hours away; then one notice serves both days.
    """
    broken = [claim for claim in claims if claim.reason != Reason.EXPIRES_SOON]
    ahead = [claim for claim in claims if claim.reason == Reason.EXPIRES_SOON]
    if broken:
        return broken, [(claim, max(claim.next_attempt_at, now + SOON), "broken_member_first") for claim in ahead]
    early = [claim for claim in ahead if claim.next_attempt_at > now + notices.NOTICES_APART]
    joining = [claim for claim in ahead if claim not in early]
    return joining, [(claim, claim.next_attempt_at, "scheduled_notice") for claim in early]


def defer(claim: ClaimedReconnection, at: datetime, outcome: str) -> FetchResult:
    """Due again at ``at``; no attempt is counted."""
    return FetchResult(claim=claim, state=_S.DUE, outcome=outcome, attempts=claim.attempts, next_attempt_at=at)
