"""The demonstration's members: every kind of member, what MX answers for each, and how each must end.

`reconnect sandbox` without a population uses the same members.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid5

_NAMESPACE = UUID("7c6f361b-e582-45b6-80c0-358f12466b4b")

BANKS = (
    ("northwind", "Northwind Bank"),
    ("harbor", "Harbor Savings"),
    ("alder", "Alder & Sons"),
    ("prairie", "Prairie Credit Union"),
    ("cobalt", "Cobalt Bank"),
)


#: The hour on the clocks of sleeping users, one to two hours before quiet hours end, and of all other users.
NIGHT, NOON = 6, 11

#: Messages to a user who never answers: on days 0, 3, 7, 14 and 30.
_WHOLE_CADENCE = 5


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of member: its data, MX's answers, and the expected results."""

    name: str
    #: Its share of all members, relative to the other kinds.
    weight: int
    #: The most users of this kind; ``None``: no limit.
    at_most: int | None = None
    #: The state of their reconnection on the first day, and forty days later; ``None``: none may be opened.
    at_first: str | None = "notified"
    ends: str | None = "exhausted"
    #: Messages that each user must get in forty days, and the channel.
    messages: int = _WHOLE_CADENCE
    by: Literal["mail", "push"] = "mail"
    #: The users open the link in this message (1 is the first), and allow.
    clicks: int | None = None
    #: They click shortly before the next message, not at once.
    late: bool = False
    #: They double-click.
    twice: bool = False
    #: MX answers 503 when they press the button for the first time; they try again in a moment.
    mx_down: bool = False
    #: MX's answers, request by request (worker/sandbox/script.py).
    script: tuple[str, ...] = ("ok",)
    #: The application's data about the member; times are in days from now.
    facts: Mapping[str, Any] = field(default_factory=lambda: {"connection_status": "DENIED"})
    #: Broken banks of each user.
    banks_each: int = 1
    has_email: bool = True
    #: The users' devices, the oldest first; ``gone``: the app was removed.
    devices: tuple[str, ...] = ()
    #: The wished channel, as in ``users.channel``.
    channel: str = ""
    #: The users are in quiet hours, which end soon.
    asleep: bool = False

    @property
    def hour(self) -> int:
        """The hour on the users' clocks at the start of the demonstration."""
        return NIGHT if self.asleep else NOON


def _no_message(state: str, **fields: Any) -> dict[str, Any]:
    """Fields of a kind that gets no message and keeps the state of the first day."""
    return {"at_first": state, "ends": state, "messages": 0, **fields}


