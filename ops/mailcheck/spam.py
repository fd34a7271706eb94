"""SpamAssassin's score of a mail, by its local rules only: without the network."""

import email
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

#: Switches off the rules about a mail from this machine, since they would not apply at a customer's server.
_PREFERENCES = "score ALL_TRUSTED 0\nscore NO_RELAYS 0\nscore NO_RECEIVED 0\n"
_STATUS = re.compile(r"score=(-?[\d.]+)\s.*?tests=([\w,\s]*?)\s+(?:autolearn|version)=", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Score:
    """The points of a mail, and the rules that matched."""

    points: float
    rules: tuple[str, ...]


def installed() -> bool:
    """Whether SpamAssassin is installed."""
    return shutil.which("spamassassin") is not None


def version() -> str:
    """SpamAssassin's version."""
    said = subprocess.run(["spamassassin", "--version"], capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0].strip()


def works() -> bool:
    """Whether SpamAssassin has rules, since without rules every mail would pass. Tested with GTUBE, the standard test mail."""
    gtube = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
    return score(f"From: a@mail.example\nSubject: test\n\n{gtube}\n".encode()).points > 100


def score(mail: bytes) -> Score:
    """The score of a delivered mail. Raises ``RuntimeError`` if SpamAssassin gives none."""
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
