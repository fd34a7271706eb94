"""Events in any order lead only to transitions that ``policy/states.py`` allows.

A state machine of Hypothesis runs the stages, lets workers die and come back late, lets time pass, and acts as the application, the
customer and the operator. It uses a real database that records every change of a state. Hypothesis draws the answers of MX and of
the mail server as values (instead of :class:`worker.mx.client.Mx` and :class:`worker.channels.Channel`). The tests with processes
cover the answers over a network.
"""

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from random import SystemRandom
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import text

from tests.faults.records import PAST, Records
from tests.faults.schedule import LONG, Schedule
from worker.channels import BadAddress, ChannelDown, Dispatching, Failed, Message, Outcome, Sent, TryLater, Unknown
from worker.errors import DatabaseUnavailable
from worker.mx import answers as mx
from worker.policy.links import hash_of, new_token
from worker.policy.states import ReconnectionState
from worker.runtime import Runtime
from worker.settings import Settings
from worker.stages.click import LeadsTo, click
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.stages.verify import verify
from worker.store.links import LinkStore, NewLink
from worker.store.pauses import PauseStore
from worker.store.sql import schema
from worker.store.sql.database import Database
from worker.store.transactions.deliver import DeliverStore
from worker.store.transactions.fetch import FetchStore
from worker.store.transactions.retry import RetryStore

T = TypeVar("T")

#: How many members there are. Each user has two.
MEMBERS = 6
_NAMES = [(f"MBR-{n}", f"USR-{n // 2}") for n in range(MEMBERS)]


def _state(guid: str, **fields: Any) -> mx.MemberState:
    return mx.MemberState(guid=guid, **fields)


def _back(guid: str) -> mx.MemberState:
    soon = datetime.now(UTC) + timedelta(days=1)
    return _state(guid, connection_status="CONNECTED", is_being_aggregated=False, successfully_aggregated_at=soon)


_URI = "https://bank.example/oauth/authorize?state=0123456789abcdef"
_FAILURES: dict[str, Callable[[str], Any]] = {
    "busy": lambda _: mx.RetryLater(code="http_409", upstream=False),
    "too many": lambda _: mx.RetryLater(code="http_429", after=1.0),
    "down": lambda _: mx.RetryLater(code="http_503"),
    "gone": lambda _: mx.Gone(),
    "refused": lambda _: mx.RefusedClient(code="http_401"),
    "rejected": lambda _: mx.RejectedRequest(code="http_422"),
}
_WINDOWS: dict[str, Callable[[str], Any]] = {
    "window": lambda guid: mx.Window(uri=_URI, member=_state(guid)),
    "window ": lambda guid: mx.Window(uri=_URI, member=_state(guid)),  # drawn more often
    "moved": lambda guid: mx.Window(uri=_URI, member=_state(f"{guid}-moved")),
    "back": lambda guid: mx.Window(uri=_URI, member=_back(guid)),
    "hostile": lambda _: mx.HostileUri(code="uri_user_info"),
    "no uri": lambda _: mx.RetryLater(code="no_uri", upstream=False),
    "unsupported": lambda _: mx.Unsupported(),
    "crash": lambda _: 1 / 0,
    **_FAILURES,
}
_LOOKS: dict[str, Callable[[str], Any]] = {
    "not back": lambda guid: mx.MemberRead(member=_state(guid, connection_status="DENIED")),
    "back": lambda guid: mx.MemberRead(member=_back(guid)),
    **_FAILURES,
}
_OUTCOMES: dict[str, Any] = {
    "sent": Sent(),
    "stalled": Sent(),
    "crash": None,
    "crash when it is on record": None,
    "crash when it is sent": None,
    "cut off when it is sent": None,
    "later": TryLater(code="rcpt_450"),
    "slow down": TryLater(code="mail_421", whole_channel=True),
    "bad address": BadAddress(code="rcpt_550"),
    "failed": Failed(code="data_554"),
    "down": ChannelDown(code="auth_refused"),
    "unknown": Unknown(code="data_timeout"),
}


