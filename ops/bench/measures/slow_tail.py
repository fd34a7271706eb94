"""One answer of a hundred takes ten seconds: what is left of the throughput.

A slow answer keeps a connection busy as long as two hundred others do, so no client keeps its pace on as many connections as
were just enough before: at 200 in flight and 50 ms, 1 % of 10 s leaves a third of the requests, whoever asks. So it is
measured with connections to spare, and bare aiohttp beside it says what physics leaves.
"""

from collections.abc import Sequence
from functools import partial
from statistics import median

from ops.bench.bench import Bench
from ops.bench.results import in_turns, ratios, row_of

#: Enough for 1 % of 10 s beside the others: MX allows 2,000 connections from one address.
IN_FLIGHT = 1000
SLOW = {"slow_every": 100, "slow_delay": 10}
#: No client gets through more (requests a second).
MOST = 6_000
#: By then as many slow answers end as begin.
STEADY_AFTER = 11.0


def slow_tail(bench: Bench) -> None:
    """Both with and without a slow tail, watched once the tail is as long as it gets; in the full form across the ends of runs."""
    form = bench.form
    seconds = STEADY_AFTER + form.tail_seconds
    # More than a client can get through in that time.
    members = int(seconds * MOST)
    with bench.site(broken=members, mx_max_connections=IN_FLIGHT) as site:
        bare = partial(bench.bare, requests=members, in_flight=IN_FLIGHT, stop_after=seconds)
        runs = {
            "ours": lambda: _steady_rate(site.course_of(seconds)),
            "ours slow": lambda: _steady_rate(site.course_of(seconds, **SLOW)),
        }
        if form.tail_of_bare:
            runs["bare"] = lambda: _steady_rate(bare().course)
            runs["bare slow"] = lambda: _steady_rate(bare(**SLOW).course)
        found = in_turns(runs, form.tail_rounds)
    ours, slow = found["ours"], found["ours slow"]
    detail = (
        f"{median(slow):,.0f} against {median(ours):,.0f} members/s from second {STEADY_AFTER:.0f} to {seconds:.0f}"
    )
    if form.tail_of_bare:
        detail += f"; bare aiohttp {median(ratios(found['bare slow'], found['bare'])):.2f}"
    what = f"slow tail: 1 % of answers take 10 s ÷ none slow, {IN_FLIGHT} in flight"
    bench.add(row_of(what, ratios(slow, ours), at_least=0.9, detail=detail))


def _steady_rate(course: Sequence[tuple[float, int, int]]) -> float:
    """Requests begun a second, from the moment at which the tail is full until the end or until the last has begun."""
    steady = [(at, begun) for at, begun, _ in course if at >= course[0][0] + STEADY_AFTER]
    if len(steady) < 2:
        raise RuntimeError("the run ended before the tail was full")
    ended, last = next((at, begun) for at, begun in steady if begun == steady[-1][1])
    return (last - steady[0][1]) / (ended - steady[0][0])
