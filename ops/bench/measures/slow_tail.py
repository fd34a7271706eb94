"""The throughput when one answer in a hundred takes ten seconds.

A slow answer keeps a connection busy as long as 200 answers of 50 ms. So any client needs more connections than before: with 200 in
flight, 1 % of 10 s leaves a third of the requests. The measure uses more connections than needed, and bare aiohttp shows the upper
limit.
"""

from collections.abc import Sequence
from functools import partial
from statistics import median

from ops.bench.bench import Bench
from ops.bench.results import in_turns, ratios, row_of

#: Enough connections for the slow 1 % and the others. MX allows 2,000 from one address.
IN_FLIGHT = 1000
SLOW = {"slow_every": 100, "slow_delay": 10}
#: Requests a second that no client exceeds.
MOST = 6_000
#: After this many seconds, as many slow answers end as begin.
STEADY_AFTER = 11.0


def slow_tail(bench: Bench) -> None:
    """Measure with and without the slow tail, from the moment at which the tail is full."""
    form = bench.form
    seconds = STEADY_AFTER + form.tail_seconds
    # More members than a client can ask for in that time.
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
    """Requests begun a second, from the moment at which the tail is full until the end, or until the last request has begun."""
    steady = [(at, begun) for at, begun, _ in course if at >= course[0][0] + STEADY_AFTER]
    if len(steady) < 2:
        raise RuntimeError("the run ended before the tail was full")
    ended, last = next((at, begun) for at, begun in steady if begun == steady[-1][1])
    return (last - steady[0][1]) / (ended - steady[0][0])
