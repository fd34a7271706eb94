"""The meaning of each mail of the set, from sisimai's own tests.

The mails are in ``maildir/bsd`` of the repository ``set-of-emails``. Their meanings are in ``test/public/*.rb`` of the repository
``rb-sisimai``: for each mail, a list with one entry for each recipient (``D.S.N.``, reply code, reason, hard bounce).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: sisimai's reasons that mean "this address is dead": no such user, no such domain, moved away.
DEAD = frozenset({"userunknown", "hostunknown", "hasmoved"})

_ENTRY = re.compile(r"^\s*'(\d+)'\s*=>\s*\[((?:\s*\[[^\]]*\],?)*)\s*\]", re.MULTILINE)
_RECIPIENT = re.compile(r"\[([^\]]*)\]")


class Missing(Exception):  # noqa: N818 - it names the state
    """A file or folder is missing. The text names it and the places where it was searched for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """One mail of the set, and the reasons of its recipients in the mail's order."""

    mail: Path
    reasons: tuple[str, ...]

    @property
    def dead(self) -> tuple[bool, ...]:
        return tuple(reason in DEAD for reason in self.reasons)


def expected(folder: Path) -> tuple[list[Expected], list[str]]:
    """All mails of ``folder`` with their meanings, and the names of mails that have a meaning but no file. Raises :class:`Missing`."""
    mails, answers = _mails(folder), _answers(folder)
    found, lacking = [], []
    for name, reasons in _reasons(answers):
        # Newer versions of the set name some mails after the recipient's provider.
        path = next(
            (mails / each for each in (name, name.replace("lhost-", "rhost-")) if (mails / each).is_file()), None
        )
        if path is None:
            lacking.append(name)
        else:
            found.append(Expected(mail=path, reasons=reasons))
    if not found:
        raise Missing(f"{mails}: none of the mails that {answers} speaks of is there")
    return found, lacking


def _mails(folder: Path) -> Path:
    concurrency = [folder / "maildir" / "bsd", folder / "set-of-emails" / "maildir" / "bsd", folder]
    for place in concurrency:
        if place.is_dir() and any(place.glob("*.eml")):
            return place
    raise Missing(
        f"{folder}: expected a checkout of sisimai/set-of-emails or of sisimai/rb-sisimai (maildir/bsd/*.eml)"
    )


def _answers(folder: Path) -> Path:
    folder = folder.resolve()
    roots = [each / name for each in (folder, *folder.parents[:3]) for name in (".", "rb-sisimai")]
    for root in roots:
        place = root / "test" / "public"
        if (place / "lhost-postfix.rb").is_file():
            return place
    raise Missing(
        f"{folder}: the expected reasons are missing; they are in test/public/*.rb of https://github.com/sisimai/rb-sisimai: "
        f"clone it to {folder.parent / 'rb-sisimai'}, or give its checkout as SET (the mails are in it, too)"
    )


def _reasons(answers: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    for file in sorted(answers.glob("*.rb")):
        for number, recipients in _ENTRY.findall(file.read_text(encoding="utf-8")):
            fields = [[field.strip(" '") for field in each.split(",")] for each in _RECIPIENT.findall(recipients)]
            yield f"{file.stem}-{int(number):02}.eml", tuple(each[2] for each in fields)
