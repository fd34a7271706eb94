"""Where a child's CPU time goes: sampled by py-spy and grouped by purpose, in µs a member."""

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ops.bench.bench import Bench
from ops.bench.processes import cpu_of
from ops.bench.servers import environment

#: Purposes, and the frames that belong to them. The innermost frame that matches decides; of several patterns, the first.
_PURPOSES: tuple[tuple[str, str], ...] = (
    ("waking workers (Celery, Kombu, redis-py)", r"redis/|kombu/|celery/|worker/publishing|amqp/"),
    ("HTTP call (aiohttp and its sockets)", r"aiohttp/|yarl/|multidict/|worker/mx/transport"),
    ("encryption (Fernet)", r"cryptography/|worker/store/encryption"),
    ("asking and classifying (worker/mx)", r"worker/mx/"),
    ("planning (worker/policy)", r"worker/policy/"),
    ("database driver (psycopg)", r"psycopg"),
    ("SQLAlchemy", r"sqlalchemy/(?!util/concurrency)"),
    ("tenacity", r"tenacity/"),
    ("rows in and out (worker/store)", r"worker/store/"),
    ("stage (worker/stages)", r"worker/stages/"),
    ("logging (structlog)", r"structlog/|logging/"),
)
_LOOP = "event loop (asyncio)"
_WAITS = re.compile(r"_worker \(concurrent/|wait \(threading|poll \(billiard/|_take_one \(worker/stopping")

#: Enough requests in flight to keep the child busy.
IN_FLIGHT = 400


def profile(bench: Bench, *, runs: int = 3) -> None:
    """Run the whole job a few times under py-spy, and bare aiohttp for comparison. Both make the same HTTP calls."""
    requests = bench.form.members * runs
    with (
        bench.site(broken=bench.form.members, mx_max_connections=IN_FLIGHT) as site,
        tempfile.TemporaryDirectory() as folder,
    ):
        site.run()
        (child,) = site.worker.children
        file = Path(folder) / "child"
        spy = subprocess.Popen(
            [*_record(file), "--pid", str(child.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        time.sleep(2)
        if spy.poll() is not None:
            raise RuntimeError(f"py-spy: {spy.stderr.read().decode() if spy.stderr else ''}")
        cpu = cpu_of(child)
        members = sum(site.run().members for _ in range(runs))
        cpu = cpu_of(child) - cpu
        spy.send_signal(signal.SIGINT)
        spy.wait(60)
        ours = _read(file)
        bench.upstream.set()
        file = Path(folder) / "bare"
        arguments = (bench.upstream.url, "--requests", str(requests), "--in-flight", str(IN_FLIGHT))
        ran = subprocess.run(
            [*_record(file), "--", sys.executable, "-m", "ops.bench.bare", *arguments],
            env=environment(), check=True, capture_output=True, text=True,
        )  # fmt: skip
        (line,) = (line for line in ran.stdout.splitlines() if line.startswith("{"))
        bare = _read(file)
    _print(_Profile(ours, cpu / members * 1e6), _Profile(bare, json.loads(line)["cpu"] / requests * 1e6))


def _record(file: Path) -> list[str]:
    """The command of py-spy from this environment. By default it stops the process for each sample, so that stacks are consistent."""
    options = ("--rate", "200", "--duration", "3600", "--format", "raw", "--output", str(file))
    return [str(Path(sys.executable).with_name("py-spy")), "record", *options]


def _read(file: Path) -> list[tuple[list[str], int]]:
    stacks = []
    for line in file.read_text(encoding="utf-8").splitlines():
        text, _, count = line.rpartition(" ")
        stacks.append(([_frame(part) for part in text.split(";")], int(count)))
    return stacks


def _frame(part: str) -> str:
    """``function (file)``, without the line."""
    name, _, place = part.partition(" (")
    return f"{name} ({place.rpartition(':')[0] or place.rstrip(')')})"


class _Profile:
    """Samples, and the CPU time that is divided among them."""

    def __init__(self, stacks: list[tuple[list[str], int]], micros: float) -> None:
        # py-spy takes threads that wait for work or for another thread for busy, so they are left out.
        self.stacks = [(frames, count) for frames, count in stacks if not _WAITS.search(frames[-1])]
        self.micros = micros
        self.total = sum(count for _, count in self.stacks)

    def by(self, names: Callable[[list[str]], Iterable[str]]) -> dict[str, float]:
        """µs a member, by the names that ``names`` gives to a stack."""
        found: Counter[str] = Counter()
        for frames, count in self.stacks:
            for name in names(frames):
                found[name] += count
        return {name: count / self.total * self.micros for name, count in found.most_common()}


def _print(ours: _Profile, bare: _Profile) -> None:
    console = Console(highlight=False)
    table = Table(
        "what for",
        "child, µs a member",
        "bare aiohttp, µs a request",
        title="CPU time, by the innermost frame that tells",
    )
    theirs = bare.by(lambda frames: [_purpose(frames)])
    for what, micros in ours.by(lambda frames: [_purpose(frames)]).items():
        table.add_row(what, f"{micros:.1f}", f"{theirs.get(what, 0.0):.1f}")
    table.add_row("all", f"{ours.micros:.1f}", f"{bare.micros:.1f}")
    console.print(table)
    table = Table("our functions, with all they call", "µs a member")
    inside = ours.by(lambda frames: {frame for frame in frames if "worker/" in frame})
    for name, micros in islice(inside.items(), 50):
        table.add_row(name, f"{micros:.1f}")
    console.print(table)


def _purpose(frames: list[str]) -> str:
    for frame in reversed(frames):
        for what, pattern in _PURPOSES:
            if re.search(pattern, frame):
                return what
    return _LOOP
