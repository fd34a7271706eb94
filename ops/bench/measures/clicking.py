"""The web process: pages a second, presses a second, and our share of a press's time, also while a worker fetches a batch."""

import hashlib
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from ops.bench.bench import Bench, run_module
from ops.bench.processes import cpu_of, running, wait_until
from ops.bench.results import Row
from ops.bench.servers import is_open
from ops.bench.whole_job import Site
from worker.cli.processes import free_port

#: Presses a second while they are timed, and for how long (seconds).
RATES, SECONDS = (50, 200), 12
#: MX's time for an answer (seconds).
MX = 0.05
#: How many links the customers press, and how many other members the batch has.
LINKS, BATCH = 4_000, 20_000
#: The limit of requests a second to MX. The batch takes all that it gets.
LIMIT = 500


def clicking(bench: Bench) -> None:
    """Pages and presses as fast as they are answered; then presses at a steady rate: alone, beside a batch, with a limit used up."""
    with _site(bench) as (site, url, tokens, web):
        cpu = cpu_of(web)
        pages = _load(url, tokens, "get", "--in-flight", 32, "--seconds", 8)
        page_cpu = (cpu_of(web) - cpu) / len(pages["took"])
        cpu = cpu_of(web)
        presses = _load(url, tokens, "post", "--in-flight", 64, "--seconds", 8)
        press_cpu = (cpu_of(web) - cpu) / len(presses["took"])
        bench.add(
            Row(what="pages a second of one web process", value=_rate(pages), detail=_about(pages, page_cpu)),
            Row(what="presses a second of one web process, MX at 50 ms", value=_rate(presses), detail=_about(presses, press_cpu)),
        )  # fmt: skip
        for rate in RATES:
            alone = _load(url, tokens, "post", "--rate", rate, "--seconds", SECONDS)
            bench.add(_share(f"our share of a press at {rate} a second, p99", alone, at_most=25))
        for rate in RATES:
            _batch_is_due(site)
            beside = _load(url, tokens, "post", "--rate", rate, "--seconds", SECONDS)
            what = f"the same at {rate} a second beside a child that fetches at full speed, p99"
            bench.add(_share(what, beside, at_most=25, site=site))
            site.database.wait_until_fetched(120)
    with _site(bench, mx_requests_per_second=LIMIT) as (site, url, tokens, _):
        for rate in RATES:
            _batch_is_due(site)
            limited = _load(url, tokens, "post", "--rate", rate, "--seconds", SECONDS)
            what = f"the same at {rate} a second where the batch uses a limit of {LIMIT} a second up, p99"
            bench.add(_share(what, limited, at_most=100, site=site))


@contextmanager
def _site(bench: Bench, **settings: Any) -> Iterator[tuple[Site, str, Path, psutil.Process]]:
    """A worker, its web process, and links. Each link leads to one bank, and each press needs a new window."""
    port = free_port()
    more = {"public_base_url": f"http://127.0.0.1:{port}", "web_listen": f"127.0.0.1:{port}", "uri_max_age": "1s"}
    with (
        bench.site(broken=LINKS + BATCH, **more, **settings) as site,
        tempfile.TemporaryDirectory(prefix="bench-web-") as given,
    ):
        site.run(delay=MX)
        folder = Path(given)
        _make_links(site, folder / "tokens")
        command = [sys.executable, "-m", "worker", "web"]
        with running(command, settings=site.worker.settings, folder=folder, log=folder / "web.log") as process:
            wait_until(lambda: is_open(port), what="the web process's start")
            yield site, f"http://127.0.0.1:{port}", folder / "tokens", psutil.Process(process.pid)


def _make_links(site: Site, tokens: Path) -> None:
    """Make a link for the message of each of the first users."""
    made = [secrets.token_urlsafe(16) for _ in range(LINKS)]
    with site.database.connected() as connection:
        query = (
            "SELECT n.user_guid, n.id FROM notifications n JOIN notification_reconnections i ON i.notification_id = n.id "
            "ORDER BY i.reconnection_id LIMIT %s"
        )
        messages = connection.execute(query, (LINKS,)).fetchall()
        rows = [(hashlib.sha256(t.encode()).hexdigest(), *message) for t, message in zip(made, messages, strict=True)]
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO links (token_hash, user_guid, notification_id, created_at, expires_at) "
                "VALUES (%s, %s, %s, now(), now() + interval '40 days')",
                rows,
            )
        connection.execute("ANALYZE")
    tokens.write_text("\n".join(made), encoding="ascii")


def _batch_is_due(site: Site) -> None:
    """Make all members without a link due, and let the worker fetch them."""
    theirs = "SELECT id FROM reconnections ORDER BY id OFFSET %s"
    with site.database.connected() as connection:
        for statement in (
            f"DELETE FROM notification_reconnections WHERE reconnection_id IN ({theirs})",
            (
                "DELETE FROM notifications n WHERE NOT EXISTS "
                "(SELECT 1 FROM notification_reconnections i WHERE i.notification_id = n.id) AND %s > 0"
            ),
            f"UPDATE windows SET superseded_at = now(), uri = NULL WHERE reconnection_id IN ({theirs})",
            f"UPDATE reconnections SET state = 'due', next_attempt_at = now(), step = step + 1 WHERE id IN ({theirs})",
        ):
            connection.execute(statement, (LINKS,))
        site.worker.send("fetch")
        fetched = "SELECT count(*) FROM windows WHERE epoch > 1 AND superseded_at IS NULL"
        wait_until(lambda: connection.execute(fetched).fetchone()[0], every=0.1, what="the batch's first windows")


def _load(url: str, tokens: Path, method: str, *options: object) -> Any:
    found = run_module("ops.bench.click_load", url, str(tokens), method, *map(str, options))
    good = "200" if method == "get" else "303"
    found["others"] = {status: count for status, count in found["statuses"].items() if status != good}
    return found


def _rate(found: Any) -> float:
    return float(len(found["took"]) / found["seconds"])


def _about(found: Any, cpu: float) -> str:
    return f"{cpu * 1e6:.0f} µs of CPU each; half within {_at(found, 0.5) * 1000:.0f} ms, 99 % within {_at(found, 0.99) * 1000:.0f} ms"


def _share(what: str, found: Any, *, at_most: float, site: Site | None = None) -> Row:
    own, half = (_at(found, share) * 1000 - MX * 1000 for share in (0.99, 0.5))
    detail = f"half {half:.1f} ms; at most {found['took'][-1] * 1000 - MX * 1000:.0f} ms; {len(found['took'])} presses"
    if found["others"]:
        detail += f"; answers other than 303: {found['others']}"
    if site is not None:
        left = site.database.one("SELECT count(*) FROM reconnections WHERE state IN ('due', 'leased')")
        detail += f"; {left} of {BATCH} of the batch left at the end"
    return Row(what=what, value=own, unit="ms", at_most=at_most, detail=detail)


def _at(found: Any, share: float) -> float:
    took = found["took"]
    return float(took[min(len(took) - 1, int(len(took) * share))])
