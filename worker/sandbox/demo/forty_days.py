"""The demonstration's forty days: what is done on each, and what every customer must have got by then.

Time is accelerated by moving the record back (:mod:`worker.store.setting_back`) between one sweep and the next; worker, broker,
bank, mailbox and phones are real processes that know nothing of it, and people's zones move along so that their clocks agree. It does not stop at every day, but before and after each
at which something must happen, and on quiet ones in between. Messages are counted where they arrive, never in our own database.
"""

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
from worker.sandbox.customers import Customers
from worker.sandbox.scenario import Player, devices_of, with_devices, write_import, write_zones
from worker.stages.sweep import sweep
from worker.store.queries.reports import ReportStore, Standing
from worker.store.queries.returns import Returns, ReturnStore
from worker.store.setting_back import set_back
from worker.store.sweeping import SweepReport

#: One stop's work takes seconds; what takes longer than this has gone wrong.
_PATIENCE = 90.0
#: Sweeps that one stop may need until nothing is left to do: an address that turns out dead makes one more.
_SWEEPS = 6
#: Who is asleep at first is told within three hours, and counts days from there: late enough for both, and not yet night.
#: All stops are whole hours apart, as zones are.
_MORNING, _LATE = timedelta(hours=3), timedelta(hours=4)
_JUST_BEFORE = timedelta(hours=1)
_A_DAY = timedelta(days=1)
_QUIET_DAYS = (1, 5, 10, 22, 40)


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A moment at which the demonstration looks."""

    #: Since the first message, in whole hours.
    at: timedelta
    what: str
    #: Messages that somebody who never answers must have had by then.
    rounds: int


@dataclass(kw_only=True)
class Told:
    """What arrived at one user's addresses."""

    mails: int = 0
    pushes: int = 0


@dataclass(kw_only=True)
class Story:
    """What became of everybody."""

    players: Sequence[Player] = ()
    #: Each member's state on the first day and at the end.
    at_first: dict[str, str] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    #: By user, at the end.
    told: dict[str, Told] = field(default_factory=dict)
    #: Users who had more or fewer messages than they must, at any stop.
    mistold: set[str] = field(default_factory=set)
    days: list[dict[str, Any]] = field(default_factory=list)
    standing: Standing | None = None
    returns: Returns | None = None


@dataclass(frozen=True, kw_only=True)
class Commands:
    """What the demonstration does as a person would, with the commands' own code."""

    #: Imports a file; how many rows were taken and refused.
    import_file: Callable[[Path], Awaitable[tuple[int, int]]]
    #: Waits until the workers have done what is due, for so many seconds at most; with a progress bar or without.
    follow: Callable[[float, bool], Awaitable[None]]
    #: Prints a line beside the result.
    say: Callable[[str], None]


