"""How a name that comes from data is shown: in mail, in a push message, on a page and on a terminal.

A bank's name is text that somebody else wrote. Two things in it can change what the reader sees of *our* sentence:

- **Marks that nobody sees**, such as U+202E (right-to-left override), U+061C, U+200B and U+00AD, tags and fillers.
  With them one name reads as another. :func:`shown` removes them.
- **Letters of the other direction.** "بنك 24" in the middle of an English sentence is an honest name, yet it moves the words
  and digits that follow it. :func:`isolated` and :func:`bdi` keep it apart (UAX #9, 2.4.2).

Marks that a script needs stay: U+200C and U+200D where Persian, Hindi, Bengali and their neighbours write them, and variation
selectors behind what has variants.
"""

import re
import unicodedata
from functools import lru_cache

from markupsafe import Markup

#: A name longer than this is cut: it would push everything else out of a subject.
NAME_LIMIT = 100

FIRST_STRONG_ISOLATE, POP_DIRECTIONAL_ISOLATE = "\u2068", "\u2069"

#: Controls (C0, DEL, C1), line and paragraph separators, blanks that are no spaces, lone surrogates: each becomes a space.
_PARTING = re.compile(r"[\x00-\x1f\x7f-\x9f\u115f\u1160\u2028\u2029\u2800\u3164\uffa0\ud800-\udfff]+")
#: Shown as nothing, and not of the category Cf, which is looked up: Unicode's Default_Ignorable_Code_Point, and what is no character.
_UNSEEN = re.compile(
    r"[\u034f\u17b4\u17b5\u180b-\u180f\u2065\ufe00-\ufe0f\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e0fff]"
)
#: Of the category Cf, and seen: signs that stand before or around Arabic, Syriac and Kaithi numbers.
_SEEN = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
#: Zero width non-joiner and joiner.
_JOINERS = frozenset("\u200c\u200d")
#: The virama of Indic scripts has this canonical combining class.
_VIRAMA = 9
#: Bidirectional classes of what is written from right to left.
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})


@lru_cache(maxsize=4096)  # the same few banks in every message
def shown(text: str, *, limit: int = NAME_LIMIT) -> str:
    """``text`` as one line of what a reader can see: white space folded, at most ``limit`` characters, maybe empty."""
    if not (text.isascii() and text.isprintable()):
        text = _PARTING.sub(" ", text)
        text = "".join(mark for place, mark in enumerate(text) if _may_stay(text, place))
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def isolated(name: str, *, right_to_left: bool = False) -> str:
    """``name`` for a sentence in plain text: between FSI and PDI where it could move the words beside it.

    ``right_to_left`` is the direction of the sentence. A name in the sentence's own direction stays as it is: invisible characters in
    every subject would be one more thing for a spam filter to weigh.
    """
    if name.isascii() and not right_to_left:
        return name
    if right_to_left or any(unicodedata.bidirectional(mark) in _RIGHT_TO_LEFT for mark in name):
        return f"{FIRST_STRONG_ISOLATE}{name}{POP_DIRECTIONAL_ISOLATE}"
    return name


def bdi(name: str) -> Markup:
    """``name`` for a sentence in HTML, isolated or not before: escaped, in an element of its own."""
    return Markup("<bdi>{}</bdi>").format(name.strip(FIRST_STRONG_ISOLATE + POP_DIRECTIONAL_ISOLATE))


def _may_stay(text: str, place: int) -> bool:
    mark = text[place]
    if mark < "\xad":
        return True
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    if mark in _JOINERS:
        return bool(before and after) and (_joins(before, after) or _VIRAMA in _classes(before, after))
    if _UNSEEN.match(mark):
        return bool(before) and _has_variants(before, mark)
    return unicodedata.category(mark) != "Cf" or mark in _SEEN


def _joins(before: str, after: str) -> bool:
    """Whether both are letters of a cursive script from right to left, or marks upon such letters."""
    return all(
        unicodedata.bidirectional(mark) == "AL" or unicodedata.name(mark, "").startswith(("ARABIC ", "SYRIAC "))
        for mark in (before, after)
    )


def _classes(*marks: str) -> set[int]:
    return {unicodedata.combining(mark) for mark in marks}


def _has_variants(base: str, selector: str) -> bool:
    """Whether ``selector`` chooses among the forms of ``base``: an emoji or a sign, a Han character, a Mongolian letter."""
    if "\u180b" <= selector <= "\u180f":
        return unicodedata.name(base, "").startswith("MONGOLIAN LETTER")
    han = unicodedata.name(base, "").startswith("CJK ")
    if selector in "\ufe0e\ufe0f":
        return han or unicodedata.category(base) in {"So", "Sm", "Sk"} or base in "0123456789#*‼⁉"
    if "\ufe00" <= selector <= "\ufe0f" or "\U000e0100" <= selector <= "\U000e01ef":
        return han
    return False
