"""How many requests the whole job sends to the database and the broker: sweep, fetch, deliver and one check of verify."""

import re
import time
from collections.abc import Callable

from ops.bench.bench import Bench
from ops.bench.counting import Counted, counted, statements_logged
from ops.bench.processes import wait_until
from ops.bench.results import Row
from ops.bench.servers import mail_sink

#: As many as a mail server accepts in some seconds.
MAILS = 2_000


def asked(bench: Bench) -> None:
    """Count one run that is not timed. Only some messages are delivered, since a mail server takes time for each."""
    members, mails = bench.form.members, min(bench.form.members, MAILS)
    found: dict[str, Counted] = {}
    with mail_sink() as sink, bench.site(broken=members, smtp_port=sink.port) as site:
        name = site.database.one("SELECT current_database()")
        site.run()
        with statements_logged(bench.postgres, name):
            _reconnect_everybody(bench, name)
            with counted(bench.postgres, bench.broker) as found["sweep and fetch"]:
                site.run()
            with site.database.connected() as connection:
                connection.execute(_LEAVE_SOME, (mails,))
                connection.execute("DELETE FROM pauses")
                with counted(bench.postgres, bench.broker) as found["deliver"]:
                    site.worker.send("deliver")
                    wait_until(
                        lambda: not connection.execute(_UNSENT).fetchone()[0], seconds=600, every=0.2, what="delivery"
                    )
                    time.sleep(1)  # the task ends
                connection.execute("UPDATE reconnections SET next_check_at = now() WHERE state = 'notified'")
                with counted(bench.postgres, bench.broker) as found["verify"]:
                    site.worker.send("verify")
                    wait_until(
                        lambda: not connection.execute(_UNSEEN).fetchone()[0], seconds=600, every=0.2, what="verifying"
                    )
                    time.sleep(1)
    _rows(bench, {"sweep and fetch": members, "deliver": mails, "verify": mails}, found)


_LEAVE_SOME = (
    "UPDATE notifications SET next_attempt_at = now() + interval '1 day' "
    "WHERE id NOT IN (SELECT id FROM notifications ORDER BY id LIMIT %s)"
)
_UNSENT = (
    "SELECT EXISTS (SELECT 1 FROM notifications WHERE state IN ('pending', 'sending') AND next_attempt_at <= now())"
)
_UNSEEN = "SELECT EXISTS (SELECT 1 FROM reconnections WHERE state = 'notified' AND checks = 0)"


def _reconnect_everybody(bench: Bench, name: str) -> None:
    """End the sessions of a database, so that new ones begin with its new settings."""
    import psycopg

    with psycopg.connect(bench.postgres.uri, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))


def _rows(bench: Bench, rows: dict[str, int], found: dict[str, Counted]) -> None:
    def by_stage(figure: Callable[[Counted], int]) -> str:
        return ", ".join(f"{stage} {figure(counts) / rows[stage]:.3f}" for stage, counts in found.items())

    def figures(what: str, figure: Callable[[Counted], int], detail: str) -> list[Row]:
        stored, mailed = (figure(found[stage]) / rows[stage] for stage in ("sweep and fetch", "deliver"))
        return [
            Row(what=f"{what} a member, whole job", value=stored, at_most=0.1, detail="sweep and fetch"),
            Row(what=f"{what} a member, to the mail", value=stored + mailed, detail=detail),
        ]

    statements = (
        f"{by_stage(lambda c: c.work_count)}; BEGIN and COMMIT besides: "
        f"{by_stage(lambda c: c.statement_count - c.work_count)}"
    )
    bench.add(
        *figures("database statements", lambda c: c.work_count, statements),
        *figures("Redis commands", lambda c: c.redis_count, by_stage(lambda c: c.redis_count)),
    )
    fetching = found["sweep and fetch"]
    dearest = sorted(fetching.statements.items(), key=lambda item: -item[1].milliseconds)[:4]
    micros = 1000 / rows["sweep and fetch"]
    bench.add(
        Row(
            what="PostgreSQL's time a member, sweep and fetch",
            value=fetching.database_milliseconds * micros,
            unit="µs",
            detail="; ".join(f"{s.milliseconds * micros:.0f} µs {_name(text)}" for text, s in dearest),
        )
    )


def _name(text: str) -> str:
    """What a statement does, in a few words."""
    found = re.search(r"(?:UPDATE|INSERT INTO|FROM|DELETE FROM) (\w+)", text)
    return f"{text.split(' ', 1)[0]} {found[1]}" if found else text[:20]
