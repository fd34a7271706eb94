"""The worker's throughput and CPU against bare aiohttp, and the gain from more requests in flight and from a second child."""

from contextlib import ExitStack
from functools import partial
from statistics import median

from ops.bench.bench import DEFAULT_SLICE, Bare, Bench
from ops.bench.plotting import Curve
from ops.bench.results import in_turns, ratios, row_of
from ops.bench.whole_job import Ran, Site, site_on_sqlite

#: (requests in flight, share of bare aiohttp that must be reached).
WANTED = ((200, 0.90), (400, 0.75))
#: Few requests in flight, so that neither the client nor MX is short of CPU.
FEW = 50


def against_bare(bench: Bench) -> None:
    """Measure one child on PostgreSQL against one process of bare aiohttp, alternately, and one child on SQLite."""
    form = bench.form
    with ExitStack() as stack:
        sites = {n: stack.enter_context(bench.site(broken=form.members, mx_max_connections=n)) for n, _ in WANTED}
        sqlite = stack.enter_context(
            site_on_sqlite(
                broker=bench.broker, number=15, upstream=bench.upstream, members=2 * form.members, broken=form.members
            )
        )
        usual = stack.enter_context(bench.site(broken=form.members, mx_max_connections=400, batch_size=DEFAULT_SLICE))
        runs = {f"ours {n}": site.run for n, site in sites.items()} | {"usual": usual.run, "sqlite": sqlite.run}
        bares = {f"bare {n}": partial(bench.bare, requests=form.members, in_flight=n) for n in sites}
        in_turns(runs, 1)  # the first run of a process also opens connections and compiles statements
        mixed = {name: run for pair in zip(bares.items(), runs.items(), strict=False) for name, run in pair}
        found = in_turns(mixed, form.rounds)
        found |= in_turns(
            {"bare": bares["bare 400"], "usual": usual.run, "sqlite": sqlite.run}, max(form.rounds - 2, 3)
        )
    for n, wanted in WANTED:
        _rows(bench, f"{n} in flight", wanted, found[f"ours {n}"], found[f"bare {n}"])
    _rows(bench, f"400 in flight, BATCH_SIZE at its default of {DEFAULT_SLICE}", None, found["usual"], found["bare"])
    on_sqlite: list[Ran] = found["sqlite"]
    bench.add(
        row_of("worker on SQLite, whole job, one child, 200 in flight", [r.rate for r in on_sqlite], unit="members/s")
    )
    _cost(bench, found["ours 400"], found["bare 400"])


def _rows(bench: Bench, how: str, wanted: float | None, ours: list[Ran], bare: list[Bare]) -> None:
    whole = median(ratios((r.rate for r in ours), (b.rate for b in bare)))
    bench.add(
        row_of(
            f"one child ÷ bare aiohttp, {how}",
            ratios((r.fetch_rate for r in ours), (b.rate for b in bare)),
            at_least=wanted,
            detail=f"{median(r.fetch_rate for r in ours):,.0f} members/s fetched and stored against "
            f"{median(b.rate for b in bare):,.0f} requests/s; with the sweep before it {median(r.rate for r in ours):,.0f}, {whole:.2f}",
        )
    )


def _cost(bench: Bench, ours: list[Ran], bare: list[Bare]) -> None:
    """The CPU time of a member, divided by that of a request in bare aiohttp. This ratio is similar on all machines."""
    requests = [b.cpu / b.requests for b in bare]
    worker = [r.worker_cpu / r.members for r in ours]
    database = [r.database_cpu / r.members for r in ours]
    beside = f"µs, bare aiohttp {median(requests) * 1e6:.0f} µs"
    bench.add(
        row_of(
            "CPU of all the worker's processes a member ÷ bare aiohttp's a request",
            ratios(worker, requests),
            at_most=1.4,
            detail=f"{median(worker) * 1e6:.0f} {beside}; sweep included",
        ),
        row_of(
            "PostgreSQL's CPU a member ÷ bare aiohttp's a request",
            ratios(database, requests),
            at_most=0.85,
            detail=f"{median(database) * 1e6:.0f} {beside}",
        ),
        row_of(
            "MX stand-in's own ceiling",
            [b.requests / b.upstream_cpu for b in bare],
            unit="requests/s",
            detail="what its CPU seconds a request allow on a core of its own",
        ),
    )


def curve(bench: Bench) -> None:
    """Members a second against requests in flight."""
    form = bench.form
    if not form.curve:
        return
    ours, bare, whole = [], [], []
    for n in form.curve:
        members = min(form.members, 100 * n)
        with bench.site(broken=members, mx_max_connections=n) as site:
            site.run()
            found = in_turns(
                {"bare": partial(bench.bare, requests=members, in_flight=n), "ours": site.run},
                max(form.rounds // 2, 1),
            )
        ours.append((n, median(r.fetch_rate for r in found["ours"])))
        whole.append((n, median(r.rate for r in found["ours"])))
        bare.append((n, median(r.rate for r in found["bare"])))
    bench.results.curves.append(
        Curve(
            name="in-flight",
            title="One process, MX at 50 ms",
            x="requests in flight",
            y="members (requests) a second",
            lines={"bare aiohttp": bare, "fetched and stored": ours, "with the sweep": whole},
        )
    )


def children(bench: Bench) -> None:
    """Measure two children against one, both with CPU to spare and with all CPU in use."""
    form = bench.form
    for n, members, wanted in ((FEW, form.members // 3, 1.8), (200, form.members, None)):
        with ExitStack() as stack:
            sites: dict[str, Site] = {
                f"{c}": stack.enter_context(bench.site(broken=members, children=c, mx_max_connections=n))
                for c in (1, 2)
            }
            runs = {name: site.run for name, site in sites.items()}
            in_turns(runs, 1)
            runs["2"]()  # once more, so that each child has run its first task
            found = in_turns(runs, form.rounds if wanted else max(form.rounds - 2, 3))
        one, two = found["1"], found["2"]
        busy = median((r.worker_cpu + r.database_cpu + r.upstream_cpu) / r.fetch_seconds for r in two)
        bench.add(
            row_of(
                f"two children ÷ one, {n} in flight each",
                ratios((r.fetch_rate for r in two), (r.fetch_rate for r in one)),
                at_least=wanted,
                detail=f"{median(r.fetch_rate for r in two):,.0f} against {median(r.fetch_rate for r in one):,.0f} members/s; "
                f"worker, PostgreSQL and MX stand-in together keep {busy:.2f} cores busy",
            )
        )
