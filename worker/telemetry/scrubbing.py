"""Makes text from data, servers and libraries safe for a log: no secrets, no addresses, no control characters."""

import re
import sys
from pathlib import Path
from types import TracebackType

from worker.errors import WorkerError
from worker.plain_text import plain

_LINE_BREAKS = re.compile(r"\s*[\r\n]\s*")
_USERINFO = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^\s/@'\"]*(?:/[^\s@'\"]*)?@", re.IGNORECASE)
_WEB_PATH = re.compile(r"(?P<host>https?://[^\s/?#'\"]+)[/?#][^\s'\"]*", re.IGNORECASE)
_ADDRESS = re.compile(r"[^\s@<>'\"(),:;=/*]+@[^\s@<>'\"(),:;=]+\.[^\s@<>'\"(),:;=.]+")
#: Fernet keys, tokens, signatures: at least 40 characters with a digit among them. MX's GUIDs are no secrets.
_SECRET = re.compile(r"(?<![\w-])(?![A-Z]{3}-[0-9a-f]{8}-)(?=[A-Za-z_-]*\d)[\w+=-]{40,}", re.ASCII)
#: The texts of these errors quote names in code, not data.
_ABOUT_CODE = (AttributeError, ImportError, NameError, TypeError)
_LONGEST = 2000


def scrub(text: str) -> str:
    """The text in one line, with URLs cut to their host, and addresses and keys replaced."""
    text = text[:_LONGEST] + ("…" if len(text) > _LONGEST else "")
    text = _LINE_BREAKS.sub(" ", text.strip())
    text = _USERINFO.sub(r"\g<scheme>**@", text)
    text = _WEB_PATH.sub(r"\g<host>/…", text)
    text = _ADDRESS.sub("<address>", text)
    text = _SECRET.sub("<secret>", text)
    return plain(text, keep="")


def cause_of(error: BaseException) -> str:
    """The cause of an exception, safe to log. Of an unknown exception only the type: its text may quote a URL or an address."""
    if isinstance(error, WorkerError):
        return scrub(str(error))
    if (words := _broker_fault(error)) is not None:
        return words
    kind = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        return f"{kind}: {scrub(error.strerror)}"
    if isinstance(error, _ABOUT_CODE) or type(error).__module__.startswith(("celery.", "billiard.")):
        return f"{kind}: {scrub(str(error))}"
    return kind


def _broker_fault(error: BaseException) -> str | None:
    """The explanation of an error of the broker. If redis-py was never imported, the error is not the broker's; importing it here
    would slow down the start of every command."""
    if "redis" not in sys.modules:
        return None
    from worker.broker_faults import broker_fault

    return broker_fault(error)


def place_of(traceback: TracebackType | None) -> str | None:
    """Where an exception was raised: ``kombu/connection.py:812 in _connect``."""
    while traceback is not None and getattr(traceback, "tb_next", None) is not None:
        traceback = traceback.tb_next
    try:
        code = traceback.tb_frame.f_code  # type: ignore[union-attr]
        return f"{'/'.join(Path(code.co_filename).parts[-2:])}:{traceback.tb_lineno} in {code.co_name}"  # type: ignore[union-attr]
    except AttributeError:
        return None