_CRASHES = {word for word, outcome in _OUTCOMES.items() if outcome is None}
#: Failures of a deliverer's transactions: the one that records the dispatch ("mark") or the one that stores the result ("settle").
#: "before": it fails before the commit. "after": it is committed, and its answer is lost.
_FAULTS = ["none", "none", "mark before", "mark after", "settle before", "settle after"]
#: Every possible pair of crash and failure. If recording the dispatch fails, the message is not sent and no crash follows.
_CRASHES_AND_FAULTS = [
    (word, fault)
    for word in ["sent", *sorted(_CRASHES)]
    for fault in dict.fromkeys(_FAULTS)
    if word == "sent" or not fault.startswith("mark")
]


def _some(of: dict[str, Any]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(sorted(of)), min_size=1, max_size=4)


class Answers:
    """MX, which gives the answers that Hypothesis drew, in turn."""

    def __init__(self) -> None:
        self.windows: Iterator[str] = cycle(["window"])
        self.checks: Iterator[str] = cycle(["not back"])
        self.clicks: Iterator[str] = cycle(["window"])
        #: Called once, while fetch or deliver waits for a window.
        self.meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None

    async def oauth_window(self, _user_guid: str, member_guid: str) -> Any:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return _WINDOWS[next(self.windows)](member_guid)

    async def urgent_window(self, _user_guid: str, member_guid: str, *, within: float) -> Any:
        assert within > 0
        return _WINDOWS[next(self.clicks)](member_guid)

    async def read_member(self, _user_guid: str, member_guid: str) -> Any:
        return _LOOKS[next(self.checks)](member_guid)

    async def probe(self) -> None:
        return None

    async def close(self) -> None:
        pass


class Post:
    """A channel with the outcomes that Hypothesis drew, in turn."""

    kind = "email"

    def __init__(self, past: str) -> None:
        self._stall = text("UPDATE notifications SET lease_expires_at = :past WHERE state = 'sending'").bindparams(
            past=past
        )
        self.database: Database
        self.outcomes: Iterator[str] = cycle(["sent"])
        self.sent: list[str] = []

    async def send(self, message: Message, dispatching: Dispatching) -> Outcome:
        word = next(self.outcomes)
        if word == "stalled":  # the process was stopped until its lease expired, and no sweep has recovered it yet
            await self.database.transaction(lambda connection: connection.execute(self._stall))
        if word in _CRASHES:
            return await self._crash(word, message, dispatching)
        outcome = _OUTCOMES[word]
        if not isinstance(outcome, TryLater | ChannelDown):
            await dispatching()
        if isinstance(outcome, Sent):
            self.sent.append(message.key)
        return outcome

    async def _crash(self, word: str, message: Message, dispatching: Dispatching) -> Outcome:
        if word != "crash":
            await dispatching()
        if word.endswith("sent"):
            self.sent.append(message.key)
        raise asyncio.CancelledError if word.startswith("cut off") else ZeroDivisionError

    async def close(self) -> None:
        pass


@contextmanager
def failing(store: DeliverStore, fault: str) -> Iterator[None]:
    """Let the database fail in one kind of a deliverer's transactions, before the commit or after it."""
    call, _, when = fault.partition(" ")
    name = {"mark": "mark_dispatched", "settle": "settle"}.get(call)
    if name is None:
        yield
        return
    real = getattr(store, name)

    async def fails(*arguments: Any, **options: Any) -> Any:
        if when == "after":
            await real(*arguments, **options)
        raise DatabaseUnavailable("database: away")

    setattr(store, name, fails)
    try:
        yield
    finally:
        delattr(store, name)


