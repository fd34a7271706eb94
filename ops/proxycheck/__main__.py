"""``make proxycheck``: the snippets of ``ops/proxy`` in the real nginx and Caddy, before a real web process and a sandbox bank.

A customer presses a button through the proxy and reaches the bank. Each header arrives once, an invented ``X-Forwarded-For`` is
ignored, and a large body is refused. While the web process is away, customers get the page "try again". No log of the proxy contains a
link, also if there are more requests than connections, an answer breaks off or a customer disconnects. A missing server is installed
without starting a service; this needs root and apt.
"""

import asyncio
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography.fernet import Fernet
from rich.console import Console
from rich.table import Table

from ops.proxycheck.servers import HOST, PROXIES, certificate, installed, running, wait_for_port
from worker.cli.processes import free_port
from worker.mx.uris import MAX_LENGTH
from worker.web.health import BY_PROXY, UNREACHED

HEADERS = (
    "Referrer-Policy", "Cache-Control", "X-Robots-Tag", "X-Content-Type-Options", "Content-Security-Policy", "Strict-Transport-Security",
)  # fmt: skip
MEMBER = "USR-1,MBR-1,mxbank,MX Bank,DENIED,true,ana@customer.example\n"
COLUMNS = "user_guid,member_guid,institution_code,institution_name,connection_status,is_oauth,email\n"
_NONCE = re.compile(r'name="nonce" value="([^"]+)"')
_RECONNECTION = re.compile(r'name="reconnection" value="([^"]+)"')

out = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Check both proxies; return 0 if every check passes."""
    missing = [name for name in PROXIES if not installed(name)]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        policy = Path("/usr/sbin/policy-rc.d")
        own = not policy.exists()
        if own:  # so that Debian does not start the servers after the installation
            policy.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
            policy.chmod(0o755)
        try:
            command = [
                "apt-get",
                "install",
                "-y",
                "-q",
                *({"nginx": "nginx-light"}.get(name, name) for name in missing),
            ]
            subprocess.run(command, check=False, capture_output=True)
        finally:
            if own:
                policy.unlink()
        missing = [name for name in PROXIES if not installed(name)]
    if missing:
        sys.stderr.write(f"proxycheck: {' and '.join(missing)} must be installed (Debian: nginx-light, caddy)\n")
        return 1
    failed = 0
    table = Table("proxy", "check", "result")
    for name in PROXIES:
        with tempfile.TemporaryDirectory(prefix="proxycheck-") as given:
            for what, said in check(name, Path(given)):
                failed += said is not None
                table.add_row(name, what, said or "holds")
    out.print(table)
    return 1 if failed else 0


def check(name: str, folder: Path) -> list[tuple[str, str | None]]:
    """The name of each check and its problem; ``None`` means that it passed."""
    folder.chmod(0o755)  # nginx's worker process runs as another user
    certificate(folder)
    environment = _environment(folder)
    with _bank(folder) as base_url:
        environment["MX_BASE_URL"] = base_url
        (folder / "members.csv").write_text(COLUMNS + MEMBER, encoding="utf-8")
        for command in ("migrate", "import members.csv", "sweep"):
            _reconnect(command, folder, environment)
        link = _reconnect("link USR-1", folder, environment).strip()
        token = link.rpartition("/")[2]
        port = free_port()
        environment["WEB_LISTEN"] = f"127.0.0.1:{port}"
        with (folder / "web.log").open("wb") as output:
            web = subprocess.Popen(
                [sys.executable, "-m", "worker", "web"], cwd=folder, env=environment, stdout=output, stderr=output
            )
        try:
            wait_for_port(port, web)
            with running(name, folder, port) as proxied:
                found = asyncio.run(_as_customer(proxied, token, folder))
                web.terminate()
                web.wait(30)
                found.append(asyncio.run(_while_away(proxied, token, folder)))
                found.append(asyncio.run(_broken_off(proxied, port, token, folder)))
                found.append(asyncio.run(_burst(proxied, port, token, folder)))
                found.append(asyncio.run(_long_way(proxied, port, folder)))
        finally:
            web.kill()
            web.wait()
    found.append(("no log holds a link", _told(folder, token)))
    return found


async def _as_customer(port: int, token: str, folder: Path) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    async with _client(port, folder) as client:
        async with client.get(f"/r/{token}") as page:
            text = await page.text()
            found.append(("the page", None if page.status == 200 and _NONCE.search(text) else f"status {page.status}"))
            twice = [header for header in HEADERS if len(page.headers.getall(header, [])) != 1]
            found.append(("each header once", f"not so: {', '.join(twice)}" if twice else None))
            found.append(("no cookie", "a cookie" if "Set-Cookie" in page.headers else None))
        form = {"nonce": _NONCE.findall(text)[0], "reconnection": (_RECONNECTION.findall(text) or [""])[0]}
        async with client.post(f"/r/{token}", data=form, allow_redirects=False) as pressed:
            to = pressed.headers.get("Location", "")
            good = pressed.status == 303 and "/oauth/authorize?" in to
            found.append(("the button leads to the bank", None if good else f"status {pressed.status}"))
        async with client.post(f"/r/{token}", data=b"x" * 100_000) as large:
            found.append(("a large body is refused", None if large.status == 413 else f"status {large.status}"))
        statuses = []
        for number in range(90):  # more than the limit of one address
            invented = {"X-Forwarded-For": f"198.51.100.{number}"}
            async with client.post("/r/" + "A" * 22, data={"nonce": "n"}, headers=invented) as tried:
                statuses.append(tried.status)
        found.append(("an invented address is not believed", None if 429 in statuses else "90 presses from one client"))
    return found


async def _while_away(port: int, token: str, folder: Path) -> tuple[str, str | None]:
    async with _client(port, folder) as client:
        for method in ("GET", "POST"):
            async with client.request(method, f"/r/{token}") as page:
                if not await _says_later(page):
                    return "try again while the web process is away", f"status {page.status}"
    return "try again while the web process is away", None


async def _says_later(page: aiohttp.ClientResponse) -> bool:
    wanted = {
        "Retry-After": "30",
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "Content-Type": "text/html",
        BY_PROXY: UNREACHED,
    }
    is_same = all(page.headers.getall(name, []) == [text] for name, text in wanted.items())
    return page.status == 503 and is_same and "your link keeps working" in await page.text()


async def _broken_off(port: int, behind: int, token: str, folder: Path) -> tuple[str, str | None]:
    """An answer that breaks off, and a customer who disconnects: a proxy may log either."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 1_000_000)
        with suppress(OSError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", behind)
    async with server, _client(port, folder) as client:
        with suppress(aiohttp.ClientError):
            async with client.get(f"/r/{token}") as page:
                await page.read()
                return "an answer that breaks off", "it was complete"
        async with client.get(f"/r/{token}") as page:
            page.close()
    return "an answer that breaks off", None


async def _burst(port: int, behind: int, token: str, folder: Path) -> tuple[str, str | None]:
    """Keep 300 requests open, begun one after another: more than the nginx of this check has connections for.

    If they began at once, they would wait to be accepted. nginx logs a request only if it was accepted and no connection was left.
    """
    release = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        with suppress(OSError):
            await writer.drain()
        writer.close()

    async def ask(client: aiohttp.ClientSession, number: int) -> bool | None:
        await asyncio.sleep(0.02 * number)
        try:
            async with client.get(f"/r/{token}") as page:
                return page.status == 200 or await _says_later(page)
        except aiohttp.ClientError:
            return None  # not accepted

    server = await asyncio.start_server(answer, "127.0.0.1", behind)
    async with server, _client(port, folder) as client:
        asked = [asyncio.create_task(ask(client, number)) for number in range(300)]
        await asyncio.wait(asked, timeout=8)
        release.set()
        answers = await asyncio.gather(*asked)
    odd = answers.count(False)
    return "a burst reads a page or try again", f"{odd} of 300 do not" if odd or True not in answers else None


async def _long_way(port: int, behind: int, folder: Path) -> tuple[str, str | None]:
    """A redirect to the longest URI that may be stored, from a server that replaces the web process."""
    uri = f"https://bank.example/oauth/authorize?state={'s' * MAX_LENGTH}"[:MAX_LENGTH]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            f"HTTP/1.1 303 See Other\r\nLocation: {uri}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", behind)
    async with server, _client(port, folder) as client, client.get("/r/x", allow_redirects=False) as led:
        good = led.status == 303 and led.headers.get("Location") == uri
        return "the longest URI of a bank passes", None if good else f"status {led.status}"


