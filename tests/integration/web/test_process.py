"""`reconnect web` as a process: its start without schema and Redis, two processes on one port, and its end at SIGTERM."""

import http.client
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.fernet import Fernet

from tests.machine import Machine, Running, cast_of, environment_for, wait_until
from worker.cli.processes import free_port
from worker.cli.public_check import examine_public_address
from worker.settings import Settings
from worker.web.health import BY_PROXY, UNREACHED

LINK = "/r/" + "c" * 22


@pytest.fixture
def machine(tmp_path: Path, redis_url: str) -> Iterator[Machine]:
    """A broker, an address for the web process, and a SQLite database that is not migrated yet."""
    with ExitStack() as stack:
        machine = Machine(tmp_path, environment_for(tmp_path, redis_url), stack)
        port = free_port()
        machine.environment |= {"PUBLIC_BASE_URL": f"http://127.0.0.1:{port}", "WEB_LISTEN": f"127.0.0.1:{port}"}
        yield machine


def _port(machine: Machine) -> int:
    return int(machine.environment["WEB_LISTEN"].rpartition(":")[2])


def _start(machine: Machine, name: str = "web") -> Running:
    process = machine.start(name, sys.executable, "-m", "worker", "web")
    log = machine.folder / f"{name}.log"
    wait_until(lambda: b"web_ready" in log.read_bytes() or process.poll() is not None, what="the start")
    assert process.poll() is None, log.read_text()
    return process


def _get(machine: Machine, path: str, *, method: str = "GET", timeout: float = 40) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", _port(machine), timeout=timeout)) as connection:
        connection.request(method, path, headers={"Accept-Language": "en"})
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_without_a_public_address_there_is_nothing_to_serve(machine: Machine) -> None:
    ran = machine("web", environment={"PUBLIC_BASE_URL": ""})
    assert (ran.code, ran.out) == (2, "")
    assert re.fullmatch(r"reconnect: settings: PUBLIC_BASE_URL is missing: .*\n", ran.err)
    taken = socket.create_server(("127.0.0.1", 0))
    with closing(taken):
        ran = machine("web", environment={"WEB_LISTEN": f"127.0.0.1:{taken.getsockname()[1]}"})
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith("reconnect: web: cannot listen on 127.0.0.1:")
    waiting = machine.start(
        "optional", sys.executable, "-m", "worker", "web", "--optional", environment={"PUBLIC_BASE_URL": ""}
    )
    with suppress(subprocess.TimeoutExpired):
        waiting.wait(3)
    waiting.terminate()
    assert waiting.wait(60) in {0, -signal.SIGTERM}


def test_it_starts_without_schema_and_redis_and_serves_once_they_are_there(machine: Machine) -> None:
    machine.environment["REDIS_URL"] = "redis://127.0.0.1:9/0"
    _start(machine)
    assert _get(machine, "/healthz")[0] == 200
    assert _get(machine, "/readyz") == (503, '{"status": "not ready", "why": "schema"}')
    status, page = _get(machine, LINK)
    assert status == 503
    assert "Please try again in a moment" in page
    assert "<button" in page
    assert machine("migrate").code == 0
    wait_until(lambda: _get(machine, "/readyz")[0] == 200, what="readiness")
    assert _get(machine, LINK)[0] == 404
    found = {finding["check"]: finding for finding in machine_doctor(machine)}
    assert (found["public"]["ok"], "reaches this worker" in found["public"]["says"]) == (True, True)
    for wrong, says in [
        ({"URI_KEYS": "TluxwB3fV_GWuLkR1_BzGs1Zk90TYAuhNMZP_0q4WyM="}, "other URI_KEYS"),
        ({"PUBLIC_BASE_URL": f"http://localhost:{_port(machine)}"}, "does not pass Host on"),
        ({"PUBLIC_BASE_URL": f"http://127.0.0.1:{free_port()}"}, "nobody answers"),
    ]:
        found = {finding["check"]: finding for finding in machine_doctor(machine, wrong)}
        assert found["public"]["ok"] is False
        assert says in found["public"]["says"]
    log = (machine.folder / "web.log").read_text()
    assert "cccccccc" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (502, {}, "has a proxy that reaches nobody (502)"),
        (504, {}, "has a proxy that reaches nobody (504)"),
        (503, {BY_PROXY: UNREACHED}, "has a proxy that reaches nobody (503)"),
        (503, {}, "is not this worker (status 503)"),
    ],
)
async def test_doctor_knows_a_proxy_without_a_worker(status: int, headers: dict[str, str], says: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers)

    application = web.Application()
    application.router.add_get("/readyz", answer)
    async with TestServer(application) as server:
        base = f"http://127.0.0.1:{server.port}"
        given = {"uri_keys": Fernet.generate_key().decode(), "mx_api_key": "key", "mx_client_id": "id"}
        found, said = await examine_public_address(Settings(**given, public_base_url=base, _env_file=None), patience=10)
    assert not found
    assert says in said


@pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile"])
def test_the_page_of_each_proxy_has_the_mark_that_doctor_knows(name: str) -> None:
    assert f"{BY_PROXY} {UNREACHED}" in (Path(__file__).parents[3] / "ops" / "proxy" / name).read_text(encoding="utf-8")


def machine_doctor(machine: Machine, environment: dict[str, str] | None = None) -> Any:
    """The findings of `doctor`. Its exit code is ignored, because other checks fail here."""
    import json

    return json.loads(machine("doctor", "--json", environment=environment).out)


def test_sigterm_finishes_the_press_in_hand(machine: Machine) -> None:
    rows, members = cast_of(1)
    machine.start_sandbox(rows, "--http-port", "0", "--smtp-port", "0", "--latency", "3")
    (machine.folder / "members.csv").write_text(members)
    _, _, swept, made = machine.each("migrate", "import members.csv", "sweep", "link USR-000000")
    assert swept.code == 0, swept.out
    (link,) = re.findall(r"/r/[\w-]{22}", made.out)
    process = _start(machine)
    answers: list[tuple[int, str | None]] = []

    def press() -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", _port(machine), timeout=120)) as connection:
            connection.request("POST", link)
            response = connection.getresponse()
            answers.append((response.status, response.headers["Location"]))

    def begun() -> int:
        with closing(sqlite3.connect(machine.folder / "reconnect.db")) as database:
            return int(database.execute("SELECT count(*) FROM clicks").fetchone()[0])

    asking = threading.Thread(target=press)
    asking.start()
    wait_until(begun, what="the press")
    process.terminate()
    wait_until(lambda: b"web_stopping" in (machine.folder / "web.log").read_bytes(), what="the signal")
    with pytest.raises(ConnectionError):
        _get(machine, "/healthz")
    assert not answers
    asking.join(60)
    ((status, uri),) = answers
    assert status == 303
    assert uri is not None
    assert uri.startswith("http")
    assert process.wait(60) == 0
    log = (machine.folder / "web.log").read_text()
    assert '"route": "/r/{token}", "status": 303' in log
    assert not [secret for secret in (link[3:], uri, uri.rpartition("=")[2]) if secret in log]


def test_it_holds_more_connections_than_a_shell_allows(machine: Machine) -> None:
    assert machine("migrate").code == 0
    limited = ("import resource, os, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 4096));"
               " os.execv(sys.executable, [sys.executable, '-m', 'worker', 'web'])")  # fmt: skip
    machine.start("web", sys.executable, "-c", limited)
    wait_until(lambda: b"web_ready" in (machine.folder / "web.log").read_bytes(), what="the start")
    with ExitStack() as idle:
        for _ in range(200):
            idle.enter_context(closing(socket.create_connection(("127.0.0.1", _port(machine)))))
        assert _get(machine, LINK)[0] == 404
    assert "out of system resource" not in (machine.folder / "web.log").read_text()


def test_two_share_a_port_and_one_may_end(machine: Machine) -> None:
    assert machine("migrate").code == 0
    names = ["web-1", "web-2"]
    first, second = [_start(machine, name) for name in names]
    logs = [machine.folder / f"{name}.log" for name in names]

    def both_served() -> bool:
        assert _get(machine, LINK)[0] == 404
        return all(b"web_request" in log.read_bytes() for log in logs)

    wait_until(both_served, what="both of them at work")
    first.terminate()
    assert first.wait(60) == 0
    assert [_get(machine, LINK)[0] for _ in range(20)] == [404] * 20
    second.terminate()
    assert second.wait(60) == 0
