"""The demonstration's forty days: what happens on each, and how many messages every customer must have by then.

Time is accelerated by moving every stored moment back (:mod:`worker.store.sandbox_time`) between two sweeps. Worker, broker, bank,
mailbox and phones are real processes, to which nothing is different. Users' time zones are moved too, so that their clocks agree. The run stops
shortly before and after each day on which something must happen, and on quiet days between them. Messages are counted where they
arrive, never in our own database.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from worker.errors import WorkerError
from worker.policy.cadence import PATIENCE_AFTER_LAST
from worker.runtime import Runtime
from worker.sandbox.customers import Customers, Saw
from worker.sandbox.demo.reach import SCANNERS, Reach
from worker.sandbox.scanning import ScanKind, kind_for
from worker.sandbox.scenario import DemoMember, devices_of, with_devices, write_import, write_zones
from worker.stages.sweep import sweep
from worker.store.queries.reports import ReportStore
from worker.store.queries.returns import Returns, ReturnStore
from worker.store.queries.standing import Standing, StandingStore
from worker.store.sandbox_time import set_back
from worker.store.sweeping import SweepReport

#: The work of one stop takes seconds; after this time it has failed (seconds).
_PATIENCE = 90.0
#: The most sweeps of one stop. A dead address needs one more sweep than a good one.
_SWEEPS = 6
#: Users who sleep at the start get the first message within three hours, and their days count from that message. So a stop comes four
#: hours after the first users' reminder: late enough for all users, and not yet night. Stops are whole hours apart, as time zones are.
_MORNING, _LATE = timedelta(hours=3), timedelta(hours=4)
_JUST_BEFORE = timedelta(hours=1)
_A_DAY = timedelta(days=1)
_QUIET_DAYS = (1, 5, 10, 22, 40)
#: When customers come, as the summary names it.
_CAME = _AT_ONCE, _AFTER_DAYS, _AFTER_A_REMINDER = "at once", "after 3 days", "after a reminder"
#: How long MX's own links live in the demonstration (seconds). MX does not say; it is longer than URI_MAX_AGE.
_LINK_SECONDS = 1800
#: Customers who click at the same time.
_AT_A_TIME = 8


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A moment at which the demonstration sweeps and counts messages."""

    #: Time since the first message, in whole hours.
    at: timedelta
    what: str
    #: Messages that a user who never answers must have by then.
    rounds: int
    #: The next message is due soon: customers who come late come now.
    late: bool = False


@dataclass(kw_only=True)
class Received:
    """How many messages arrived at one user's addresses."""

    mails: int = 0
    pushes: int = 0


@dataclass(kw_only=True)
class Results:
    """The results of the run."""

    demo_members: Sequence[DemoMember] = ()
    #: Each member's state on the first day and at the end.
    at_first: dict[str, str] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    #: By user, at the end.
    received: dict[str, Received] = field(default_factory=dict)
    #: Users who had too many or too few messages at any stop.
    miscounted: set[str] = field(default_factory=set)
    days: list[dict[str, Any]] = field(default_factory=list)
    #: Where first clicks led.
    reach: Reach = field(default_factory=lambda: Reach(moments=_CAME))
    #: Customers who clicked while MX was down: where the first click led, and where the second led when MX was back.
    mx_down: Counter[tuple[Saw, Saw]] = field(default_factory=Counter)
    #: What mail scanners of each kind did.
    scans: dict[str, dict[str, int]] = field(default_factory=dict)
    standing: Standing | None = None
    returns: Returns | None = None


@dataclass(frozen=True, kw_only=True)
class Commands:
    """The functions of the commands that the demonstration uses."""

    #: Imports a file; returns how many rows were imported and refused.
    import_file: Callable[[Path], Awaitable[tuple[int, int]]]
    #: Waits at most this many seconds until the workers have done everything that is due; with or without a progress bar.
    follow: Callable[[float, bool], Awaitable[None]]
    #: Prints a line beside the result.
    say: Callable[[str], None]


