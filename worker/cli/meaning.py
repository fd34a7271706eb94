"""Whom and what a word on the command line means, and what was meant where nothing has that name."""

import re
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from email.utils import parseaddr

import idna

from worker.channels.email.addresses import NotAMailbox, parse_mailbox
from worker.errors import UsageError
from worker.mx.identifiers import is_user_guid
from worker.store.lookup import LookupStore
from worker.store.sql.database import Database

#: How alike two words are that may have been mistaken for one another.
_ALIKE = 0.75


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` where one of ``known`` is near, apart from case; else nothing.

    What they have in common up to a colon or dash, as ``institution:`` or ``MBR-``, makes no two words alike.
    """
    kind = re.match(r"[a-z]+:|[A-Z]{3}-|", word)[0]  # type: ignore[index]
    rests = {name.removeprefix(kind).lower(): name for name in known}
    found = get_close_matches(word.removeprefix(kind).lower(), rests, 1, _ALIKE)
    return f"; did you mean {rests[found[0]]}?" if found and rests[found[0]] != word else ""


async def nearest_guid(database: Database, guid: str) -> str:
    """:func:`did_you_mean` for a GUID that is not in the database."""
    return did_you_mean(guid, await LookupStore(database).neighbours(guid))


async def users_meant(database: Database, words: Iterable[str]) -> dict[str, list[str]]:
    """The users that each word means: a GUID means itself, whether or not there is such a user, an address all who have it.

    Addresses are compared apart from case. Raises :class:`UsageError`; no error repeats an address, since a job that takes
    replies in writes errors to its log.
    """
    found = {}
    for word in words:
        if is_user_guid(word):
            found[word] = [word]
            continue
        if "@" not in word:
            raise UsageError(f"{word[:60]!r} is no user GUID, which starts with USR-, and no address")
        try:
            asked = parse_mailbox(parseaddr(word)[1])
        except NotAMailbox:
            raise UsageError(
                "that is no address that mail can be sent to, and no user GUID, which starts with USR-"
            ) from None
        spellings = [asked.spec]
        with suppress(UnicodeError):
            spellings.append(f"{asked.local}@{idna.decode(asked.domain)}")
        candidates = await LookupStore(database).addresses(spellings)
        found[word] = [guid for guid, email in candidates if _spec(email) == asked.spec.lower()]
    return found


def _spec(email: str) -> str:
    try:
        return parse_mailbox(email).spec.lower()
    except NotAMailbox:
        return ""
