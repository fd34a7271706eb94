"""Whether a child's memory grows with the number of members that it has worked on."""

import threading
import time

from ops.bench.bench import Bench
from ops.bench.peak import held_by
from ops.bench.results import Row


def child_memory(bench: Bench) -> None:
    """Let one child work through many members; compare its memory after few members and at the end."""
    few, many = bench.form.memory
    with bench.site(broken=many, mx_max_connections=400) as site:
        (child,) = site.worker.children
        held: list[float] = []

        def watch() -> None:
            while not held:
                if bench.upstream.stats()["answered"] >= few:
                    held.append(held_by(child))
                time.sleep(0.2)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        ran = site.run()
        watcher.join()
        (same,) = site.worker.children
        if same.pid != child.pid:
            raise RuntimeError("the child was replaced meanwhile")
        after = held_by(child)
    bench.add(
        Row(
            what=f"child's memory after {many:,} members ÷ after {few:,}",
            value=after / held[0],
            at_most=1.1,
            samples=(after / held[0],),
            detail=f"{after:.0f} MiB against {held[0]:.0f} MiB; {ran.fetch_rate:,.0f} members/s over all of them",
        )
    )