def _told(folder: Path, token: str) -> str | None:
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("reconnect.db")]
    holding = [file.name for file in files if token.encode() in file.read_bytes()]
    return f"{', '.join(holding)} does" if holding else None


class _Loopback(AbstractResolver):
    """Resolves every name to this machine."""

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:  # noqa: ARG002
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=2, proto=0, flags=0)]

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


def _client(port: int, folder: Path) -> aiohttp.ClientSession:
    context = ssl.create_default_context(cafile=str(folder / "reconnect.pem"))
    connector = aiohttp.TCPConnector(ssl=context, resolver=_Loopback(), limit=0)
    return aiohttp.ClientSession(
        f"https://{HOST}:{port}", connector=connector, headers={"Host": HOST}, max_field_size=4 * MAX_LENGTH
    )


@contextmanager
def _bank(folder: Path) -> Iterator[str]:
    ready = folder / "sandbox.json"
    (folder / "population.jsonl").write_text('{"user_guid": "USR-1", "member_guid": "MBR-1"}\n', encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "worker.sandbox",
        "--population",
        "population.jsonl",
        "--ready-file",
        str(ready),
        "--drop-bodies",
    ]
    with (folder / "sandbox.log").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=_environment(folder), stdout=subprocess.PIPE, stderr=output)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield str(json.loads(ready.read_text(encoding="utf-8"))["base_url"])
    finally:
        process.kill()
        process.communicate()


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "DATABASE_URL": f"sqlite:///{folder / 'reconnect.db'}",
        "REDIS_URL": "redis://127.0.0.1:9/0",  # no Redis is needed: each process counts for itself
        "MX_API_KEY": "sandbox-api-key",
        "MX_CLIENT_ID": "sandbox-client-id",
        "URI_KEYS": Fernet.generate_key().decode(),
        "PUBLIC_BASE_URL": f"https://{HOST}",
        "NOTIFY_AFTER": "0",
    }


def _reconnect(arguments: str, folder: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "worker", *arguments.split()]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and not arguments.startswith("sweep"):  # without a broker a sweep fails after its work
        raise RuntimeError(f"reconnect {arguments}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