def stops(days: Sequence[int]) -> Iterator[Stop]:
    """In order, for reminders on these days."""
    found = [Stop(at=_MORNING, what="morning has come for those who slept", rounds=1)]
    for number, day in enumerate(days[1:], start=1):
        at = timedelta(days=day)
        found.append(Stop(at=at - _JUST_BEFORE, what=f"just before reminder {number}", rounds=number))
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

    def __init__(self, runtime: Runtime, players: Sequence[Player], customers: Customers, commands: Commands) -> None:
        self._runtime = runtime
        self._commands = commands
        self._reports = ReportStore(runtime.database)
        self._customers = customers
        self._story = Story(players=players)
        self._clicked = 0

    async def run(self, folder: Path) -> Story:
        """Live through them; raises :class:`WorkerError` where the work stands still."""
        logging.getLogger("worker.stages.sweep").setLevel(logging.WARNING)  # every sweep is told below
        story = self._story
        devices = devices_of(story.players)
        story.players = with_devices(story.players, await self._customers.sign_up(devices))
        began = datetime.now(UTC)
        write_import(story.players, folder / "members.csv", began)
        taken, refused = await self._commands.import_file(folder / "members.csv")
        self._commands.say(f"Imported {taken} rows" + (f", refused {refused}." if refused else "."))
        now = timedelta(0)
        await self._stop(Stop(at=now, what="the first message", rounds=1), bar=True)
        story.at_first = await self._reports.states()
        for stop in stops(self._runtime.settings.reminder_days):
            await set_back(self._runtime.database, stop.at - now)
            now = stop.at
            write_zones(story.players, folder / "zones.jsonl", began, now)
            await self._commands.import_file(folder / "zones.jsonl")
            await self._stop(stop)
        story.ended = await self._reports.states()
        story.standing = await self._reports.standing(self._runtime.clock.now())
        story.returns = await ReturnStore(self._runtime.database).lately(self._runtime.clock.now(), within=now + _A_DAY)
        return story

    async def _stop(self, stop: Stop, *, bar: bool = False) -> None:
        began, before = time.monotonic(), _sums(self._story.told.values())
        report = await self._work(bar=bar)
        clicked = await self._click(stop)
        self._story.told = await self._count()
        wrong = self._mistold(stop)
        self._story.mistold |= wrong
        mails, pushes = (now - then for now, then in zip(_sums(self._story.told.values()), before, strict=True))
        day = stop.at / timedelta(days=1)
        figures = {"day": round(day, 2), "what": stop.what, "mails": mails, "pushes": pushes, "clicked": clicked}
        self._story.days.append(figures | {"exhausted": report.exhausted, "mistold": len(wrong)})
        parts = [f"{mails} mails", f"{pushes} pushes"] if mails or pushes else ["nobody is told"]
        if clicked:
            parts.append(f"{clicked} links clicked")
        if report.exhausted:
            parts.append(f"{report.exhausted} given up after the last reminder went unanswered")
        if wrong:
            parts.append(f"{len(wrong)} users were told too often or not at all")
        self._commands.say(f"Day {day:5.2f}, {stop.what}: {', '.join(parts)}. ({time.monotonic() - began:.1f} s)")

    async def _work(self, *, bar: bool) -> SweepReport:
        """Sweep and follow until there is nothing more to do; what the sweeps did, added up."""
        total = SweepReport()
        for _ in range(_SWEEPS):
            report = await sweep(self._runtime) or SweepReport()
            total.opened += report.opened
            total.reminded += report.reminded
            total.exhausted += report.exhausted
            if not report.woken.keys() - {"verify"}:
                return total
            await self._commands.follow(_PATIENCE + len(self._story.players) / 20, bar)
        raise WorkerError(f"demo: there is still something to do after {_SWEEPS} sweeps")

    async def _click(self, stop: Stop) -> int:
        """The customers who open the link in the message that this round brought; how many links they opened."""
        if stop.rounds == self._clicked:
            return 0
        self._clicked = stop.rounds
        clicking = {p.email for p in self._story.players if p.kind.clicks == stop.rounds and p.email}
        return sum([await self._customers.allow(email, stop.rounds) for email in sorted(clicking)])

    async def _count(self) -> dict[str, Told]:
        mails, pushes = await self._customers.mails(), await self._customers.pushes()
        return {
            player.user_guid: Told(
                mails=mails[player.email or ""], pushes=sum(pushes[address] for _, address in player.devices)
            )
            for player in self._story.players
        }

    def _mistold(self, stop: Stop) -> set[str]:
        """Users who do not have exactly the messages that they must have had by now, on the channel that it must be."""
        wrong = set()
        for player in self._story.players:
            kind, told = player.kind, self._story.told[player.user_guid]
            rounds = 0 if kind.asleep and stop.at < _MORNING else stop.rounds
            must = min(kind.messages, rounds)
            expected = Told(mails=must) if kind.by == "mail" else Told(pushes=must)
            if told != expected:
                wrong.add(player.user_guid)
        return wrong


async def live_through(
    runtime: Runtime, players: Sequence[Player], base_url: str, folder: Path, commands: Commands
) -> Story:
    """Forty days with a bank, a mailbox and phones at ``base_url``."""
    async with aiohttp.ClientSession() as session:
        return await FortyDays(runtime, players, Customers(session, base_url), commands).run(folder)


def _sums(told: Any) -> tuple[int, int]:
    total: Counter[str] = Counter()
    for one in told:
        total.update(mails=one.mails, pushes=one.pushes)
    return total["mails"], total["pushes"]