KINDS = (
    Kind(name="status DENIED", weight=4),
    Kind(name="status IMPAIRED", weight=2, facts={"connection_status": "IMPAIRED"}),
    Kind(name="token revoked", weight=2, facts={"token_revoked_at": -2}),
    Kind(name="token expired", weight=2, facts={"token_expires_at": -1}),
    Kind(name="error code 2004", weight=2, facts={"error_code": 2004}),
    Kind(name="clicks the link, allows", weight=4, ends="reconnected", messages=1, clicks=1),
    Kind(name="clicks the reminder's link", weight=2, ends="reconnected", messages=2, clicks=2),
    Kind(name="clicks after three days", weight=2, ends="reconnected", messages=1, clicks=1, late=True),
    Kind(name="double-clicks", weight=2, ends="reconnected", messages=1, clicks=1, twice=True),
    Kind(
        name="clicks while MX is down",
        weight=1,
        at_most=5,  # few, so that they are not taken for an outage of MX
        ends="reconnected",
        messages=1,
        clicks=1,
        late=True,  # earlier, a fresh stored window would hide the outage
        mx_down=True,
    ),
    Kind(name="three banks, one message", weight=3, banks_each=3),
    Kind(name="three banks, clicks all", weight=1, banks_each=3, ends="reconnected", messages=1, clicks=1),
    Kind(name="Android, no mail", weight=2, has_email=False, by="push", devices=("fcm",)),
    Kind(name="iPhone, no mail", weight=2, has_email=False, by="push", devices=("apns",)),
    Kind(name="browser, no mail", weight=2, has_email=False, by="push", devices=("webpush",)),
    Kind(
        name="Android, clicks the push",
        weight=1,
        has_email=False,
        by="push",
        devices=("fcm",),
        ends="reconnected",
        messages=1,
        clicks=1,
    ),
    Kind(name="three banks, one push", weight=1, has_email=False, by="push", devices=("apns",), banks_each=3),
    Kind(name="mail and phone, no wish", weight=1, devices=("fcm",)),
    Kind(name="mail and phone, wants push", weight=2, by="push", devices=("apns",), channel="push"),
    Kind(name="old phone gone, new one", weight=1, by="push", devices=("fcm gone", "fcm"), channel="push"),
    Kind(name="iPhone gone, mail instead", weight=1, devices=("apns gone",), channel="push"),
    Kind(name="browser gone, mail instead", weight=1, devices=("webpush gone",), channel="push"),
    Kind(name="in quiet hours", weight=2, at_first="due", asleep=True),
    Kind(
        name="in quiet hours, iPhone",
        weight=1,
        at_first="due",
        asleep=True,
        by="push",
        devices=("apns",),
        channel="push",
    ),
    Kind(name="opted out", weight=1, channel="none", devices=("fcm",), **_no_message("due")),
    Kind(name="neither mail nor phone", weight=1, has_email=False, **_no_message("due")),
    Kind(name="MX: 429, then fine", weight=2, script=("429:1", "ok")),
    Kind(name="MX: 500, then fine", weight=2, script=("500", "ok")),
    Kind(name="MX: 503, then fine", weight=1, script=("503", "ok")),
    Kind(name="MX: slow, 3 s", weight=1, script=("slow:3", "ok")),
    Kind(name="MX: reset, then fine", weight=2, script=("reset", "ok")),
    Kind(name="MX: truncated, then fine", weight=1, script=("truncated", "ok")),
    Kind(name="MX: HTML, then fine", weight=1, script=("html", "ok")),
    Kind(name="MX: null URI, then fine", weight=1, script=("null_uri", "ok")),
    Kind(name="MX: moved to another GUID", weight=1, script=("moved",)),
    # Few, so that their failures are never taken for an outage of MX, which would pause all work.
    Kind(name="MX: 500 for good", weight=1, at_most=10, script=("500",), at_first="due", messages=0),
    Kind(name="MX: null URI for good", weight=1, script=("null_uri",), at_first="due", messages=0),
    Kind(name="MX: hostile URI", weight=1, script=("hostile:userinfo",), **_no_message("quarantined")),
    Kind(name="MX: cannot use OAuth", weight=1, script=("unsupported",), **_no_message("unsupported")),
    Kind(name="MX: knows it no more", weight=1, script=("gone",), **_no_message("gone")),
    Kind(name="back already", weight=1, script=("connected",), **_no_message("reconnected")),
    Kind(
        name="healthy",
        weight=3,
        at_first=None,
        ends=None,
        messages=0,
        facts={"connection_status": "CONNECTED", "token_expires_at": 90},
    ),
    Kind(
        name="without OAuth",
        weight=1,
        at_first=None,
        ends=None,
        messages=0,
        facts={"connection_status": "DENIED", "is_oauth": False},
    ),
)


@dataclass(frozen=True, kw_only=True)
class DemoMember:
    """One member of the demonstration, and its user."""

    kind: Kind
    user_guid: str
    member_guid: str
    email: str | None
    institution_code: str
    institution_name: str
    #: (kind, address) of the user's devices, known once they are registered.
    devices: tuple[tuple[str, str], ...] = ()

    def population_row(self) -> dict[str, Any]:
        """Its line in the sandbox's population file."""
        script = [f"moved:{_guid('MBR', self.member_guid)}" if step == "moved" else step for step in self.kind.script]
        return {
            "user_guid": self.user_guid,
            "member_guid": self.member_guid,
            "institution_code": self.institution_code,
            "institution_name": self.institution_name,
            "connection_status": self.kind.facts.get("connection_status", "DENIED"),
            "script": script,
        }

    def import_rows(self, now: datetime) -> list[dict[str, Any]]:
        """Its rows for `reconnect import`, one for each device. Days in the kind's facts become moments."""
        facts = {
            name: (now + timedelta(days=value)).isoformat() if name.endswith("_at") else value
            for name, value in self.kind.facts.items()
        }
        row = {
            "user_guid": self.user_guid,
            "member_guid": self.member_guid,
            "institution_code": self.institution_code,
            "institution_name": self.institution_name,
            "connection_status": facts.get("connection_status", ""),
            "is_oauth": str(facts.get("is_oauth", "")).lower(),
            "error_code": facts.get("error_code", ""),
            "token_expires_at": facts.get("token_expires_at", ""),
            "token_revoked_at": facts.get("token_revoked_at", ""),
            "email": self.email or "",
            "channel": self.kind.channel,
            "timezone": zone_where_it_is(self.kind.hour, now),
        }
        devices = self.devices or (("", ""),)
        return [row | {"device_kind": kind, "device_address": address} for kind, address in devices]


def zone_where_it_is(hour: int, now: datetime) -> str:
    """A time zone without daylight saving in which the hour is now ``hour``."""
    hour %= 24
    ahead = (hour - now.hour + 11) % 24 - 11  # UTC-11 to UTC+12
    return "Etc/UTC" if not ahead else f"Etc/GMT{'-' if ahead > 0 else '+'}{abs(ahead)}"  # POSIX: west is positive


