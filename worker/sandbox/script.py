"""The script of a simulated member: how it answers requests for an OAuth window.

A script is a list of steps, one for each request; the last one repeats. A step is a word, some with an argument after a colon:
``["429:1", "ok"]`` answers the first request with 429 and all others with a window. :data:`STEPS` lists all steps.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from worker.sandbox.oauth_uris import HOSTILE_KINDS

#: Every step, and the answer of the endpoint.
STEPS = {
    "ok": "200 with a fresh one-time window",
    "scan": "as ok, and whoever opens the link first with GET uses it up, a mail scanner too",
    "link_seconds:SECONDS": "as ok, and the link expires after so long; fractions allowed",
    "401": "credentials refused",
    "403": "address not allowed",
    "406": "API version refused",
    "409": "another job of this member runs",
    "429": "too many requests, without Retry-After",
    "429:SECONDS": "too many requests, Retry-After in whole seconds",
    "500": "internal error, JSON body",
    "502": "bad gateway, HTML body",
    "503": "being updated, plain text body",
    "503:SECONDS": "the same with Retry-After in whole seconds",
    "504": "gateway timeout, no body",
    "slow:SECONDS": "as ok, after that long; fractions allowed",
    "reset": "the connection is reset (TCP RST) without an answer; nothing is minted",
    "truncated": "Content-Length promises more than comes before the connection closes; nothing is minted",
    "html": "200 with an HTML page instead of JSON; nothing is minted",
    "null_uri": "200 with oauth_window_uri null",
    "missing_uri": "200 without oauth_window_uri",
    "empty_uri": "200 with an empty oauth_window_uri",
    "hostile:KIND": f"200 with a URI that must not reach a customer; KIND is one of {', '.join(HOSTILE_KINDS)}",
    "unsupported": "400 Member cannot use OAuth",
    "gone": "404; until the next step reads answer 404 too",
    "rejected": "422",
    "moved:MBR-…": "as ok, and the member has this GUID from now on; the old one still leads to it",
    "connected": "as ok, but the member is CONNECTED and aggregated by now: the customer is already back",
}

#: Steps that apply to requests for a window only. A fault of the whole bank with such a step does not affect reads.
WINDOW_ONLY = frozenset({
    "ok", "scan", "link_seconds", "null_uri", "missing_uri", "empty_uri", "hostile", "unsupported", "gone", "rejected", "moved", "connected",
})  # fmt: skip

_FORMS: dict[str, list[str]] = {}
for _written in STEPS:
    _FORMS.setdefault(_written.partition(":")[0], []).append(_written)

GUID_ALPHABET = "[A-Za-z0-9._~-]{1,120}"
_MEMBER_GUID = re.compile(f"MBR-{GUID_ALPHABET}")
_FRACTION = re.compile(r"\d{1,6}(\.\d{1,3})?")


@dataclass(frozen=True, slots=True)
class Step:
    """One step, parsed; ``str`` returns its text."""

    #: The word before the colon.
    kind: str
    #: The text after the colon, if it is a kind of hostile URI or a GUID; else empty.
    argument: str = ""
    #: Seconds: the length of ``slow``, a link's life, or the Retry-After of 429 and 503.
    seconds: float | None = None

    def __str__(self) -> str:
        after = f"{self.seconds:g}" if self.seconds is not None else self.argument
        return f"{self.kind}:{after}" if after else self.kind


@lru_cache(maxsize=4096)
def parse_step(text: str) -> Step:
    """A step from its text; raises ``ValueError`` with what was expected."""
    kind, colon, argument = text.partition(":")
    forms = _FORMS.get(kind)
    if forms is None:
        close = difflib.get_close_matches(text, STEPS, n=1, cutoff=0.6)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"{text[:40]!r} is not a known step{hint}; known are {', '.join(STEPS)}")
    expected = " or ".join(forms)
    if not colon:
        if kind not in forms:
            raise ValueError(f"{kind} needs an argument: expected {expected}")
        return Step(kind)
    match kind:
        case "429" | "503" if argument.isdecimal() and len(argument) < 7:  # noqa: PLR2004 - 11 days, as in _FRACTION
            return Step(kind, seconds=int(argument))
        case "slow" | "link_seconds" if _FRACTION.fullmatch(argument):
            return Step(kind, seconds=float(argument))
        case "moved" if _MEMBER_GUID.fullmatch(argument):
            return Step(kind, argument)
        case "hostile":
            if argument in HOSTILE_KINDS:
                return Step(kind, argument)
            raise ValueError(f"hostile: no such kind; known are {', '.join(HOSTILE_KINDS)}")
    raise ValueError(f"{text[:40]!r}: expected {expected}")


def parse_script(steps: object) -> tuple[Step, ...]:
    """A script from a list of texts; raises ``ValueError`` with the first problem."""
    if not isinstance(steps, Iterable) or isinstance(steps, str | bytes | dict):
        raise ValueError('expected a list of steps such as ["429:1", "ok"]')  # noqa: TRY004 - pydantic wants ValueError
    steps = list(steps)
    if not steps or not all(isinstance(step, str) for step in steps):
        raise ValueError('expected a list of steps such as ["429:1", "ok"]')
    return tuple(parse_step(step) for step in steps)
