"""A process whose settings are wrong says so in one line when it starts, and leaves nothing open."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.machine import wait_until
from worker.errors import WorkerError
from worker.runtime import ProcessRuntime, Runtime
from worker.sandbox.phones.network import Phones
from worker.settings import Settings

#: By mistake: the setting that the line names, and the content of its file (``None``: no file; empty: a folder). EMAIL_FROM is no file.
WRONG = {
    "no service account": ("FCM_SERVICE_ACCOUNT_FILE", None),
    "a service account that is no JSON": ("FCM_SERVICE_ACCOUNT_FILE", "-----BEGIN PRIVATE KEY-----"),
    "a service account without a key": ("FCM_SERVICE_ACCOUNT_FILE", '{"project_id": "p", "client_email": "a@b.c"}'),
    "no APNs key": ("APNS_KEY_FILE", None),
    "an APNs key that is none": ("APNS_KEY_FILE", "not a key"),
    "no VAPID key": ("WEBPUSH_VAPID_KEY_FILE", None),
    "a VAPID key that is none": ("WEBPUSH_VAPID_KEY_FILE", "not a key"),
    "a folder for a key": ("WEBPUSH_VAPID_KEY_FILE", ""),
    "a sender that most servers refuse": ("EMAIL_FROM", "jörg@ledgerly.example"),
}


@pytest.fixture
def wrong(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """The name of the wrong setting, and the settings of a worker with every channel, this mistake included."""
    phones = Phones(tmp_path / "keys")
    phones.base_url = phones.apple.url = "http://127.0.0.1:9"
    values = {**phones.settings(), "SMTP_URL": "smtp://127.0.0.1:9?tls=none", "EMAIL_FROM": "a@ledgerly.example"}
    name, text = WRONG[request.param]
    path = tmp_path / "wrong"
    if text == "":
        path.mkdir()
    elif text is not None:
        path.write_text(text)
    return name, values | {name: text or str(path) if name == "EMAIL_FROM" else str(path)}


async def _nobody(_stage: str, n: int) -> int:
    return n


def _open() -> tuple[int, int]:
    return threading.active_count(), sum(1 for _ in Path("/proc/self/fd").iterdir())


def _expect_no_more_than(before: tuple[int, int]) -> None:
    """The counts may be lower, because threads and descriptors of other tests may be closed meanwhile; they must not be higher."""
    wait_until(
        lambda: all(now <= then for now, then in zip(_open(), before, strict=True)),
        seconds=5,
        what="the end of what was opened",
    )


@pytest.fixture(autouse=True)
def _no_garbage_of_other_tests() -> None:
    """Collect connections that other tests dropped: a runtime collects garbage when it is made, and they would warn in this test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.parametrize("wrong", WRONG, indirect=True)
def test_what_fails_while_a_runtime_is_made_leaves_no_thread_and_no_descriptor(
    wrong: tuple[str, dict[str, str]], settings_for: Callable[..., Settings]
) -> None:
    name, values = wrong
    settings = settings_for(**{key.lower(): value for key, value in values.items()})

    def fail() -> None:
        with pytest.raises(WorkerError, match=name):
            ProcessRuntime(settings, wake=_nobody)

    fail()  # the first call imports packages
    before = _open()
    for _ in range(5):
        fail()
    _expect_no_more_than(before)


def test_a_runtime_that_is_closed_leaves_no_thread_and_no_descriptor(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for(database_url=f"sqlite:///{tmp_path / 'reconnect.db'}")

    async def use(runtime: Runtime) -> None:
        await asyncio.to_thread(lambda: None)  # starts a thread, as fetching a token does
        await runtime.set_clock()

    def once() -> None:
        process = ProcessRuntime(settings, wake=_nobody)
        process.run(use)
        process.close()

    once()
    before = _open()
    for _ in range(3):
        once()
    _expect_no_more_than(before)


async def test_where_one_part_cannot_be_closed_the_others_are(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    closed = []

    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        async def close(self) -> None:
            closed.append(self.name)
            raise OSError(self.name)

    runtime: Any = Runtime(settings_for(database_url=f"sqlite:///{tmp_path / 'reconnect.db'}"), wake=_nobody)
    runtime.channels = {name: Part(name) for name in ("email", "fcm")}
    runtime.mx, runtime.pacing, runtime.database = Part("mx"), Part("pacing"), Part("database")
    with pytest.raises(OSError, match="database"):
        await runtime.close()
    assert set(closed) == {"email", "fcm", "mx", "pacing", "database"}


@pytest.mark.parametrize("wrong", ["an APNs key that is none"], indirect=True)
def test_a_worker_whose_key_files_are_wrong_does_not_start(
    wrong: tuple[str, dict[str, str]], tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    name, values = wrong
    key = settings_for().uri_keys[0].get_secret_value()
    ours = {"MX_API_KEY": "k", "MX_CLIENT_ID": "c", "URI_KEYS": key, "REDIS_URL": "redis://127.0.0.1:9/0"}
    told = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "--pool", "solo"],
        env={**os.environ, **values, **ours},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 2, told.stderr
    assert told.stderr.strip().startswith(f"settings: {name}: ")
    assert "\n" not in told.stderr.strip()
