"""Makes names from data safe to show: in mail, in a push message, on a page and on a terminal.

The name of a bank comes from another system. Two kinds of characters in it can change how *our* sentence reads:

- **Invisible characters**, such as U+202E (right-to-left override), U+061C, U+200B and U+00AD, tags and fillers.
  They can make one name look like another. :func:`shown` removes them.
- **Letters of the other writing direction.** "بنك 24" in an English sentence is a valid name, but it changes the order of the words
  and digits after it. :func:`isolated` and :func:`bdi` isolate it (UAX #9, 2.4.2).

Invisible characters that a script needs are kept: U+200C and U+200D where Persian, Hindi, Bengali and related scripts write them, and
variation selectors after a character that has variants.
"""

import re
import unicodedata
from functools import lru_cache

from markupsafe import Markup

#: Characters. A longer name is cut, because it would leave no room for the rest of a mail's subject.
NAME_LIMIT = 100

FIRST_STRONG_ISOLATE, POP_DIRECTIONAL_ISOLATE = "\u2068", "\u2069"

#: Controls (C0, DEL, C1), line and paragraph separators, blank characters other than the space, lone surrogates. Each becomes a space.
_TO_SPACE = re.compile(r"[\x00-\x1f\x7f-\x9f\u115f\u1160\u2028\u2029\u2800\u3164\uffa0\ud800-\udfff]+")
#: Invisible characters that are not in the category Cf: Unicode's Default_Ignorable_Code_Point, and noncharacters.
_INVISIBLE = re.compile(
    r"[\u034f\u17b4\u17b5\u180b-\u180f\u2065\ufe00-\ufe0f\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e0fff]"
)
#: Visible characters in the category Cf: signs before or around Arabic, Syriac and Kaithi numbers.
_VISIBLE_CF = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
#: Zero width non-joiner and joiner.
_JOINERS = frozenset("\u200c\u200d")
#: The virama of Indic scripts has this canonical combining class.
_VIRAMA = 9
#: Bidirectional classes of characters that are written from right to left.
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})


@lru_cache(maxsize=4096)  # the same few banks in every message
def shown(text: str, *, limit: int = NAME_LIMIT) -> str:
    """The visible characters of ``text``, on one line of at most ``limit`` characters, with white space folded. It may be empty."""
    if not (text.isascii() and text.isprintable()):
        text = _TO_SPACE.sub(" ", text)
        text = "".join(mark for place, mark in enumerate(text) if _may_stay(text, place))
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def isolated(name: str, *, right_to_left: bool = False) -> str:
    """``name`` for a sentence in plain text: between FSI and PDI if it could change the order of the words around it.

    ``right_to_left`` is the direction of the sentence. A name in the same direction is returned unchanged, because spam filters may
    count invisible characters in a subject.
    """
    if name.isascii() and not right_to_left:
        return name
    if right_to_left or any(unicodedata.bidirectional(mark) in _RIGHT_TO_LEFT for mark in name):
        return f"{FIRST_STRONG_ISOLATE}{name}{POP_DIRECTIONAL_ISOLATE}"
    return name


def bdi(name: str) -> Markup:
    """``name`` for a sentence in HTML: escaped and in a ``<bdi>`` element. FSI and PDI around it are removed."""
    return Markup("<bdi>{}</bdi>").format(name.strip(FIRST_STRONG_ISOLATE + POP_DIRECTIONAL_ISOLATE))


def _may_stay(text: str, place: int) -> bool:
    mark = text[place]
    if mark < "\xad":
        return True
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    if mark in _JOINERS:
        return bool(before and after) and (_joins(before, after) or _VIRAMA in _classes(before, after))
    if _INVISIBLE.match(mark):
        return bool(before) and _has_variants(before, mark)
    return unicodedata.category(mark) != "Cf" or mark in _VISIBLE_CF


def _joins(before: str, after: str) -> bool:
    """Whether both are letters, or marks on letters, of a cursive script that is written from right to left."""
    return all(
        unicodedata.bidirectional(mark) == "AL" or unicodedata.name(mark, "").startswith(("ARABIC ", "SYRIAC "))
        for mark in (before, after)
    )


def _classes(*marks: str) -> set[int]:
    return {unicodedata.combining(mark) for mark in marks}


def _has_variants(base: str, selector: str) -> bool:
    """Whether ``base`` has variants that ``selector`` can choose: an emoji or sign, a Han character, a Mongolian letter."""
    if "\u180b" <= selector <= "\u180f":
        return unicodedata.name(base, "").startswith("MONGOLIAN LETTER")
    han = unicodedata.name(base, "").startswith("CJK ")
    if selector in "\ufe0e\ufe0f":
        return han or unicodedata.category(base) in {"So", "Sm", "Sk"} or base in "0123456789#*‼⁉"
    if "\ufe00" <= selector <= "\ufe0f" or "\U000e0100" <= selector <= "\U000e01ef":
        return han
    return False
