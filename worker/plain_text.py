"""Text from data and from servers, made safe to show: on a terminal and in a log it is text and nothing else.

A bank's name may hold an escape sequence that clears the screen, a line break that adds a line of its own to a log, or a mark that
turns the rest of the line around. Each such character is shown as Python writes it, ``\\x1b`` or ``\\u202e``.
"""

import unicodedata

#: Control characters, invisible marks (those of direction among them), surrogates, separators of lines and paragraphs.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
#: Joiners: writing systems and emoji need them, and they change nothing but the characters beside them.
_JOINERS = "\u200c\u200d"
#: Marks that we put around a name so that its direction stays its own (``worker.names``).
ISOLATES = "\u2068\u2069"


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