class System(RuleBasedStateMachine):
    """All steps that Hypothesis can take, as rules."""

    #: Gives the URL of a fresh, migrated database.
    database: Callable[[], str]
    settings_for: Callable[..., Settings]

    def __init__(self) -> None:
        super().__init__()
        url = type(self).database()
        self.records = Records(url)
        self.records.watch_states()
        self.past = PAST[self.records.kind]
        self.loop = asyncio.Runner()
        self.mx, self.post = Answers(), Post(self.past)
        self.runtime = self.run(self._open(url))
        self.fetch_store, self.deliver_store = FetchStore(self.runtime.database), DeliverStore(self.runtime.database)
        self.dead_fetchers: list[Any] = []
        self.dead_deliverers: list[Any] = []
        #: How many clicks led to a bank.
        self.led_away = 0

    async def _open(self, url: str) -> Runtime:
        async def nobody(_stage: str, n: int) -> int:
            return n

        made = type(self).settings_for(
            database_url=url,
            batch_size=3,
            max_attempts=3,
            reminder_days="0,3",
            run_seconds=1,
            redis_url="redis://127.0.0.1:9",
        )
        runtime = Runtime(made, wake=nobody)
        await runtime.mx.close()
        runtime.mx = self.mx  # type: ignore[assignment]
        runtime.channels = {"email": self.post}
        self.post.database = runtime.database
        await runtime.set_clock()
        return runtime

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(coroutine)

    def teardown(self) -> None:
        self.run(self.runtime.close())
        self.loop.close()
        self.records.close()

    # --- The application ---

    @initialize()
    def everybody_is_there(self) -> None:
        for member, user in _NAMES:
            self.records.run(
                "INSERT INTO users (user_guid, email) VALUES (:u, :e) ON CONFLICT DO NOTHING",
                u=user,
                e=f"{user}@mail.example",
            )
            self.records.run(
                "INSERT INTO members (member_guid, user_guid, institution_code, connection_status)"
                " VALUES (:m, :u, 'alder', 'DENIED')",
                m=member, u=user,
            )  # fmt: skip

    @rule(who=st.sampled_from(_NAMES), status=st.sampled_from(["DENIED", "CONNECTED", "CHALLENGED"]))
    def the_application_learns_a_status(self, who: tuple[str, str], status: str) -> None:
        self.records.run("UPDATE members SET connection_status = :s WHERE member_guid = :m", s=status, m=who[0])

    @rule(who=st.sampled_from(_NAMES))
    def the_application_deletes_a_member(self, who: tuple[str, str]) -> None:
        self.records.run("DELETE FROM members WHERE member_guid = :m", m=who[0])

    @rule(who=st.sampled_from(_NAMES), email=st.sampled_from([None, "new@mail.example", "other@mail.example"]))
    def the_application_changes_an_address(self, who: tuple[str, str], email: str | None) -> None:
        self.records.run("UPDATE users SET email = :e WHERE user_guid = :u", e=email, u=who[1])

    # --- Workers that live ---

    @rule()
    def sweeps(self) -> None:
        self.run(sweep(self.runtime))

    @rule(answers=_some(_WINDOWS))
    def fetches(self, answers: list[str]) -> None:
        self.mx.windows = cycle(answers)
        self.run(fetch(self.runtime))

    @rule(
        outcomes=_some(_OUTCOMES),
        windows=_some(_WINDOWS),
        checks=_some(_LOOKS),
        old=st.booleans(),
        fetch_first=st.booleans(),
        fault=st.sampled_from(_FAULTS),
    )
    def delivers(
        self, outcomes: list[str], windows: list[str], checks: list[str], *, old: bool, fetch_first: bool, fault: str
    ) -> None:
        if fetch_first:  # otherwise there is seldom a message to deliver
            self.mx.windows = cycle(["window"])
            self.time_passes("retries")
            self.sweeps()
            self.run(fetch(self.runtime))
        if old:
            self.windows_grow_old()
        self.post.outcomes, self.mx.windows, self.mx.checks = cycle(outcomes), cycle(windows), cycle(checks)
        with failing(self.runtime.database.store(DeliverStore), fault), suppress(DatabaseUnavailable):
            self.run(deliver(self.runtime))

    @rule(days=st.integers(1, 3))
    def all_goes_well_for_a_round(self, days: int) -> None:
        """Without this rule, late steps of a reconnection would be rare."""
        self.mx.windows, self.mx.checks, self.post.outcomes = cycle(["window"]), cycle(["not back"]), cycle(["sent"])
        for _ in range(days):
            self.time_passes("messages")  # a message that was released after a crash would be sent again
            self.sweeps()
            self.run(fetch(self.runtime))
            self.run(deliver(self.runtime))
            self.time_passes("reminders")

    @rule(checks=_some(_LOOKS))
    def verifies(self, checks: list[str]) -> None:
        self.mx.checks = cycle(checks)
        self.run(verify(self.runtime))

    # --- The customer ---

    @rule(who=st.sampled_from(_NAMES), answer=st.sampled_from(sorted(_WINDOWS)), of_message=st.booleans())
    def a_customer_clicks(self, who: tuple[str, str], answer: str, *, of_message: bool) -> None:
        self.run(self._click(who, answer, of_message=of_message))

    @rule(
        who=st.sampled_from(_NAMES),
        answer=st.sampled_from(sorted(_WINDOWS)),
        answers=_some(_WINDOWS),
        late=st.booleans(),
    )
    def a_customer_clicks_while_mx_is_asked(
        self, who: tuple[str, str], answer: str, answers: list[str], *, late: bool
    ) -> None:
        self.mx.meanwhile = lambda: self._click(who, answer, of_message=False)
        self.time_passes("retries")
        if late:
            self.windows_grow_old()
        self.mx.windows = cycle(answers)
        self.run(deliver(self.runtime) if late else fetch(self.runtime))
        self.mx.meanwhile = None

    async def _click(self, who: tuple[str, str], answer: str, *, of_message: bool) -> None:
        found = self.records.all(
            "SELECT r.id, max(l.notification_id) FROM reconnections r LEFT JOIN notification_reconnections l"
            f" ON l.reconnection_id = r.id WHERE r.member_guid = '{who[0]}' GROUP BY r.id ORDER BY r.id DESC LIMIT 1"
        )
        if not found:
            return
        (reconnection_id, notification_id), now = found[0], self.runtime.clock.now()
        token = new_token(SystemRandom())
        new = NewLink(
            token_hash=hash_of(token),
            user_guid=who[1],
            expires_at=now + timedelta(days=40),
            notification_id=notification_id if of_message else None,
        )
        await LinkStore(self.runtime.database).make(new, now=now)
        self.mx.clicks = cycle([answer])
        with suppress(ZeroDivisionError):  # the process died over it
            got = await click(self.runtime, token, reconnection_id=reconnection_id, nonce=new_token(SystemRandom()))
            if isinstance(got, LeadsTo):
                self.led_away += 1

    @rule()
    def a_failed_click_is_an_hour_old(self) -> None:
        self.records.run("UPDATE reconnections SET owed_at = :past WHERE owed_at IS NOT NULL", past=self.past)

    # --- Workers that die, and those that come back late ---

    @rule(n=st.integers(1, 4))
    def a_fetcher_dies(self, n: int) -> None:
        self.run(self._die_fetching(n))

    async def _die_fetching(self, n: int) -> None:
        now = await self.runtime.set_clock()
        soon = now + timedelta(days=1)
        store = self.fetch_store
        claims = await store.claim(n, worker_id="dead", lease_seconds=60, now=now, soon=soon)
        claims = claims or await store.claim_poison(n, worker_id="dead", lease_seconds=60, now=now)
        self.dead_fetchers.append(claims)

    @rule(n=st.integers(1, 3), dispatched=st.booleans())
    def a_deliverer_dies(self, n: int, *, dispatched: bool) -> None:
        self.run(self._die_delivering(n, dispatched=dispatched))

    async def _die_delivering(self, n: int, *, dispatched: bool) -> None:
        now = await self.runtime.set_clock()
        store = self.deliver_store
        claimed = await store.claim(n, worker_id="dead", lease_seconds=60, now=now)
        claimed = claimed or await store.claim_poison(n, worker_id="dead", lease_seconds=60, now=now)
        if dispatched and claimed:
            await store.mark_dispatched(claimed)
        self.dead_deliverers.append(claimed)

    @rule()
    def leases_run_out(self) -> None:
        self.records.run(
            "UPDATE reconnections SET lease_expires_at = :past WHERE state = 'leased'",
            "UPDATE notifications SET lease_expires_at = :past WHERE state = 'sending'",
            past=self.past,
        )

    @rule(deaths=st.integers(1, 6))
    def holders_died_of_these_rows_before(self, deaths: int) -> None:
        """Set the number of lost leases at once. Single deaths would take most of the test's time."""
        self.records.run(
            "UPDATE reconnections SET lost_leases = :n WHERE state = 'leased'",
            "UPDATE notifications SET lost_leases = :n WHERE state = 'sending'",
            n=deaths,
        )

    @rule(release=st.booleans())
    def the_dead_come_back(self, *, release: bool) -> None:
        """A process that was only stopped writes its results. If its lease was recovered, that changes nothing."""
        self.run(self._come_back(release=release))

    async def _come_back(self, *, release: bool) -> None:
        deliverer, fetcher = self.deliver_store, self.fetch_store
        for claimed in self.dead_deliverers:
            marked = await deliverer.mark_dispatched(claimed) if claimed else set()
            assert marked <= {s.id for s in claimed}
            if release and claimed:
                await deliverer.release(claimed)
        for claims in self.dead_fetchers:
            if release and claims:
                await fetcher.release(claims)
        self.dead_deliverers.clear()
        self.dead_fetchers.clear()

    # --- Time, and the operator ---

    @rule(what=st.sampled_from(["retries", "messages", "looks", "pauses", "reminders"]))
    def time_passes(self, what: str) -> None:
        if what == "reminders":
            self.records.run(
                "UPDATE reconnections SET next_attempt_at = :past WHERE state = 'notified'", past=self.past
            )
        else:
            self.records.pass_time(what)

    @rule()
    def windows_grow_old(self) -> None:
        self.records.run("UPDATE windows SET fetched_at = :past", past=self.past)

    @rule(
        state=st.sampled_from(
            [ReconnectionState.EXHAUSTED, ReconnectionState.QUARANTINED, ReconnectionState.UNSUPPORTED]
        )
    )
    def the_operator_retries(self, state: ReconnectionState) -> None:
        now = self.run(self.runtime.set_clock())
        self.run(RetryStore(self.runtime.database).reconnections([state], None, now=now))

    @rule()
    def the_operator_retries_what_is_unknown(self) -> None:
        now = self.run(self.runtime.set_clock())
        unknown = "SELECT message_key FROM notifications WHERE state = 'unknown'"
        before = {row[0] for row in self.records.all(unknown)}
        self.run(RetryStore(self.runtime.database).unknown(None, now=now))
        defer = before - {row[0] for row in self.records.all(unknown)}
        self.post.sent = [key for key in self.post.sent if key not in defer]  # these may now arrive twice

    @rule(scope=st.sampled_from(["everything", "institution:alder", "channel:email"]), on=st.booleans())
    def the_operator_pauses(self, scope: str, *, on: bool) -> None:
        now = self.run(self.runtime.set_clock())
        pauses = PauseStore(self.runtime.database)
        self.run(pauses.set(scope, "by hand", now=now) if on else pauses.lift(scope))

    # --- Invariants ---

    @invariant()
    def all_is_in_order(self) -> None:
        wrong = {kind: rows for kind, query in _OUT_OF_ORDER.items() if (rows := self.records.all(query))}
        steps, sent = self.records.undocumented_steps(), self.post.sent
        assert not wrong
        assert not steps, "steps that policy/states.py does not name"
        assert len(sent) == len(set(sent)), "a key was mailed twice"


