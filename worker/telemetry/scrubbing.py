"""Text for logs: what data, servers and libraries say is shown as text, without secrets and without control sequences."""

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
#: Fernet keys, tokens, signatures: long and with figures in them. MX's GUIDs are no secrets.
_SECRET = re.compile(r"(?<![\w-])(?![A-Z]{3}-[0-9a-f]{8}-)(?=[A-Za-z_-]*\d)[\w+=-]{40,}", re.ASCII)
#: What these say are names in our own code.
_ABOUT_CODE = (AttributeError, ImportError, NameError, TypeError)
_LONGEST = 2000


def scrub(text: str) -> str:
    """The text with URLs cut to their host, without addresses and keys, in one line."""
    text = text[:_LONGEST] + ("…" if len(text) > _LONGEST else "")
    text = _LINE_BREAKS.sub(" ", text.strip())
    text = _USERINFO.sub(r"\g<scheme>**@", text)
    text = _WEB_PATH.sub(r"\g<host>/…", text)
    text = _ADDRESS.sub("<address>", text)
    text = _SECRET.sub("<secret>", text)
    return plain(text, keep="")


def cause_of(error: BaseException) -> str:
    """What an exception says that may be said. The text of a foreign one may quote a URL or an address: its kind has to do."""
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
    """Where redis-py was never imported, no error is its own; importing it would slow down every command's start."""
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
