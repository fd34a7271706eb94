"""What one member waits for now, and what happens next: the answer of `reconnect explain`.

It uses the code that decides: the planner says whether and how the user can be told, the sweep's rule what would be opened or ended,
the pauses what is paused, and ``SWEEP_SCHEDULE`` when the next sweep is.
"""

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from worker.channels import registry
from worker.policy import notices
from worker.policy.cadence import CadencePosition
from worker.policy.channel_choice import EMAIL, MESSENGER, Nobody, Route
from worker.policy.recovery import USER_CHANGED
from worker.policy.selection import MemberFacts, Reason
from worker.policy.states import NotificationState, ReconnectionState
from worker.schedules import slots_after
from worker.settings import Settings
from worker.stages.explain_words import (
    MUTED_SENTENCE,
    RECORDED,
    WHY_UNREACHABLE,
    Hold,
    Outlook,
    grace,
    kind_of_message,
    minute,
)
from worker.stages.freshness import TRUSTED_FOR
from worker.stages.planning import Planner, Wait
from worker.store.members import MUTED
from worker.store.pauses import EVERYTHING, MX, Pause, channel_scope, delivery_scope, outage_scope
from worker.store.reconnections.claims import ClaimedReconnection
from worker.store.users import User

_R, _N = ReconnectionState, NotificationState


