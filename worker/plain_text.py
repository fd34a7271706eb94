"""Text from data and from servers, made safe to show: on a terminal and in a log it is text and nothing else.

A bank's name may hold an escape sequence that clears the screen, a line break that adds a line of its own to a log, or a mark that
turns the rest of the line around. Each such character is shown as Python writes it, ``\\x1b`` or ``\\u202e``.
"""

import re
import unicodedata

#: Control characters, invisible marks (those of direction among them), surrogates, separators of lines and paragraphs.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
#: Joiners: writing systems and emoji need them, and they change nothing but the characters beside them.
_JOINERS = "\u200c\u200d"
#: Marks that we put around a name so that its direction stays its own (``worker.display_names``).
ISOLATES = "\u2068\u2069"

#: What a refused value looks like if it may be quoted: a GUID, a word in capitals or a short one, a small number, a moment, a time zone, a
#: locale, three characters. Where columns are shifted or a line is cut off, a cell may hold a part of an address, a name, a street, a
#: telephone number or a device's token.
_QUOTABLE = re.compile(
    r"(?:USR|MBR)-[\w./+-]{1,36}|[A-Z_]{1,40}|[A-Z]?-?\d{1,6}|\d{1,3}\.\d{1,3}|True|False|[a-z]{1,8}|"
    r"(?:000[01]|1970|2\d{3}|9999)-\d\d-\d\d(?:[T ][\d:.,+Z-]{1,20})?|1[5-9]\d{8}(?:\d{3})?|[A-Z][a-z]+/[A-Z][A-Za-z_]{1,30}|[a-z]{2}[-_][A-Za-z]{2,4}|[\w ./+-]{1,3}"
)
#: The same of the name of a column, which is no person's.
_QUOTABLE_NAME = re.compile(r"[\w .:/+-]{1,40}")


def shown_value(value: object) -> str:
    """A refused value as an error may show it: in quotes, or only its length, since it may be somebody's name or address."""
    text = str(value)
    return repr(text) if _QUOTABLE.fullmatch(text) else f"a text of {len(text)} characters"


def shown_name(name: str) -> str:
    """The name of a column or key that is not known, in the same way."""
    return repr(name) if _QUOTABLE_NAME.fullmatch(name) else f"a text of {len(name)} characters"


def plain(text: str, *, keep: str = "\n") -> str:
    """``text`` with every character that is not seen written out, but for those to ``keep``."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if character not in keep and character not in _JOINERS and unicodedata.category(character) in _UNSEEN
        else character
        for character in text
    )
