"""What SpamAssassin thinks of a mail, by its own rules alone: nothing is looked up on the network."""

import email
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

#: Points that SpamAssassin gives for coming from this machine; a customer's server would not give them.
_PREFERENCES = "score ALL_TRUSTED 0\nscore NO_RELAYS 0\nscore NO_RECEIVED 0\n"
_STATUS = re.compile(r"score=(-?[\d.]+)\s.*?tests=([\w,\s]*?)\s+(?:autolearn|version)=", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Score:
    """Points, and the rules that gave them."""

    points: float
    rules: tuple[str, ...]


def installed() -> bool:
    """Whether it can be run here."""
    return shutil.which("spamassassin") is not None


def version() -> str:
    """Which it is."""
    said = subprocess.run(["spamassassin", "--version"], capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0].strip()


def works() -> bool:
    """Whether it has rules at all: without, every mail would pass. Asked with the mail that every filter knows (GTUBE)."""
    gtube = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
    return score(f"From: a@mail.example\nSubject: test\n\n{gtube}\n".encode()).points > 100


def score(mail: bytes) -> Score:
    """The score of a mail as a server delivered it; raises ``RuntimeError`` if there is none to be had."""
    with tempfile.TemporaryDirectory() as home:
        preferences = Path(home) / "user_prefs"
        preferences.write_text(_PREFERENCES)
        ran = subprocess.run(
            ["spamassassin", "--local", "--nocreate-prefs", f"--prefspath={preferences}"],
            input=mail,
            capture_output=True,
            env={**os.environ, "HOME": home},
            timeout=120,
            check=False,
        )
    status = " ".join(str(email.message_from_bytes(ran.stdout).get("X-Spam-Status", "")).split())
    found = _STATUS.search(status)
    if found is None:
        raise RuntimeError(ran.stderr.decode(errors="replace").strip() or "SpamAssassin gave no score")
    return Score(float(found[1]), tuple(rule for rule in found[2].replace(" ", "").split(",") if rule != "none"))