class Explainer:
    """Explains members, given the settings, the configured channels and the pauses."""

    def __init__(
        self,
        settings: Settings,
        *,
        configured: Collection[str],
        pauses: Sequence[Pause],
        overdue: str | None = None,
        now: datetime,
    ) -> None:
        self._settings = settings
        self._configured = configured
        self._planner = Planner(settings, configured=configured)
        self._pauses = pauses
        self._overdue = overdue
        self._now = now
        #: Whether the user of the member in question wants no messages about it.
        self._muted = False

    def contact(self, user: User, *, refused_why: str | None = None) -> str:
        """How the user can be told, regardless of the hour. ``refused_why``: the reason why the address counts as refused."""
        route = self._planner.route_to(user)
        if isinstance(route, Route):
            text = f"is told by {route.channel}"
            if route.channel in user.failed_channels:
                text += ", which refused the last message"
        else:
            text = f"cannot be told: {self._why_unreachable(route.code, user)}"
        contact = user.contact
        if contact.email and contact.email == contact.refused_email:
            why = f" ({refused_why})" if refused_why else ""
            text += f"; the email address was refused for good{why}" if isinstance(route, Route) else why
        if contact.messenger_refused and MESSENGER in self._configured and not contact.opted_out:
            text += "; your messenger has no address of theirs, and is asked again after 30 days (users.messenger_refused_at)"
        return text

    def _why_unreachable(self, code: str, user: User) -> str:
        if code == "opted_out" and not user.contact.opted_out:
            code = "chose_none"
        kinds = [*([EMAIL] if user.contact.email else []), *(kind for kind, _ in user.contact.devices)]
        if user.contact.preferred == MESSENGER:
            kinds.append(MESSENGER)
        switches = registry.switches()
        settings = ", ".join(dict.fromkeys(switches[kind] for kind in kinds if kind in switches))
        return WHY_UNREACHABLE.get(code, code).format(user=user.user_guid, settings=f"see {settings}")

    def outlook(
        self,
        member: Mapping[str, Any] | None,
        reconnection: Mapping[str, Any] | None,
        user: User,
        *,
        would_open: str | None,
    ) -> Outlook:
        """What this member waits for and what happens next. ``reconnection``: its newest; ``would_open``: why the next sweep opens another."""
        self._muted = member is not None and bool(member.get("muted"))
        outlook = self._outlook(member, reconnection, user, would_open)
        goes_on = would_open is not None or (reconnection is not None and reconnection["closed_at"] is None)
        if self._overdue is None or not goes_on:
            return outlook
        overdue = Hold(code="sweeps_overdue", says=self._overdue)
        return msgspec.structs.replace(outlook, holds=(overdue, *outlook.holds))

    def _outlook(
        self,
        member: Mapping[str, Any] | None,
        reconnection: Mapping[str, Any] | None,
        user: User,
        would_open: str | None,
    ) -> Outlook:
        if reconnection is None or reconnection["closed_at"] is not None:
            return self._nothing_open(member, reconnection, user, would_open)
        match reconnection["state"]:
            case _R.LEASED:
                return self._leased(reconnection)
            case _R.READY:
                return self._ready(reconnection, user)
            case _R.NOTIFIED:
                return self._notified(member, reconnection, user)
        return self._due(member, reconnection, user)

    # The states

    def _nothing_open(
        self,
        member: Mapping[str, Any] | None,
        reconnection: Mapping[str, Any] | None,
        user: User,
        would_open: str | None,
    ) -> Outlook:
        """The member has no open reconnection."""
        if member is not None and would_open is not None:
            sweep = self._sweep_after(self._now)
            since = member["token_revoked_at"] or member["token_expires_at"]
            since = min(since, sweep) if since and would_open in {Reason.REVOKED, Reason.EXPIRED} else sweep
            notify_from = sweep if would_open == Reason.EXPIRES_SOON else since + self._settings.notify_after
            holds = [self._until_sweep()]
            if notify_from > sweep:
                holds.append(grace(notify_from))
            holds += self._fetch_pauses(member["institution_code"])
            then = self._telling(user, max(sweep, notify_from), holds, "a window is fetched")
            return Outlook(
                holds=tuple(holds), next=f"the next sweep opens a reconnection, at about {minute(sweep)}; {then}"
            )
        if reconnection is None:
            return Outlook(next="nothing, unless it breaks")
        if reconnection["state"] in {_R.RECONNECTED, _R.CANCELLED}:
            return Outlook(next="nothing, unless it breaks again")
        if reconnection["state"] == _R.GONE:
            asking = (
                f"; `reconnect sync --member {reconnection['member_guid']}` asks MX"
                if reconnection["reopen_at"]
                else ""
            )
            return Outlook(next=f"nothing, unless it comes back and breaks again{asking}")
        if reconnection["state"] == _R.UNSUPPORTED:
            return Outlook(next=f"asked again after {minute(reconnection['reopen_at'])}, if it is broken still")
        return Outlook(next=f"nothing, until somebody looks and runs `reconnect retry {reconnection['member_guid']}`")

    def _due(self, member: Mapping[str, Any] | None, reconnection: Mapping[str, Any], user: User) -> Outlook:
        end = self._planner.end_of(_claim(member, reconnection), self._now)
        if end is not None:
            return Outlook(
                next=f"the next sweep ends it as {end.state} ({end.outcome}), at about {minute(self._sweep())}"
            )
        at = max(reconnection["next_attempt_at"] or self._now, self._now)
        holds = [*self._recorded(reconnection)] if at > self._now else [self._until_sweep()]
        checks = self._checks(reconnection, holds)
        holds += self._fetch_pauses(reconnection["institution_code"])
        then = self._telling(user, at, holds, "a window is fetched")
        return Outlook(
            holds=tuple(dict.fromkeys(holds)), next="; ".join([*checks, then]) + self._notice_ends(reconnection)
        )

    def _leased(self, reconnection: Mapping[str, Any]) -> Outlook:
        worker_id, until = reconnection["lease_worker"], reconnection["lease_expires_at"]
        if until is not None and until <= self._now:
            hold = Hold(code="lease_lost", says=f"its worker {worker_id} is gone; its lease ran out {minute(until)}")
            return Outlook(
                holds=(hold, self._until_sweep()),
                next=f"the next sweep takes it back, at about {minute(self._sweep())}",
            )
        hold = Hold(
            code="leased", says=f"{worker_id} is fetching a window; its lease runs out {minute(until)}", until=until
        )
        return Outlook(holds=(hold,), next="its window is stored, and a message follows")

    def _ready(self, reconnection: Mapping[str, Any], user: User) -> Outlook:
        """A message has its window, and may wait."""
        message = next(
            (
                notification
                for notification in reversed(reconnection["notifications"])
                if notification["state"] in {_N.PENDING, _N.SENDING}
            ),
            None,
        )
        if message is None:
            return Outlook(next="its message is over; the worker that ended it says how it goes on")
        channel = message["channel"]
        if message["state"] == _N.SENDING:
            worker_id, until = message["lease_worker"], message["lease_expires_at"]
            if until is not None and until <= self._now:
                dispatch_state = (
                    "may have left: it becomes unknown"
                    if message["dispatched_at"]
                    else "has not left: it is sent again"
                )
                hold = Hold(code="lease_lost", says=f"its worker {worker_id} is gone, and the message {dispatch_state}")
                return Outlook(
                    holds=(hold, self._until_sweep()), next=f"the next sweep, at about {minute(self._sweep())}"
                )
            return Outlook(
                holds=(
                    Hold(
                        code="sending",
                        says=f"{worker_id} is sending it; its lease runs out {minute(until)}",
                        until=until,
                    ),
                ),
                next=f"its message by {channel} is under way",
            )
        at = max(message["next_attempt_at"] or self._now, self._now)
        holds = []
        if message["outcome"]:
            tries = (
                f" (attempt {message['attempts']} of {self._settings.max_attempts} failed)"
                if message["attempts"]
                else ""
            )
            why = RECORDED.get(message["outcome"], f"the last try ended with {message['outcome']}{tries}")
            holds.append(
                Hold(code=message["outcome"], says=f"its message waits: {why}", until=message["next_attempt_at"])
            )
        if at <= self._now:
            holds.append(self._until_sweep())
        # The planner plans a new message, and would let it wait for this one.
        user_without_message = msgspec.structs.replace(user, message_under_way=False)
        last_fetched_at = max((window["fetched_at"] for window in reconnection["windows"]), default=self._now)
        if self._now - last_fetched_at > TRUSTED_FOR:
            holds += self._paused({MX}, "MX cannot be asked whether the customer is back")
        then = self._telling(user_without_message, at, holds, "its message leaves", channel=channel)
        return Outlook(holds=tuple(holds), next=then)

    def _notified(self, member: Mapping[str, Any] | None, reconnection: Mapping[str, Any], user: User) -> Outlook:
        ahead = reconnection["reason"] == Reason.EXPIRES_SOON
        at = reconnection["next_attempt_at"]
        position = CadencePosition(reconnection["step"], reconnection["base_step"])
        facts = MemberFacts(**{name: member[name] for name in MemberFacts.__struct_fields__}) if member else None
        end = self._planner.end_of(_claim(member, reconnection), self._now)
        ending_outcomes = {USER_CHANGED} if ahead else {USER_CHANGED, "no_longer_broken"}
        if facts is None or (end is not None and end.outcome in ending_outcomes):
            return Outlook(next=f"the next sweep ends it, at about {minute(self._sweep())}")
        holds: list[Hold] = []
        parts = self._checks(reconnection, holds)
        if at is None:
            parts.append("no further notice")
        elif not ahead and position.reminder >= len(self._settings.reminder_days):
            parts.append(f"it is given up at about {minute(self._sweep_after(at))}, after the last reminder")
        else:
            what = f"{kind_of_message(position, ahead=ahead)} is fetched{' again' if position.reminder == 0 else ''}"
            holds += self._fetch_pauses(reconnection["institution_code"])
            parts.append(self._telling(user, max(at, self._now), holds, what))
        return Outlook(holds=tuple(dict.fromkeys(holds)), next="; ".join(parts) + self._notice_ends(reconnection))

    # Shared by the states

    def _checks(self, reconnection: Mapping[str, Any], holds: list[Hold]) -> list[str]:
        """When the member is checked next, if at all; adds pauses that prevent it to ``holds``."""
        check = reconnection["next_check_at"]
        if check is None or reconnection["reason"] == Reason.EXPIRES_SOON:
            return []
        holds += self._paused({EVERYTHING, MX}, "nobody asks MX who is back")
        return [f"MX is asked whether the customer is back at about {minute(self._sweep_after(check))}"]

    def _telling(self, user: User, at: datetime, holds: list[Hold], what: str, *, channel: str | None = None) -> str:
        """A sentence that says when ``what`` happens: from ``at`` on, once the user may be told. Adds what prevents it to ``holds``."""
        if self._muted:
            holds[:] = [hold for hold in holds if hold.code != MUTED]
            holds.append(Hold(code=MUTED, says=MUTED_SENTENCE))
            return f"nothing, while that holds; looked at again at about {minute(self._sweep_after(at))}"
        route_now, route = self._planner.route_now(user, at), self._planner.route_to(user)
        if isinstance(route, Nobody):
            # The recorded hold has fewer details.
            holds[:] = [hold for hold in holds if hold.code not in WHY_UNREACHABLE]
            holds.append(Hold(code=route.code, says=self._why_unreachable(route.code, user)))
            return f"nothing, while that holds; looked at again at about {minute(self._sweep_after(at))}"
        if isinstance(route_now, Wait):
            at = route_now.until
            holds.append(Hold(code=route_now.code, says=f"{RECORDED[route_now.code]}, until {minute(at)}", until=at))
        by = channel or route.channel
        holds += self._paused({channel_scope(by), delivery_scope(by)}, f"nothing leaves by {by}")
        if channel is not None:
            holds += self._paused({EVERYTHING}, "nothing leaves")
        stopped = any(hold.code.startswith("paused:") for hold in holds)
        then = (
            f"{what} at about {minute(self._sweep_after(at))}, to be told by {by}"
            if channel is None
            else (f"{what} by {by} at about {minute(self._sweep_after(at))}")
        )
        return f"{then}, once nothing of it is paused" if stopped else then

    def _recorded(self, reconnection: Mapping[str, Any]) -> Iterator[Hold]:
        """Why a due reconnection waits until ``next_attempt_at``."""
        at, outcome, attempts = reconnection["next_attempt_at"], reconnection["outcome"], reconnection["attempts"]
        if attempts:
            says = f"attempt {attempts} of {self._settings.max_attempts} failed ({outcome}); the next at {minute(at)}"
            yield Hold(code=outcome or "retry", says=says, until=at)
        elif not outcome:
            yield grace(at)
        elif outcome in WHY_UNREACHABLE:
            yield Hold(
                code=outcome, says=f"nobody could be told ({outcome}); looked at again at {minute(at)}", until=at
            )
        else:
            why = RECORDED.get(outcome, f"the last answer was {outcome}")
            yield Hold(code=outcome, says=f"{why}, until {minute(at)}", until=at)

    def _fetch_pauses(self, institution: str | None) -> list[Hold]:
        scopes = {EVERYTHING, MX, f"institution:{institution}", outage_scope(str(institution))}
        return self._paused(scopes, "no window is fetched")

    def _paused(self, scopes: Collection[str], effect: str) -> list[Hold]:
        """A hold for each pause with one of these scopes."""
        return [
            Hold(
                code=f"paused:{pause.scope}",
                says=f"{pause.scope} is paused since {minute(pause.since)} ({pause.reason}), so {effect}"
                + (f"; `reconnect resume {shlex.quote(pause.scope)}`" if pause.by_hand else ""),
                until=pause.probe_at,
            )
            for pause in self._pauses
            if pause.scope in scopes
        ]

    def _until_sweep(self) -> Hold:
        sweep = self._sweep()
        says = f"it waits for the next sweep, due at about {minute(sweep)}, unless a worker takes it before (`reconnect doctor` says whether one runs)"
        return Hold(code="sweep_interval", says=says, until=sweep)

    def _sweep(self) -> datetime:
        return self._sweep_after(self._now)

    def _sweep_after(self, moment: datetime) -> datetime:
        """The first sweep that is at or after this moment and after now. Work that falls due starts then at the latest."""
        after = max(moment - timedelta(microseconds=1), self._now)
        return next(iter(slots_after(self._settings.sweep_schedule, after)), after)

    def _notice_ends(self, reconnection: Mapping[str, Any]) -> str:
        if reconnection["reason"] != Reason.EXPIRES_SOON:
            return ""
        drift = f", moved by more than {notices.DRIFT // timedelta(minutes=1)} min,"
        return (
            f"; its expiry {minute(reconnection['broken_since'])}, or a later token_expires_at{drift} ends this notice"
        )


def _claim(member: Mapping[str, Any] | None, reconnection: Mapping[str, Any]) -> ClaimedReconnection:
    """The reconnection as a worker that claims it would see it."""
    facts = (
        MemberFacts(**{name: member[name] for name in MemberFacts.__struct_fields__}) if member is not None else None
    )
    columns = {name: reconnection[name] for name in ClaimedReconnection.__struct_fields__ if name in reconnection}
    return ClaimedReconnection(
        **columns,
        asked_guid=reconnection["moved_to"] or reconnection["member_guid"],
        facts=facts,
        is_of_other_user=member is not None and member["user_guid"] != reconnection["user_guid"],
    )
