"""The demonstration's cast: members of every kind, what MX will answer for each, and how each must end.

The same cast is the population of `reconnect sandbox` when none is given.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

_NAMESPACE = UUID("7c6f361b-e582-45b6-80c0-358f12466b4b")

BANKS = (
    ("northwind", "Northwind Bank"),
    ("harbor", "Harbor Savings"),
    ("alder", "Alder & Sons"),
    ("prairie", "Prairie Credit Union"),
    ("cobalt", "Cobalt Bank"),
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Members that are alike."""

    name: str
    #: Share of the whole cast.
    weight: int
    #: The state their reconnection must end in; ``None``: none may be opened.
    ends: str | None
    #: Messages that each of their users must get.
    mails: int
    #: What MX answers, request by request (worker/sandbox/script.py).
    script: tuple[str, ...] = ("ok",)
    #: What the application's database says of them.
    facts: Mapping[str, Any] = field(default_factory=lambda: {"connection_status": "DENIED"})
    #: Banks that each user of this kind has broken.
    banks_each: int = 1
    has_email: bool = True


KINDS = (
    Kind(name="status DENIED", weight=5, ends="notified", mails=1),
    Kind(name="status IMPAIRED", weight=2, ends="notified", mails=1, facts={"connection_status": "IMPAIRED"}),
    Kind(name="token revoked", weight=3, ends="notified", mails=1, facts={"token_revoked_at": -2}),
    Kind(name="token expired", weight=3, ends="notified", mails=1, facts={"token_expires_at": -1}),
    Kind(name="error code 2004", weight=2, ends="notified", mails=1, facts={"error_code": 2004}),
    Kind(name="three banks, one message", weight=3, ends="notified", mails=1, banks_each=3),
    Kind(name="MX: 429, Retry-After 1 s, then fine", weight=2, ends="notified", mails=1, script=("429:1", "ok")),
    Kind(name="MX: 500, then fine", weight=2, ends="notified", mails=1, script=("500", "ok")),
    Kind(name="MX: 503, then fine", weight=2, ends="notified", mails=1, script=("503", "ok")),
    Kind(name="MX: slow, 3 s", weight=2, ends="notified", mails=1, script=("slow:3", "ok")),
    Kind(name="MX: connection reset, then fine", weight=2, ends="notified", mails=1, script=("reset", "ok")),
    Kind(name="MX: truncated, then fine", weight=2, ends="notified", mails=1, script=("truncated", "ok")),
    Kind(name="MX: HTML, then fine", weight=2, ends="notified", mails=1, script=("html", "ok")),
    Kind(name="MX: null URI, then fine", weight=2, ends="notified", mails=1, script=("null_uri", "ok")),
    Kind(name="MX: moved to another GUID", weight=1, ends="notified", mails=1, script=("moved",)),
    Kind(name="MX: 500 for good", weight=1, ends="due", mails=0, script=("500",)),
    Kind(name="MX: null URI for good", weight=1, ends="due", mails=0, script=("null_uri",)),
    Kind(name="MX: hostile URI", weight=1, ends="quarantined", mails=0, script=("hostile:userinfo",)),
    Kind(name="MX: cannot use OAuth", weight=2, ends="unsupported", mails=0, script=("unsupported",)),
    Kind(name="MX: knows it no more", weight=2, ends="gone", mails=0, script=("gone",)),
    Kind(name="back already", weight=2, ends="reconnected", mails=0, script=("connected",)),
    Kind(name="no address", weight=1, ends="due", mails=0, has_email=False),
    Kind(
        name="healthy", weight=4, ends=None, mails=0, facts={"connection_status": "CONNECTED", "token_expires_at": 30}
    ),
    Kind(name="without OAuth", weight=1, ends=None, mails=0, facts={"connection_status": "DENIED", "is_oauth": False}),
)


@dataclass(frozen=True, kw_only=True)
class Player:
    """One member of the cast."""

    kind: Kind
    user_guid: str
    member_guid: str
    email: str | None
    institution_code: str
    institution_name: str

    def population_row(self) -> dict[str, Any]:
        """As the sandbox's population file has it."""
        script = [f"moved:{_guid('MBR', self.member_guid)}" if step == "moved" else step for step in self.kind.script]
        return {
            "user_guid": self.user_guid,
            "member_guid": self.member_guid,
            "institution_code": self.institution_code,
            "institution_name": self.institution_name,
            "connection_status": self.kind.facts.get("connection_status", "DENIED"),
            "script": script,
        }

    def import_row(self, now: datetime) -> dict[str, Any]:
        """As `reconnect import` takes it; days in the kind's facts become moments."""
        facts = {
            name: (now + timedelta(days=value)).isoformat() if name.endswith("_at") else value
            for name, value in self.kind.facts.items()
        }
        return {
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
        }


def _guid(prefix: str, name: str) -> str:
    return f"{prefix}-{uuid5(_NAMESPACE, name)}"


def cast(size: int) -> list[Player]:
    """So many members, every kind in its share; the same for the same size."""
    users = cycle(kind for kind in KINDS for _ in range(kind.weight))
    return list(islice(_players(users), size))


def _players(kinds: Iterator[Kind]) -> Iterator[Player]:
    for number, kind in enumerate(kinds):
        user_guid = _guid("USR", f"user {number}")
        for place in range(kind.banks_each):
            code, name = BANKS[(number + place) % len(BANKS)]
            yield Player(
                kind=kind,
                user_guid=user_guid,
                member_guid=_guid("MBR", f"member {number} {place}"),
                email=f"customer{number}@mail.example" if kind.has_email else None,
                institution_code=code,
                institution_name=name,
            )


def write_population(players: list[Player], path: Path) -> None:
    """The file for the sandbox."""
    path.write_text("".join(json.dumps(player.population_row()) + "\n" for player in players), encoding="utf-8")


def write_import(players: list[Player], path: Path, now: datetime) -> None:
    """The file for `reconnect import`."""
    rows = [player.import_row(now) for player in players]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
