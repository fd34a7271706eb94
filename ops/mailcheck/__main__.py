"""``make mailcheck``: sends every kind of mail through a real mail server, and scores it with SpamAssassin.

Each mail is sent by the worker's own email channel. The server must accept it and deliver it unchanged, except for the trace headers
that the server adds at the top. SpamAssassin, without the network, must give it less than two points. If one of the two programs is
missing, it is installed without starting a service; this needs root and apt.
"""

import asyncio
import email
import email.policy
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.fernet import Fernet
from rich.console import Console
from rich.table import Table

from ops.mailcheck import mta, spam
from ops.mailcheck.samples import REPLY_TO, SENDER, Sample, samples
from worker.channels import Outcome, Sent
from worker.channels.email.channel import EmailChannel
from worker.channels.email.message import Composer, Mail
from worker.settings import Settings, load_settings

#: A mail with this many points fails. SpamAssassin itself calls a mail spam from five points on.
LIMIT = 2.0

out = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Check all samples; return 0 if every mail arrives unchanged and its score is low enough."""
    if problem := install():
        sys.stderr.write(f"mailcheck: {problem}\n")
        return 1
    if not spam.works():
        sys.stderr.write("mailcheck: SpamAssassin has no rules: run sa-update, or install its package anew\n")
        return 1
    bad = 0
    for name in mta.installed():
        try:
            with mta.running(name) as server:
                bad += check(server)
        except RuntimeError as error:
            sys.stderr.write(f"mailcheck: {name} does not start: {error}\n")
            return 1
    if bad:
        sys.stderr.write(f"mailcheck: {bad} mails failed\n")
    return 1 if bad else 0


def check(server: mta.Mta) -> int:
    """Send all samples through one server and print a table; return how many failed."""
    settings = load_settings(
        _env_file=None,
        mx_api_key="none",
        mx_client_id="none",
        uri_keys=Fernet.generate_key().decode(),
        smtp_url=f"smtp://127.0.0.1:{server.port}?tls=none",
        email_from=SENDER,
        email_reply_to=REPLY_TO,
        app_name="Ledgerly",
    )
    chosen = list(samples())
    outcomes = asyncio.run(send(settings, chosen))
    accepted = sum(isinstance(outcome, Sent) for outcome in outcomes)
    mta.wait_until(lambda: len(server.delivered()) >= accepted)
    delivered = {message_id_of(content): content for content in server.delivered()}
    table = Table("mail", "bytes", "accepted", "unchanged", "score", "rules", title=f"{server.name}, {spam.version()}")
    bad = 0
    for sample, outcome in zip(chosen, outcomes, strict=True):
        content, built = find(settings, sample, delivered)
        unchanged = content is not None and content.endswith(built)
        score = spam.score(content) if content is not None else None
        good = unchanged and score is not None and score.points < LIMIT
        bad += not good
        table.add_row(
            sample.name,
            f"{len(built):,}",
            "yes" if isinstance(outcome, Sent) else outcome.code,
            "yes" if unchanged else "NO",
            f"{score.points:.1f}" if score else "-",
            ", ".join(score.rules) if score else "",
            style=None if good else "red",
        )
    out.print(table)
    return bad


async def send(settings: Settings, chosen: list[Sample]) -> list[Outcome]:
    """Send the samples through the worker's own channel."""

    async def dispatching() -> None:
        pass  # there is no database here

    channel = EmailChannel(settings)
    try:
        return [await channel.send(sample.message, dispatching) for sample in chosen]
    finally:
        await channel.close()


def find(settings: Settings, sample: Sample, delivered: dict[str, bytes]) -> tuple[bytes | None, bytes]:
    """A sample as it was delivered (None if it was not), and as it was built: the same message and date, with a mailbox's line ends."""
    composer = Composer(settings)
    built = _built(composer.build(sample.message))
    content = delivered.get(message_id_of(built))
    if content is not None:
        date = email.message_from_bytes(content, policy=email.policy.default)["Date"].datetime
        built = _built(composer.build(sample.message, now=date))
    return content, built.replace(b"\r\n", b"\n")


def _built(mail: object) -> bytes:
    assert isinstance(mail, Mail), mail
    return mail.content


def message_id_of(content: bytes) -> str:
    """The Message-ID, which identifies a mail."""
    return str(email.message_from_bytes(content)["Message-ID"])


def install() -> str | None:
    """Install the missing programs; return None, or in one line why that is not possible."""
    missing = ([] if mta.installed() else ["postfix"]) + ([] if spam.installed() else ["spamassassin"])
    if os.geteuid() != 0:
        return "mail servers start as root alone: run this as root, best in a container"
    if not missing:
        return None
    by_hand = f"{' and '.join(missing)} missing: apt-get install {' '.join(missing)}"
    apt = shutil.which("apt-get")
    if apt is None:
        return f"{' and '.join(missing)} missing, and there is no apt to install with"
    out.print(f"Installing {' and '.join(missing)} (once).")
    with no_services():
        for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *missing]):
            ran = subprocess.run(
                [apt, *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if ran.returncode and command[0] == "install":
                return f"{by_hand} (it failed here: {(ran.stderr.strip().splitlines() or ['no reason given'])[-1]})"
    return None if mta.installed() and spam.installed() else by_hand


@contextmanager
def no_services() -> Iterator[None]:
    """Packages that are installed in this block start no service (Debian policy, 9.3.3)."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


if __name__ == "__main__":
    sys.exit(main())
