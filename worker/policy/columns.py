"""What applications write into a column, and what it means: statuses, truth values, channels, kinds of devices.

Any application, in any language, may write ``users``, ``devices`` and ``members``. A value whose meaning is clear is accepted: other
case, blanks around it, MX's number instead of a status. Examples: ``" denied "`` and ``"2"`` both mean DENIED.

Any other value is *unreadable*: it counts as empty. It makes a member neither broken nor well, and ``doctor``, ``status`` and
``explain`` name it. ``store/sql/application.py`` applies these tables in SQL. Moments are read by ``policy/moments.py``.
"""

from collections.abc import Collection, Mapping

from worker.policy.channel_choice import CHOICES, DEVICE_CHANNELS
from worker.policy.moments import BLANKS
from worker.settings.values import CONNECTION_STATUSES

TRUE = ("1", "true", "t", "yes", "y", "on", "1.0")
FALSE = ("0", "false", "f", "no", "n", "off", "0.0")

#: MX's number for a status, as text, with zeros ahead or as a floating-point column writes it.
STATUS_NUMBERS: Mapping[str, str] = {
    form: name for n, name in enumerate(CONNECTION_STATUSES) for form in (f"{n}", f"{n:02}", f"{n:03}", f"{n}.0")
}
CHANNEL_WORDS: Mapping[str, str] = {
    **{choice: choice for choice in CHOICES},
    "e-mail": "email", "mail": "email", "android": "fcm", "firebase": "fcm", "ios": "apns", "apn": "apns",
    "web": "webpush", "web-push": "webpush", "browser": "webpush", "no": "none", "never": "none", "off": "none",
}  # fmt: skip
DEVICE_WORDS: Mapping[str, str] = {word: kind for word, kind in CHANNEL_WORDS.items() if kind in DEVICE_CHANNELS}


def stripped(text: str) -> str:
    """The text without the blanks around it."""
    return text.strip(BLANKS)


def upper(text: str) -> str:
    """ASCII letters in upper case, the others as they are, as both databases do it."""
    return "".join(letter.upper() if letter.isascii() else letter for letter in text)


def lower(text: str) -> str:
    """ASCII letters in lower case, the others as they are."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def status_of(text: str) -> str | None:
    """The ``connection_status`` that a text means, even one that MX does not document; ``None`` for an empty text."""
    status = upper(stripped(text))
    return STATUS_NUMBERS.get(status, status) or None


def statuses_as_written(statuses: Collection[str]) -> tuple[str, ...]:
    """These statuses in every form that means them, in upper case."""
    return (*statuses, *(form for form, name in STATUS_NUMBERS.items() if name in statuses))


def truth_of(text: str) -> bool | None:
    """The truth value that a text means; ``None`` if it means none."""
    word = lower(stripped(text))
    return True if word in TRUE else False if word in FALSE else None


def channel_of(text: str) -> str | None:
    """The choice of channel that a text means; ``None`` if it means none. Then email comes first, as for an empty column."""
    return CHANNEL_WORDS.get(lower(stripped(text)))


def device_kind_of(text: str) -> str | None:
    """The push service that a text means; ``None`` if it means none. Nothing is sent to such a device."""
    return DEVICE_WORDS.get(lower(stripped(text)))
