"""The worker's main process survives refusals of the broker and foreign entries in it, logs the reason, and then works on."""

import base64
import json
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from tests.faults.servers import OwnValkey
from tests.machine import Machine, wait_until


class Bad:
    """A worker, its broker, and the part of its log that was not read yet."""

    def __init__(self, machine: Machine, valkey: OwnValkey) -> None:
        assert machine("migrate").code == 0
        self.machine, self.valkey = machine, valkey
        self.process = machine.start_worker(1)
        self._log = machine.folder / "worker.log"
        self._read = self._log.stat().st_size

    @property
    def client(self) -> Any:
        return redis.Redis.from_url(self.valkey.url)

    def says(self, words: str) -> None:
        """Wait until these words are in the unread part of the log."""
        wait_until(lambda: self._said(words), seconds=40, what=f"{words!r}")

    def says_when_it_connects(self, words: str) -> None:
        """Cut the worker's connections until it logs these words. It reopens a connection that is cut between two requests silently."""

        def said() -> bool:
            if not self._said(words):
                with self.client as client:
                    client.client_kill_filter(_type="normal", skipme=True)
            return self._said(words)

        wait_until(said, seconds=40, what=f"{words!r}", grain=3)

    def _said(self, words: str) -> bool:
        return words.encode() in self._log.read_bytes()[self._read :]

    def works(self) -> None:
        """Assert that the same main process runs a sweep from its queue, and that its log until then is plain."""
        done = self._log.read_bytes().count(b'"report": "nothing to do"')

        def woken() -> bool:
            assert self.process.poll() is None, "its main process ended"
            with self.client as client:
                if not client.llen("sweep"):
                    _wake(self.valkey.url)
            return self._log.read_bytes().count(b'"report": "nothing to do"') > done

        wait_until(woken, seconds=60, what="a sweep", grain=0.5)
        said = self._log.read_text()
        self._read = len(said.encode())
        for hidden in ("object at 0x", "Traceback", "server:", "network:", "auth:", self.valkey.url):
            assert hidden not in said, [line for line in said.splitlines() if hidden in line][:3]


def _wake(url: str) -> None:
    """Put a sweep into its queue."""
    with Celery(broker=url, set_as_current=False) as app:
        app.send_task("reconnect.sweep", queue="sweep", ignore_result=True)


@pytest.fixture
def bad(machine: Machine, own_valkey: OwnValkey) -> Bad:
    return Bad(machine, own_valkey)


def _message(**changes: Any) -> bytes:
    """A message as Kombu puts it into a list, with these changes."""
    whole = {
        "body": base64.b64encode(b"[[], {}, {}]").decode(), "content-encoding": "utf-8", "content-type": "application/json",
        "headers": {"lang": "py", "task": "reconnect.sweep", "id": "8f7c", "argsrepr": "()", "kwargsrepr": "{}"},
        "properties": {
            "delivery_mode": 2, "delivery_tag": "tag", "body_encoding": "base64",
            "delivery_info": {"exchange": "sweep", "routing_key": "sweep"},
        },
    }  # fmt: skip
    return json.dumps(whole | changes).encode()


#: Entries of other programs in one of our lists.
FOREIGN = {
    "no JSON": b"garbage\x1b[31m",
    "no UTF-8": b"\xff\xfe\x00",
    "nothing": b"",
    "a number": b"17",
    "null": b"null",
    "a list": b"[1, 2]",
    "an object": b'{"job": "resize", "url": "https://shop.example/secret?token=abc"}',
    "nested beyond all measure": b"[" * 100_000,
    "huge": b'{"x": "' + b"y" * 3_000_000 + b'"}',
    "properties of another shape": _message(properties=[]),
    "no delivery information": _message(properties={"delivery_tag": "t"}),
    "headers of another shape": _message(headers=["task"]),
    "headers that are null": _message(headers=None),
    "a body that is not base64": _message(body="***"),
    "a body of another shape": _message(body=base64.b64encode(b"17").decode()),
    "an unknown content type": _message(**{"content-type": "application/x-python-serialize"}),
    "a task of another application": _message(headers={"task": "shop.resize", "id": "1"}),
    "a task without an id": _message(headers={"task": "reconnect.sweep"}),
    "a task name that is a list": _message(headers={"task": ["x"], "id": "1"}),
    "protocol 1 of Celery": _message(headers={}, body=base64.b64encode(b'{"task": "shop.resize", "id": "1"}').decode()),
    "protocol 1 without a task": _message(headers={}, body=base64.b64encode(b'{"job": 1}').decode()),
    "an eta that is none": _message(headers={"task": "reconnect.sweep", "id": "1", "eta": "soon"}),
}