_OUT_OF_ORDER = {
    "two open reconnections": "SELECT member_guid FROM reconnections WHERE closed_at IS NULL GROUP BY 1 HAVING count(*) > 1",
    "two live windows": "SELECT reconnection_id FROM windows WHERE superseded_at IS NULL AND epoch IS NOT NULL GROUP BY 1 HAVING count(*) > 1",
    "two live notifications": (
        "SELECT user_guid FROM notifications WHERE state IN ('pending', 'sending') GROUP BY 1 HAVING count(*) > 1"
    ),
    "open and closed at once": (
        "SELECT id, state FROM reconnections WHERE (closed_at IS NULL) <> (state IN ('due', 'leased', 'ready', 'notified'))"
    ),
    "due or notified, but never": (
        "SELECT id, state, outcome FROM reconnections WHERE state IN ('due', 'notified') AND next_attempt_at IS NULL"
    ),
    "pending, but never": "SELECT id, outcome FROM notifications WHERE state = 'pending' AND next_attempt_at IS NULL",
    "ready, but nobody will say so": (
        "SELECT r.id, r.outcome FROM reconnections r WHERE r.state = 'ready' AND NOT EXISTS (SELECT 1 FROM notifications n"
        " JOIN notification_reconnections l ON l.notification_id = n.id"
        " WHERE l.reconnection_id = r.id AND n.state IN ('pending', 'sending'))"
    ),
    "held by nobody, or by somebody for nothing": (
        "SELECT id, state FROM reconnections WHERE (lease_worker IS NULL) = (state = 'leased')"
        " UNION ALL SELECT id, state FROM notifications WHERE (lease_worker IS NULL) = (state = 'sending')"
    ),
    "a window that outlives its reconnection": (
        "SELECT r.id, r.state, r.outcome FROM reconnections r JOIN windows w ON w.reconnection_id = r.id"
        " WHERE r.closed_at IS NOT NULL AND w.superseded_at IS NULL"
    ),
    "one that is over, and owed a message": "SELECT id FROM reconnections WHERE closed_at IS NOT NULL AND owed_at IS NOT NULL",
    "a click that led nowhere and everywhere": (
        "SELECT c.id FROM clicks c JOIN windows w ON w.click_id = c.id WHERE c.outcome NOT IN ('window', 'stored_window')"
    ),
    "a step that was spoken twice": (
        "SELECT l.reconnection_id, l.step FROM notification_reconnections l JOIN notifications n ON n.id = l.notification_id"
        " WHERE n.state IN ('sent', 'unknown') GROUP BY 1, 2 HAVING count(*) > 1"
    ),
}


