"""Faults of the mail server: which mails get which fault, and how often.

A fault is a short text, listed in :data:`FAULTS`. SMTP names the recipient only at RCPT. So faults before that (``mail:…``,
``auth:…``, ``auth-required``) concern every mail, and the ``to`` of their rules must be ``*``.
"""

import difflib
import fnmatch
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

#: Every fault as it is written, with the server's action. CODE is 4xx or 5xx; TEXT may be left out.
FAULTS = {
    "mail:CODE TEXT": "refuses MAIL FROM",
    "rcpt:CODE TEXT": "refuses RCPT TO",
    "data:CODE TEXT": "refuses the mail after it was sent in full; it is not kept",
    "auth:CODE TEXT": "refuses every login",
    "421": "421 and hangs up: at MAIL, or at RCPT where the rule names a recipient",
    "auth-required": "530 to MAIL without a login",
    "drop:before-data": "hangs up at DATA; the mail was not sent",
    "drop:in-data": "hangs up in the middle of the mail; it is not kept",
    "drop:after-data": "keeps the mail, and hangs up instead of saying 250",
    "slow:SECONDS": "waits that long before each reply; from RCPT on, where the rule names a recipient",
}

#: Where a fault strikes. ``end`` is the end of the mail's text.
SmtpPhase = Literal["auth", "mail", "rcpt", "data", "end", "reply"]

_REPLY = re.compile(r"(mail|rcpt|data|auth):([45]\d\d)(?: ([\x20-\x7e]{1,400}))?")
_SLOW = re.compile(r"slow:(\d{1,4}(?:\.\d{1,3})?)")
_TEXTS = {"4": "Try again later", "5": "Refused"}


@dataclass(frozen=True, slots=True)
class Fault:
    """The fault of the server at one phase of SMTP."""

    phase: SmtpPhase
    #: The reply; ``None`` if the server hangs up or only waits.
    reply: str | None = None
    #: Hang up: at ``data`` before 354, at ``end`` after the mail was kept.
    drop: bool = False
    in_data: bool = False
    needs_login: bool = False
    seconds: float = 0.0


_WORDS = {
    "421": Fault("mail", "421 4.3.2 Too busy, closing"),
    "auth-required": Fault("mail", "530 5.7.0 Authentication required", needs_login=True),
    "drop:before-data": Fault("data", drop=True),
    "drop:in-data": Fault("data", drop=True, in_data=True),
    "drop:after-data": Fault("end", drop=True),
}


@lru_cache(maxsize=256)
def parse_fault(text: str) -> Fault:
    """A fault from its text; raises ``ValueError`` with what was expected. 421 is given for MAIL; a rule may move it to RCPT."""
    if match := _REPLY.fullmatch(text):
        where, code, words = match.groups()
        reply = f"{code} {words or _TEXTS[code[0]]}"
        phases: dict[str, SmtpPhase] = {"auth": "auth", "mail": "mail", "rcpt": "rcpt", "data": "end"}
        return Fault(phases[where], reply)
    if match := _SLOW.fullmatch(text):
        return Fault("reply", seconds=float(match[1]))
    if text in _WORDS:
        return _WORDS[text]
    close = difflib.get_close_matches(text, FAULTS, n=1, cutoff=0.6)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ValueError(f"{text[:40]!r} is not a known mail fault{hint}; known are {', '.join(FAULTS)}")


class MailRule(BaseModel):
    """One fault, and the mails that get it."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    #: A pattern for recipients, as in a shell: ``*``, ``*@bad.example``, ``ann@*``. Case does not matter.
    to: str = "*"
    #: See :data:`FAULTS`.
    fault: str
    #: The rule ends after this many strikes; ``None``: never.
    times: int | None = Field(None, ge=1)
    #: The share of matching mails that it strikes, such as 0.2. The same seed chooses the same ones.
    share: float = Field(1.0, ge=0, le=1)
    seed: int = 0

    _what: Fault = PrivateAttr()
    _rng: random.Random = PrivateAttr()
    _strikes: int = PrivateAttr(0)

    @model_validator(mode="after")
    def _make_ready(self) -> Self:
        what = parse_fault(self.fault)
        if self.to != "*" and what.phase in {"mail", "auth"}:
            if self.fault != "421":
                raise ValueError(
                    f"{self.fault.partition(' ')[0]} strikes before a recipient is named, so `to` must be *"
                )
            what = Fault("rcpt", what.reply)
        self._what = what
        self._rng = random.Random(self.seed)
        return self

    def strike(self, phase: SmtpPhase, recipients: Sequence[str], *, logged_in: bool) -> Fault | None:
        """The fault if it strikes now, else ``None``."""
        what = self._what
        if what.phase != phase or (self.times is not None and self._strikes >= self.times):
            return None
        if what.needs_login and logged_in:
            return None
        if self.to != "*" and not any(fnmatch.fnmatchcase(one.lower(), self.to.lower()) for one in recipients):
            return None
        if self.share < 1 and self._rng.random() >= self.share:
            return None
        self._strikes += 1
        return what


def first_strike(
    rules: Iterable[MailRule], phase: SmtpPhase, recipients: Sequence[str] = (), *, logged_in: bool = False
) -> Fault | None:
    """The fault of the first rule that strikes at this phase."""
    for rule in rules:
        fault = rule.strike(phase, recipients, logged_in=logged_in)
        if fault is not None:
            return fault
    return None
