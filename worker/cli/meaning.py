"""Finds the users that a word on the command line means, and suggests names for misspelt ones."""

import re
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from email.utils import parseaddr

import idna

from worker.channels.email.addresses import NotAMailbox, parse_mailbox
from worker.errors import SettingsError, UsageError
from worker.mx.identifiers import names_member, names_user
from worker.plain_text import shown_value
from worker.settings import load_settings
from worker.store.queries.lookup import LookupStore
from worker.store.sql.database import Database

#: How similar (0 to 1) a known word must be to be suggested.
_ALIKE = 0.75


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` with the most similar of ``known``, or an empty text. Case does not matter.

    A common prefix such as ``institution:`` or ``MBR-`` is not compared: it would make all such words similar.
    """
    prefix = re.match(r"[a-z]+:|[A-Z]{3}-|", word)[0]  # type: ignore[index]
    names = {name.removeprefix(prefix).lower(): name for name in known}
    matches = get_close_matches(word.removeprefix(prefix).lower(), names, 1, _ALIKE)
    return f"; did you mean {names[matches[0]]}?" if matches and names[matches[0]] != word else ""


async def nearest_guid(database: Database, guid: str) -> str:
    """:func:`did_you_mean` for a GUID that is not in the database."""
    return did_you_mean(guid, await LookupStore(database).neighbours(guid))


def may_use_own_ids() -> bool:
    """Whether words may be own ids of users and members. ``False`` while the settings have an error, which is reported elsewhere."""
    try:
        return load_settings().own_ids
    except SettingsError:
        return False


def check_member(word: str) -> None:
    """Raise :class:`UsageError` unless the word can name a member."""
    if not names_member(word, own_ids=may_use_own_ids()):
        raise UsageError(f"{shown_value(word)} is no member GUID; it starts with MBR-")


def check_user(word: str) -> None:
    """Raise :class:`UsageError` unless the word can name a user."""
    if not names_user(word, own_ids=may_use_own_ids()):
        raise UsageError(f"{shown_value(word)} is no user GUID; it starts with USR-")


async def users_meant(database: Database, words: Iterable[str]) -> dict[str, list[str]]:
    """The user GUIDs that each word means. A GUID means itself, even if there is no such user; an address means all users who have it.

    Case of addresses does not matter. Raises :class:`UsageError`. No error quotes an address: a scheduled `optout` writes its errors
    to a log.
    """
    guids_by_word = {}
    own_ids = may_use_own_ids()
    for word in words:
        if names_user(word, own_ids=own_ids):
            guids_by_word[word] = [word]
            continue
        if "@" not in word:
            raise UsageError(f"{shown_value(word)} is no user GUID, which starts with USR-, and no address")
        try:
            mailbox = parse_mailbox(parseaddr(word)[1])
        except NotAMailbox:
            raise UsageError(
                "a word is no address that mail can be sent to, and no user GUID, which starts with USR-"
            ) from None
        spellings = [mailbox.spec]
        with suppress(UnicodeError):
            spellings.append(f"{mailbox.local}@{idna.decode(mailbox.domain)}")
        candidates = await LookupStore(database).addresses(spellings)
        guids_by_word[word] = [guid for guid, email in candidates if _spec(email) == mailbox.spec.lower()]
    return guids_by_word


def _spec(email: str) -> str:
    try:
        return parse_mailbox(email).spec.lower()
    except NotAMailbox:
        return ""
