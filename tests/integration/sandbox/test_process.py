"""The sandbox as a process of its own: its start, its addresses, its end, and mistakes with which it does not start."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from worker.errors import UsageError, WorkerError

ROOT = Path(__file__).resolve().parents[3]
MEMBER = '{"user_guid": "USR-1", "member_guid": "MBR-1"}\n'


async def launch(*arguments):
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker.sandbox", *map(str, arguments),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


async def finished(process):
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0)])
async def test_it_says_where_it_listens_and_stops_when_told(tmp_path, stop, code):
    population = tmp_path / "members.jsonl"
    population.write_text(MEMBER)
    ready_file = tmp_path / "ready.json"
    ready_file.write_text("of an earlier run")
    process = await launch(
        "--population", population, "--mail-dir", tmp_path / "mail", "--api-key", "k", "--client-id", "c",
        "--ready-file", ready_file,
    )  # fmt: skip
    async with asyncio.timeout(120):
        line = (await process.stdout.readline()).decode()
    addresses = json.loads(ready_file.read_text())
    assert addresses["pid"] == process.pid
    assert addresses["base_url"] in line
    async with aiohttp.ClientSession() as http:
        headers = {"Accept": "application/vnd.mx.atrium.v1+json", "MX-API-Key": "k", "MX-Client-ID": "c"}
        async with http.get(f"{addresses['base_url']}/users", headers=headers) as response:
            assert response.status == 200
        async with http.get(addresses["mail_page"]) as response:
            assert response.status == 200
        # Open connections of browsers and mail senders do not delay its end.
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", int(addresses["smtp_url"].rpartition(":")[2].partition("?")[0])
        )
        assert (await reader.readline()).startswith(b"220 ")
        os.kill(process.pid, stop)
        returned, _, err = await finished(process)
        writer.close()
    assert (returned, err) == (code, "")


@pytest.mark.parametrize(
    ("content", "more", "code", "told"),
    [
        ('{"user_guid": "USR-1"}\n', (), 2, "members.jsonl:1: member_guid is missing"),
        (MEMBER, ("--host", "0.0.0.0"), 2, "must be a loopback address"),
        (MEMBER, ("--http-port", "70000"), 2, "--http-port"),
        (MEMBER, ("--latency", "soon"), 2, "--latency"),
    ],
)
async def test_what_it_cannot_start_with_is_one_line_and_a_code(tmp_path, content, more, code, told):
    population = tmp_path / "members.jsonl"
    population.write_text(content)
    returned, out, err = await finished(
        await launch("--population", population, "--mail-dir", tmp_path / "mail", *more)
    )
    assert (returned, out) == (code, "")
    assert told in err.splitlines()[-1]
    assert "Traceback" not in err


async def test_a_port_in_use_is_told(start):
    running = await start()
    port = int(running.addresses.base_url.rpartition(":")[2])
    with pytest.raises(WorkerError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
        await start(http_port=port)
    with pytest.raises(WorkerError, match="Address already in use"):
        await start(smtp_port=port)


async def test_mail_needs_a_folder_unless_bodies_are_dropped(start):
    with pytest.raises(UsageError, match="a folder for mail is missing"):
        await start(mail_dir=None)


async def test_a_folder_that_cannot_be_made_is_told(start, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkerError, match="cannot hold mail"):
        await start(mail_dir=tmp_path / "file" / "mail")


async def test_a_cancelled_sandbox_lets_go_of_its_ports(start):
    first = await start()
    port = int(first.addresses.base_url.rpartition(":")[2])
    (task,) = (task for task in asyncio.all_tasks() if task.get_coro().__name__ == "serve")
    task.cancel()
    await asyncio.wait({task}, timeout=10)
    assert task.cancelled()
    again = await start(http_port=port)
    assert (await again.window())[0] == 200


def test_no_secret_is_in_the_repr_of_a_configuration():
    from worker.sandbox.server import SandboxConfig

    config = SandboxConfig(population=Path("p"), api_key="secret-a", client_id="secret-b", mail_login=("u", "secret-c"))
    assert "secret" not in repr(config)