def _guid(prefix: str, name: str) -> str:
    return f"{prefix}-{uuid5(_NAMESPACE, name)}"


def make_demo_members(size: int) -> list[DemoMember]:
    """``size`` members, every kind by its weight; always the same for the same size."""
    return list(islice(_demo_members(_users()), size))


def make_visitors() -> list[DemoMember]:
    """Members for the person who watches: one user with one bank, one with three. They break after the forty days."""
    one = Kind(name="a visitor", weight=0)
    users = {"you": BANKS[:1], "you-too": BANKS[1:4]}
    return [
        DemoMember(
            kind=one,
            user_guid=_guid("USR", user),
            member_guid=_guid("MBR", f"{user} {code}"),
            email=f"{user}@mail.example",
            institution_code=code,
            institution_name=name,
        )
        for user, banks in users.items()
        for code, name in banks
    ]


def _users() -> Iterator[Kind]:
    """The kind of each user, in turn, so that even a few members include every kind."""
    left = {kind.name: kind.at_most for kind in KINDS}
    # One of each kind, then one of each kind with a weight of 2 or more, and so on.
    rounds = [kind for share in range(max(kind.weight for kind in KINDS)) for kind in KINDS if share < kind.weight]
    for kind in cycle(rounds):
        most = left[kind.name]
        if most == 0:
            continue
        if most is not None:
            left[kind.name] = most - 1
        yield kind


def _demo_members(kinds: Iterator[Kind]) -> Iterator[DemoMember]:
    for number, kind in enumerate(kinds):
        user_guid = _guid("USR", f"user {number}")
        for place in range(kind.banks_each):
            code, name = BANKS[(number + place) % len(BANKS)]
            yield DemoMember(
                kind=kind,
                user_guid=user_guid,
                member_guid=_guid("MBR", f"member {number} {place}"),
                email=_address(number, kind) if kind.has_email else None,
                institution_code=code,
                institution_name=name,
            )


def _address(number: int, kind: Kind) -> str:
    """The address of a user. Users who click, and every fifth of the others, are at a company with mail scanners."""
    return f"customer{number}@{'corp' if kind.clicks or number % 5 == 0 else 'mail'}.example"


def devices_of(demo_members: Sequence[DemoMember]) -> list[dict[str, Any]]:
    """The requests that register the members' devices (worker/sandbox/phones/network.py), user by user."""
    kinds = {demo_member.user_guid: demo_member.kind for demo_member in demo_members}
    return [
        _device(device, f"{guid}-{place}" if len(kind.devices) > 1 else None)
        for guid, kind in kinds.items()
        for place, device in enumerate(kind.devices)
    ]


def _device(device: str, token: str | None) -> dict[str, Any]:
    """``token`` is for users with several devices: `reconnect import` stores them in the order of their addresses."""
    return {"kind": device.removesuffix(" gone"), "gone": device.endswith(" gone"), "token": token}


def with_devices(demo_members: Sequence[DemoMember], addresses: Sequence[str]) -> list[DemoMember]:
    """The members with the addresses that their devices got, in the order of :func:`devices_of`."""
    given = iter(addresses)
    kinds = {demo_member.user_guid: demo_member.kind for demo_member in demo_members}
    devices = {
        guid: tuple((device.removesuffix(" gone"), next(given)) for device in kind.devices)
        for guid, kind in kinds.items()
    }
    return [replace(demo_member, devices=devices[demo_member.user_guid]) for demo_member in demo_members]


def write_population(demo_members: list[DemoMember], path: Path) -> None:
    """Write the population file of the sandbox."""
    path.write_text(
        "".join(json.dumps(demo_member.population_row()) + "\n" for demo_member in demo_members), encoding="utf-8"
    )


def write_import(demo_members: list[DemoMember], path: Path, now: datetime) -> None:
    """Write the file for `reconnect import`."""
    rows = [row for demo_member in demo_members for row in demo_member.import_rows(now)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_zones(demo_members: Sequence[DemoMember], path: Path, began: datetime, passed: timedelta) -> None:
    """Write a file for `reconnect import` that moves every user's time zone by ``passed``, in whole hours.

    The demonstration accelerates time by moving stored moments back, but the real clock does not move. So the time zone is moved, until
    the user's clock shows the hour that it would show ``passed`` after ``began``.
    """
    hours = round(passed / timedelta(hours=1))
    rows = {
        demo_member.user_guid: {
            "user_guid": demo_member.user_guid,
            "member_guid": demo_member.member_guid,
            "timezone": zone_where_it_is(demo_member.kind.hour + hours, began),
        }
        for demo_member in demo_members
    }
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.values()), encoding="utf-8")
