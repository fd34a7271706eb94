"""Makes text from data and from servers safe to show on a terminal and in a log.

A bank's name may contain an escape sequence that clears the screen, a line break that adds a line to a log, or a mark that reverses the
rest of the line. Each such character is shown as Python escapes it: ``\\x1b``, ``\\u202e``.
"""

import re
import unicodedata

#: Control characters, invisible marks such as those of direction, surrogates, separators of lines and paragraphs.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
#: Joiners: scripts and emoji need them, and they change only the characters beside them.
_JOINERS = "\u200c\u200d"
#: Marks that we put around a name, so that its direction does not affect the text around it (``worker.display_names``).
ISOLATES = "\u2068\u2069"

#: A refused value that may be quoted: a GUID, a word in capitals or a short one, a small number, a moment, a time zone, a locale, three
#: characters. Nothing else is quoted: if columns are shifted or a line is cut off, a cell may contain a part of an address, a name, a
#: street, a telephone number or a device token.
_QUOTABLE = re.compile(
    r"(?:USR|MBR)-[\w./+-]{1,36}|[A-Z_]{1,40}|[A-Z]?-?\d{1,6}|\d{1,3}\.\d{1,3}|True|False|[a-z]{1,8}|"
    r"(?:000[01]|1970|2\d{3}|9999)-\d\d-\d\d(?:[T ][\d:.,+Z-]{1,20})?|1[5-9]\d{8}(?:\d{3})?|[A-Z][a-z]+/[A-Z][A-Za-z_]{1,30}|[a-z]{2}[-_][A-Za-z]{2,4}|[\w ./+-]{1,3}"
)
#: A column's name that may be quoted; it is not personal.
_QUOTABLE_NAME = re.compile(r"[\w .:/+-]{1,40}")


def shown_value(value: object) -> str:
    """A refused value as an error may show it: quoted, or only its length, because it may be a name or an address."""
    text = str(value)
    return repr(text) if _QUOTABLE.fullmatch(text) else f"a text of {len(text)} characters"


def shown_name(name: str) -> str:
    """The same for the name of an unknown column or key."""
    return repr(name) if _QUOTABLE_NAME.fullmatch(name) else f"a text of {len(name)} characters"


def plain(text: str, *, keep: str = "\n") -> str:
    """``text`` with every invisible character escaped, except joiners and the characters in ``keep``."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if character not in keep and character not in _JOINERS and unicodedata.category(character) in _UNSEEN
        else character
        for character in text
    )