@pytest.fixture
def fresh_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Callable[[], str]]:
    """``fresh_database("sqlite")()``: the URL of a new, migrated database."""

    def of(kind: str) -> Callable[[], str]:
        if kind == "postgresql":
            made: Callable[[], str] = request.getfixturevalue("postgres").database
            return made
        template = tmp_path / "template.db"
        schema.migrate(request.getfixturevalue("settings_for")(database_url=f"sqlite:///{template}"))
        numbers = iter(range(1_000_000))

        def copy() -> str:
            path = tmp_path / f"{next(numbers)}.db"
            shutil.copy(template, path)
            return f"sqlite:///{path}"

        return copy

    return of


def _machine(
    kind: str, fresh_database: Callable[[str], Callable[[], str]], settings_for: Callable[..., Settings]
) -> type[System]:
    own = {"database": staticmethod(fresh_database(kind)), "settings_for": staticmethod(settings_for)}
    return type("System", (System,), own)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"] if LONG else ["sqlite"])
def test_no_crash_of_a_deliverer_at_any_point_sends_a_message_twice(
    kind: str, fresh_database: Callable[[str], Callable[[], str]], settings_for: Callable[..., Settings]
) -> None:
    """Each crash, followed by a day without faults. Hypothesis alone seldom chooses this order."""
    machine = _machine(kind, fresh_database, settings_for)()
    try:
        machine.everybody_is_there()
        for word, fault in _CRASHES_AND_FAULTS:
            machine.the_operator_retries(ReconnectionState.EXHAUSTED)
            machine.delivers([word], ["window"], ["not back"], old=False, fetch_first=True, fault=fault)
            machine.leases_run_out()
            machine.all_goes_well_for_a_round(1)
            machine.all_is_in_order()
        assert len(machine.post.sent) > len(_CRASHES) * len(_FAULTS)
    finally:
        machine.teardown()


@pytest.mark.timeout(7200 if LONG else 180)
@pytest.mark.parametrize(
    ("kind", "examples"),
    [
        ("sqlite", 200 if LONG else 5),
        pytest.param("postgresql", 60 if LONG else 2, marks=pytest.mark.longest),
    ],
)
def test_every_state_is_followed_by_one_that_the_policy_names(
    kind: str,
    examples: int,
    fresh_database: Callable[[str], Callable[[], str]],
    settings_for: Callable[..., Settings],
    schedule: Schedule,
) -> None:
    machine = _machine(kind, fresh_database, settings_for)
    run_state_machine_as_test(
        seed(schedule.seed)(machine),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if LONG else [])],
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
