"""Deliver against bare aiosmtplib, both with the same number of connections to a mail server that takes 10 ms for each command."""

import time
from contextlib import ExitStack
from functools import partial
from statistics import median

from ops.bench.bench import Bench, run_module
from ops.bench.plotting import Curve
from ops.bench.processes import wait_until
from ops.bench.results import in_turns, ratios, row_of
from ops.bench.servers import MailSink, mail_sink
from ops.bench.whole_job import Site

_LEFT = "SELECT EXISTS (SELECT 1 FROM notifications WHERE state IN ('pending', 'sending'))"


def delivering(bench: Bench) -> None:
    """Measure from the moment at which the task is sent until the last mail is recorded as sent."""
    form = bench.form
    ours, bare = [], []
    for connections in form.mail_connections:
        with ExitStack() as stack:
            sink = stack.enter_context(mail_sink())
            mails = form.mails
            site = stack.enter_context(bench.site(broken=mails, smtp_port=sink.port, smtp_connections=connections))
            runs = {"bare": partial(_bare, sink, mails, connections), "ours": partial(_deliver, site, sink)}
            _deliver(site, sink)
            found = in_turns(runs, form.rounds if connections == form.mail_connections[0] else max(form.rounds // 2, 1))
        ours.append((connections, median(found["ours"])))
        bare.append((connections, median(found["bare"])))
        bench.add(
            row_of(
                f"deliver ÷ bare aiosmtplib, {connections} connections",
                ratios(found["ours"], found["bare"]),
                at_least=0.8,
                detail=f"{median(found['ours']):,.0f} against {median(found['bare']):,.0f} mails/s",
            )
        )
    if len(form.mail_connections) > 1:
        bench.results.curves.append(
            Curve(
                name="mail",
                title="Mails, a server that takes 10 ms for each command",
                x="connections",
                y="mails a second",
                lines={"bare aiosmtplib": bare, "deliver": ours},
            )
        )


def _bare(sink: MailSink, mails: int, connections: int) -> float:
    """Mails a second without a worker."""
    return mails / float(run_module("ops.bench.bare_mail", str(sink.port), str(mails), str(connections)))


def _deliver(site: Site, sink: MailSink) -> float:
    """Fetch all windows, then deliver the mails; return mails a second."""
    site.run()
    sink.take_stats()
    with site.database.connected() as connection:
        connection.execute("DELETE FROM pauses")
        began = time.monotonic()
        site.worker.send("deliver")
        wait_until(lambda: not connection.execute(_LEFT).fetchone()[0], seconds=600, every=0.02, what="delivery")
        took = time.monotonic() - began
        sent = connection.execute("SELECT count(*) FROM notifications WHERE state = 'sent'").fetchone()
        connection.execute(
            "INSERT INTO pauses (scope, reason, since) VALUES ('channel:email', 'bench', now()) ON CONFLICT DO NOTHING"
        )
    if sent != (site.broken,) or (taken := sink.take_stats()["mails"]) != site.broken:
        raise RuntimeError(f"{sent} mails are on record, {taken} arrived, {site.broken} must be")
    return site.broken / took