def stops(days: Sequence[int]) -> Iterator[Stop]:
    """The stops in order, for reminders on these days."""
    found = [Stop(at=_MORNING, what="morning has come for those who slept", rounds=1)]
    for number, day in enumerate(days[1:], start=1):
        at = timedelta(days=day)
        found.append(Stop(at=at - _JUST_BEFORE, what=f"just before reminder {number}", rounds=number, late=True))
        found.append(Stop(at=at + _LATE, what=f"reminder {number}", rounds=number + 1))
    end = timedelta(days=days[-1]) + PATIENCE_AFTER_LAST
    found.append(Stop(at=end - _JUST_BEFORE, what="just before the end of patience", rounds=len(days)))
    found.append(Stop(at=end + _LATE, what="patience is over", rounds=len(days)))
    for day in _QUIET_DAYS:
        at = timedelta(days=day)
        found.append(Stop(at=at, what="a quiet day", rounds=sum(at > timedelta(days=d) for d in days)))
    return iter(sorted(found, key=lambda stop: stop.at))


class FortyDays:
    """One run of the demonstration."""

    def __init__(
        self, runtime: Runtime, demo_members: Sequence[DemoMember], customers: Customers, commands: Commands
    ) -> None:
        self._runtime = runtime
        self._commands = commands
        self._reports = ReportStore(runtime.database)
        self._customers = customers
        self._results = Results(demo_members=demo_members)
        self._clicked = 0

    async def run(self, folder: Path) -> Results:
        """Run all days; raises :class:`WorkerError` if the work does not end."""
        logging.getLogger("worker.stages.sweep").setLevel(logging.WARNING)  # each stop prints its own line
        results = self._results
        devices = devices_of(results.demo_members)
        results.demo_members = with_devices(results.demo_members, await self._customers.sign_up(devices))
        began = datetime.now(UTC)
        write_import(results.demo_members, folder / "members.csv", began)
        taken, refused = await self._commands.import_file(folder / "members.csv")
        self._commands.say(f"Imported {taken} rows" + (f", refused {refused}." if refused else "."))
        scanners = [rule.model_dump() for rule in SCANNERS]
        await self._customers.control(scan=scanners, link_seconds=_LINK_SECONDS)
        now = timedelta(0)
        await self._stop(Stop(at=now, what="the first message", rounds=1), bar=True)
        results.at_first = await self._reports.states()
        for stop in stops(self._runtime.settings.reminder_days):
            await set_back(self._runtime.database, stop.at - now)
            await self._customers.control(link_age=(stop.at - now).total_seconds())
            now = stop.at
            write_zones(results.demo_members, folder / "zones.jsonl", began, now)
            await self._commands.import_file(folder / "zones.jsonl")
            await self._stop(stop)
        results.scans = await self._customers.scans()
        results.ended = await self._reports.states()
        results.standing = await StandingStore(self._runtime.database).read(self._runtime.clock.now())
        results.returns = await ReturnStore(self._runtime.database).lately(
            self._runtime.clock.now(), within=now + _A_DAY
        )
        return results

    async def _stop(self, stop: Stop, *, bar: bool = False) -> None:
        began, before = time.monotonic(), _sums(self._results.received.values())
        report = await self._work(bar=bar)
        clicked = await self._click(stop)
        self._results.received = await self._count()
        wrong = self._miscounted(stop)
        self._results.miscounted |= wrong
        mails, pushes = (now - then for now, then in zip(_sums(self._results.received.values()), before, strict=True))
        day = stop.at / timedelta(days=1)
        figures = {"day": round(day, 2), "what": stop.what, "mails": mails, "pushes": pushes, "clicked": clicked}
        self._results.days.append(figures | {"exhausted": report.exhausted, "miscounted": len(wrong)})
        parts = [f"{mails} mails", f"{pushes} pushes"] if mails or pushes else ["no messages"]
        if clicked:
            parts.append(f"{clicked} links clicked")
        if report.exhausted:
            parts.append(f"{report.exhausted} given up after the last reminder went unanswered")
        if wrong:
            parts.append(f"{len(wrong)} users got too many or too few messages")
        self._commands.say(f"Day {day:5.2f}, {stop.what}: {', '.join(parts)}. ({time.monotonic() - began:.1f} s)")

    async def _work(self, *, bar: bool) -> SweepReport:
        """Sweep and wait until nothing is left to do; returns the sum of the sweeps' reports."""
        total = SweepReport()
        for _ in range(_SWEEPS):
            report = await sweep(self._runtime) or SweepReport()
            total.opened += report.opened
            total.reminded += report.reminded
            total.exhausted += report.exhausted
            # Follow even if no worker was woken: a task may have been in the queue already.
            await self._commands.follow(_PATIENCE + len(self._results.demo_members) / 20, bar)
            if not report.woken.keys() - {"verify"}:
                return total
        raise WorkerError(f"demo: there is still something to do after {_SWEEPS} sweeps")

    async def _click(self, stop: Stop) -> int:
        """Let customers open the link in their newest message; returns how many banks they clicked for."""
        first_stop, self._clicked = stop.rounds != self._clicked, stop.rounds
        clicking = {
            p.user_guid: p
            for p in self._results.demo_members
            if p.kind.clicks == stop.rounds and (stop.late if p.kind.late else first_stop)
        }
        down = [p for p in clicking.values() if p.kind.mx_down]
        if down:
            await self._while_mx_is_down(down)
        limit = asyncio.Semaphore(_AT_A_TIME)

        async def one(customer: DemoMember) -> int:
            async with limit:
                seen = await self._open(customer, stop.rounds)
            for saw in seen:
                self._results.reach.count(_scanner_of(customer), _came(customer), saw)
            return len(seen)

        rest = [p for p in clicking.values() if not p.kind.mx_down]
        return sum(await asyncio.gather(*map(one, rest))) + len(down)

    async def _open(self, customer: DemoMember, message: int) -> list[Saw]:
        """Where a customer ends who follows every link of a message."""
        if customer.email is not None:
            links = await self._customers.read_mail(customer.email, message)
        else:
            links = await self._customers.read_push(customer.devices[-1][1])
        found = [
            saw
            for link in links
            for saw in await self._customers.click(customer.user_guid, link, twice=customer.kind.twice)
        ]
        return found or [Saw.NOTHING]

    async def _while_mx_is_down(self, customers: Sequence[DemoMember]) -> None:
        """These customers press the button while MX answers 503 for their members, and again when it is back."""
        members = [customer.member_guid for customer in customers]
        await self._customers.control(member=members, script=["503"])
        first = [(await self._open(customer, 1))[0] for customer in customers]
        await self._customers.control(member=members, script=["ok"])
        then = [(await self._open(customer, 1))[0] for customer in customers]
        self._results.mx_down.update(zip(first, then, strict=True))

    async def _count(self) -> dict[str, Received]:
        mails, pushes = await self._customers.mails(), await self._customers.pushes()
        return {
            demo_member.user_guid: Received(
                mails=mails[demo_member.email or ""], pushes=sum(pushes[address] for _, address in demo_member.devices)
            )
            for demo_member in self._results.demo_members
        }

    def _miscounted(self, stop: Stop) -> set[str]:
        """Users who do not have exactly the messages that they must have by now, on the right channel."""
        wrong = set()
        for demo_member in self._results.demo_members:
            kind, received = demo_member.kind, self._results.received[demo_member.user_guid]
            rounds = 0 if kind.asleep and stop.at < _MORNING else stop.rounds
            must = min(kind.messages, rounds)
            expected = Received(mails=must) if kind.by == "mail" else Received(pushes=must)
            if received != expected:
                wrong.add(demo_member.user_guid)
        return wrong


async def run_forty_days(
    runtime: Runtime, demo_members: Sequence[DemoMember], base_url: str, folder: Path, commands: Commands
) -> Results:
    """Run the forty days against the sandbox at ``base_url``."""
    async with aiohttp.ClientSession() as session:
        return await FortyDays(runtime, demo_members, Customers(session, base_url), commands).run(folder)


def _scanner_of(customer: DemoMember) -> ScanKind | None:
    return kind_for(SCANNERS, customer.email) if customer.email is not None else None


def _came(customer: DemoMember) -> str:
    if customer.kind.late:
        return _AFTER_DAYS
    return _AT_ONCE if customer.kind.clicks == 1 else _AFTER_A_REMINDER


def _sums(received: Any) -> tuple[int, int]:
    total: Counter[str] = Counter()
    for one in received:
        total.update(mails=one.mails, pushes=one.pushes)
    return total["mails"], total["pushes"]
