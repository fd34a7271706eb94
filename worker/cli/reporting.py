"""Sentences that more than one command prints."""

from datetime import timedelta
from itertools import pairwise

from worker.store.queries.presses import Presses
from worker.store.queries.returns import Returns

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def unanswered_line(count: int) -> str:
    """The line for reconnections that ended ``exhausted`` after the last reminder."""
    return f"{count} given up after the last reminder went unanswered; `reconnect retry --exhausted` requeues them"


def failed_line(count: int) -> str:
    """The line for reconnections that ended ``exhausted`` because every attempt failed."""
    return f"{count} given up after every attempt failed; `reconnect retry --exhausted` requeues them"


def came_back(returns: Returns) -> str:
    """How many users came back, how fast, and how many of them after a message."""
    if not returns.reconnected:
        return f"Nobody came back in the last {returns.days} days."
    share = round(100 * returns.after_a_message / returns.reconnected)
    text = f"In the last {returns.days} days {returns.reconnected} came back"
    if returns.median_seconds is not None:
        text += f", half of them within {span(returns.median_seconds)} of being found broken"
    text += f"; {returns.after_a_message} ({share} %) after a message"
    if returns.median_seconds_after_message is not None:
        text += f", half of them within {span(returns.median_seconds_after_message)} of it"
    return f"{text}."


def links_pressed(presses: Presses) -> str:
    """How many links' buttons were pressed, which clicks failed, and how soon customers were back; empty if no button was pressed."""
    if not presses.clicks:
        return ""
    text = f"In the last {presses.days} days {presses.links_opened} links were opened by their button"
    if presses.median_seconds_to_return is not None:
        text += f"; half of who came back after that did so within {span(presses.median_seconds_to_return)}"
    if failed := presses.failed:
        words = ", ".join(f"{word} {count}" for word, count in list(failed.items())[:5])
        text += f". {sum(failed.values())} of {presses.clicks} clicks failed: {words}"
    return f"{text}."


def span(seconds: float | timedelta) -> str:
    """A length of time in its two largest units: ``2 d 3 h``, ``41 min 5 s``, ``0 s``."""
    whole_seconds = round(seconds.total_seconds() if isinstance(seconds, timedelta) else seconds)
    for (unit, size), (smaller, small) in pairwise(_UNITS):
        if whole_seconds >= size:
            rest = whole_seconds % size // small
            return f"{whole_seconds // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole_seconds} s"
