"""This worker and its alternatives, with the same members, the same MX and the same database server."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from statistics import median

from ops.bench.bench import Bench
from ops.bench.results import in_turns, ratios, row_of
from ops.bench.rivals.running import Rival, RivalRan, run_rival
from ops.bench.whole_job import Ran

CELERY, TASKS, PLAIN = "Celery, one task a member, requests", "one task a member, aiohttp", "plain asyncio script"

#: Each rival with the setting that was best on two cores, and the settings (in flight, processes) that the full form tries again.
RIVALS: dict[Rival, Sequence[tuple[int, int]]] = {
    Rival(name=f"{CELERY}, prefork", kind="prefork", in_flight=32): ((16, 1), (32, 1), (48, 1)),
    Rival(name=f"{CELERY}, threads", kind="threads", in_flight=50): ((20, 1), (50, 1), (100, 1)),
    Rival(name=f"{CELERY}, gevent", kind="gevent", in_flight=100): ((50, 1), (100, 1), (200, 1)),
    Rival(name=f"arq, {TASKS}", kind="arq", in_flight=100): ((100, 1), (200, 1), (400, 2)),
    Rival(name=f"taskiq, {TASKS}", kind="taskiq", in_flight=200): ((100, 1), (200, 1), (400, 2)),
    Rival(name=f"{PLAIN}, a commit a member", kind="script", in_flight=200): ((200, 1), (400, 1)),
}

_MANY = 15_000


def side_by_side(bench: Bench) -> None:
    """Run all of them, each with its best setting."""
    form = bench.form
    database = bench.postgres.create("rivals", template=bench.template(form.members))
    # Our runs include the sweep and the start, and the rivals' do not. With this many members, that is a small part.
    members = max(form.members, _MANY)

    def run(rival: Rival, count: int) -> RivalRan:
        # Celery's pools are slow, so fewer members make an exact run.
        if rival.kind in {"prefork", "threads", "gevent"}:
            count = max(count // 2, 1_000)
        return run_rival(rival, count, database_url=database, broker=bench.broker, number=14, upstream=bench.upstream)

    best = [
        _best(rival, tries, partial(run, count=form.rival_members)) if form.tries_rivals else rival
        for rival, tries in RIVALS.items()
    ]
    with ExitStack() as stack:
        ours = {
            "one child": stack.enter_context(bench.site(broken=members, mx_max_connections=400)),
            "two children": stack.enter_context(bench.site(broken=members, children=2, mx_max_connections=200)),
        }
        in_turns({name: site.run for name, site in ours.items()}, 1)
        ours["two children"].run()  # so that each child has run its first task
        rounds = max(form.rival_rounds, 1)
        workers = in_turns({name: site.run for name, site in ours.items()}, rounds)
        rivals = in_turns({rival.name: partial(run, rival, form.rival_members) for rival in best}, rounds)
    for rival in best:
        ran = rivals[rival.name]
        publishing = median(r.publishing_seconds / r.members for r in ran) * 1e6
        bench.add(
            row_of(
                rival.name,
                [r.rate for r in ran],
                unit="members/s",
                detail=f"{rival.in_flight} at once, {rival.processes} process{'es' * (rival.processes > 1)}"
                + (f"; its queue filled beforehand ({publishing:,.0f} µs a member)" if publishing else ""),
            )
        )
    for name, runs in workers.items():
        bench.add(
            row_of(f"this worker, {name}, whole job", [r.rate for r in runs], unit="members/s", detail="sweep included")
        )
    for group, wanted in ((CELERY, 8), (TASKS, 4), (PLAIN, None)):
        theirs = [rivals[rival.name] for rival in best if group in rival.name]
        _against(bench, group, wanted=wanted, ours=workers, theirs=theirs)


def _against(
    bench: Bench, group: str, *, wanted: float | None, ours: Mapping[str, list[Ran]], theirs: Sequence[list[RivalRan]]
) -> None:
    """Compare the worker with the best rival of a group in each round."""
    turns = range(len(theirs[0]))
    rates = [max(ran[turn].rate for ran in theirs) for turn in turns]
    with_one = median(ratios((r.rate for r in ours["one child"]), rates))
    bench.add(
        row_of(
            f"worker ÷ the best of: {group}",
            ratios((max(ran[turn].rate for ran in ours.values()) for turn in turns), rates),
            at_least=wanted,
            detail=f"each at its best on two cores, our sweep included; with one child {with_one:.1f}",
        )
    )


def _best(rival: Rival, tries: Sequence[tuple[int, int]], run: Callable[[Rival], RivalRan]) -> Rival:
    """Try each setting of a rival; return the rival with the best one."""
    tried = [replace(rival, in_flight=in_flight, processes=processes) for in_flight, processes in tries]
    rates = {candidate: run(candidate).rate for candidate in tried}
    return max(tried, key=lambda candidate: rates[candidate])