@pytest.mark.timeout(300)
def test_foreign_entries_in_a_queue_are_dropped_and_the_worker_goes_on(bad: Bad) -> None:
    with bad.client as client:
        for entry in FOREIGN.values():
            client.lpush("sweep", entry)
        wait_until(lambda: not client.llen("sweep"), what="the end of the queue")
        bad.works()
        # Also in the hash in which Kombu keeps unacknowledged messages.
        client.hset("unacked", "foreign", b"garbage")
        client.hset("unacked", "lost", json.dumps([json.loads(_message()), "gone", "gone"]))
        client.zadd("unacked_index", {"foreign": 1, "lost": 2, "nowhere": 3})
        wait_until(lambda: not client.zcard("unacked_index"), seconds=40, what="the end of what nobody can read")
        client.publish("/0.celeryev/worker.heartbeat", b"garbage")
        client.publish("/0.celery.pidbox", b'{"body": 17}')
        bad.works()
        wait_until(lambda: not client.hlen("unacked"), what="the acknowledgement of the sweeps")
    log = (bad.machine.folder / "worker.log").read_text()
    assert "foreign_entry_dropped" in log
    assert "token=abc" not in log
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", log)


@contextmanager
def _key_of_another_type(bad: Bad, key: str) -> Iterator[str]:
    with bad.client as client:
        client.delete(key)
        client.set(key, "theirs")
        yield "(WRONGTYPE)"
        client.delete(key)


@contextmanager
def _replica(bad: Bad) -> Iterator[str]:
    primary = OwnValkey()
    with bad.client as client:
        client.replicaof("127.0.0.1", primary.port)
        yield "replica"
        client.replicaof("NO", "ONE")
    primary.kill()


@contextmanager
def _no_rights(bad: Bad) -> Iterator[str]:
    with bad.client as client:
        client.execute_command("ACL", "SETUSER", "default", "-brpop", "-zadd", "-eval")
        yield "(NOPERM)"
        client.execute_command("ACL", "SETUSER", "default", "+@all")


@contextmanager
def _no_memory(bad: Bad) -> Iterator[str]:
    with bad.client as client:
        bad.process.send_signal(signal.SIGSTOP)  # so that a message waits when the memory is full
        _wake(bad.valkey.url)
        client.config_set("maxmemory", "1")
        bad.process.send_signal(signal.SIGCONT)
        yield "(OOM)"
        client.config_set("maxmemory", "0")


@contextmanager
def _another_password(bad: Bad) -> Iterator[str]:
    with bad.client as client:
        client.config_set("requirepass", "another")
        client.client_kill_filter(_type="normal", skipme=True)
        yield "password"
    with redis.Redis(port=bad.valkey.port, password="another") as client:
        client.config_set("requirepass", "")


@contextmanager
def _no_disk(bad: Bad) -> Iterator[str]:
    with bad.client as client:
        folder = Path(client.config_get("dir")["dir"])
        client.config_set("save", "3600 1")
        shutil.rmtree(folder)
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] != "ok", what="a save that fails")
        yield "(MISCONF)"
        client.config_set("save", "")
        folder.mkdir()


REFUSALS: dict[str, Callable[[Bad], Any]] = {
    "a queue of another type": lambda bad: _key_of_another_type(bad, "fetch"),
    "what is in hand, of another type": lambda bad: _key_of_another_type(bad, "unacked_index"),
    "a table of queues of another type": lambda bad: _key_of_another_type(bad, "_kombu.binding.celery.pidbox"),
    "a failover": _replica,
    "no rights": _no_rights,
    "no memory": _no_memory,
    "no disk": _no_disk,
    "another password": _another_password,
}


#: By refusal: words of `doctor`'s line about the broker.
_SAID_BY_DOCTOR = {
    "a queue of another type": ["the key fetch is a string and must be a list"],
    "what is in hand, of another type": ["the key unacked_index is a string and must be a zset"],
    "a table of queues of another type": ["the key _kombu.binding.celery.pidbox is a string"],
    "a failover": ["READONLY"],
    "no rights": ["NOPERM"],
    "no memory": ["OOM"],
    "no disk": ["MISCONF"],
    "another password": ["REDIS_URL"],
}


#: After each refusal the worker waits longer before it connects again, so a new worker is started after three.
_NAMES = list(REFUSALS)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("names", [_NAMES[:3], _NAMES[3:6], _NAMES[6:]], ids=" and ".join)
def test_a_broker_that_refuses_is_named_and_lived_through(bad: Bad, names: list[str]) -> None:
    for name in names:
        with REFUSALS[name](bad) as words:
            if "in hand" in name:
                _wake(bad.valkey.url)
            (bad.says_when_it_connects if "table" in name else bad.says)(words)
            assert bad.process.poll() is None, name
            doctor = bad.machine("doctor")
            broker = next(line for line in doctor.out.splitlines() if " broker " in line)
            assert doctor.code == 1
            assert broker.startswith("FAIL"), (name, broker)
            for words_ in _SAID_BY_DOCTOR[name]:
                assert words_ in broker, (name, broker)
        bad.works()


@pytest.mark.timeout(300)
def test_a_broker_that_dies_as_soon_as_it_is_back_does_not_end_the_worker(bad: Bad, schedule: Any) -> None:
    for _ in range(6):
        bad.valkey.kill()
        schedule.pause(0.1, 1.0)
        bad.valkey.start()
        schedule.pause(0.0, 1.0)
    bad.works()
