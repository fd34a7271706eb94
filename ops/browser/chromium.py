"""Finds Chromium or installs it where that is possible, and starts it so that it can reach only this machine."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = [
    "--no-sandbox",  # it runs as root in a container, and shows only our own pages
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def find() -> str | None:
    """The path of Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def install() -> str | None:
    """Install Chromium if it is missing, as root on a system with apt. Returns None, or in one line why that is not possible."""
    if find():
        return None
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return "there is no Chromium: install one, or run this as root on a system with apt"
    print("Installing chromium (once).", flush=True)
    for command in (
        ["update", "-q"],
        ["install", "-q", "-y", "--no-install-recommends", "chromium", "fonts-liberation"],
    ):
        ran = subprocess.run(
            [apt, *command], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        if ran.returncode and command[0] == "install":
            return f"apt-get install chromium failed: {(ran.stderr.strip().splitlines() or ['no reason given'])[-1]}"
    return None if find() else "there is no Chromium after apt-get install chromium"


@contextmanager
def running(hosts: Mapping[str, int], *, key_hash: str) -> Iterator[Browser]:
    """A browser in which these hosts (``*`` allowed) are ports of this machine. Apart from loopback, other hosts do not exist.

    ``key_hash`` is the hash of the only key whose certificates it trusts. Since it trusts them, it also obeys HSTS.
    """
    rules = [f"MAP {host} 127.0.0.1:{port}" for host, port in hosts.items()]
    rules += ["MAP * ~NOTFOUND", "EXCLUDE 127.0.0.1", "EXCLUDE localhost", "EXCLUDE [::1]", "EXCLUDE ::1"]
    # The first rule that matches applies, so the hosts are before `*`.
    arguments = [
        *_FLAGS, f"--host-resolver-rules={', '.join(rules)}", f"--ignore-certificate-errors-spki-list={key_hash}",
    ]  # fmt: skip
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), headless=True, args=arguments)
        try:
            yield browser
        finally:
            browser.close()
