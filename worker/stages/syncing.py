"""The two passes of a sync, as the runner sees them: the members of users, and members that MX's lists lack."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Generic, TypeVar

import msgspec
import structlog

from worker.mx.answers import Failure, Gone, Member, MemberList, MemberRead, UserList
from worker.mx.client import Mx
from worker.policy.listing import ListLies, Position
from worker.policy.mx_failures import OUR_FAULT, Kind, MxFailure
from worker.policy.streaks import MANY, OUT_OF
from worker.runtime import Runtime
from worker.stages.attribution import failure_of
from worker.stages.mx_words import mx_member, mx_user
from worker.stages.runner import Batch, Runner
from worker.store.mx_answers import MxMember
from worker.store.syncs.store import SyncStore
from worker.store.syncs.sync import LISTING, MemberChecked, MemberToCheck, Sync, UserRead, UserToRead

log = structlog.get_logger()

#: Entries of one page, as asked for: users, and members of one user.
USERS_A_PAGE, MEMBERS_A_PAGE = 1_000, 100
#: The most pages of one user's members that are believed.
_MOST_PAGES = 200
#: Users or members claimed and settled at once; more than `BATCH_SIZE`, because most of them are written by no statement of their own.
BATCH = 500

Job = TypeVar("Job", UserToRead, MemberToCheck)
Done = TypeVar("Done", UserRead, MemberChecked)


class Streak:
    """Whether MX serves us: it does not once it refused us, or most of the last calls failed."""

    def __init__(self) -> None:
        self._last: deque[bool] = deque(maxlen=OUT_OF)
        #: Why the run ends, as a short word of ``mx/answers.py``.
        self.code = ""
        #: It refused the client, which concerns every stage.
        self.refused = False

    def went_well(self) -> None:
        self._note(well=True)

    def failed(self, failure: MxFailure) -> bool:
        """Whether MX is asked no more in this run."""
        if failure.kind is Kind.REFUSED:
            self.code, self.refused = failure.code, True
        elif failure.kind is Kind.UPSTREAM:
            self._note(well=False)
            if self._last.count(False) >= MANY:
                self.code = failure.code
        else:
            self._note(well=failure.kind is not Kind.PACED and failure.kind is not Kind.PASSING)
        return bool(self.code)

    def _note(self, *, well: bool) -> None:
        self._last.append(well)


@dataclass
class Progress:
    """How far a sync is, for a progress bar."""

    phase: str = LISTING
    #: Users whose members were read, or members that were checked; of how many, as far as it is known.
    done: int = 0
    total: int = 0


class Pass(Generic[Job, Done]):
    """What both passes share."""

    def __init__(
        self, runtime: Runtime, store: SyncStore, sync: Sync, streak: Streak, progress: Progress, *, seconds: float
    ) -> None:
        self._runtime = runtime
        self._store = store
        self._sync = sync
        self._streak = streak
        self._progress = progress
        self._lease = lease_of(runtime)
        self._last = 0
        #: How many rows are done, or one attempt closer to being given up.
        self.advanced = 0
        self._turn = asyncio.Lock()
        #: When each row that is not settled yet was claimed, so before MX was asked for it.
        self._began: dict[int, datetime] = {}
        self.runner: Runner[Job, Done] = Runner(
            stage=self,  # type: ignore[arg-type]  # the subclasses are stages
            slots=runtime.settings.mx_max_connections,
            batch=BATCH,
            seconds=seconds,
            renew_every=self._lease / 3,
            stopping=runtime.stopping,
            claims_at_once=2,
        )

    def _failed(self, answer: Failure) -> tuple[bool, bool]:
        """An answer that is none: whether the row failed by it, and whether that counts as an attempt."""
        failure = failure_of(answer)
        if self._streak.failed(failure):
            self.runner.halted = True
        return True, failure.kind not in {Kind.PACED, Kind.REFUSED} and not self._streak.code

    def _read_at(self, ids: Sequence[int]) -> datetime:
        now = self._runtime.clock.now()
        return min((self._began.pop(id_, now) for id_ in ids), default=now)

    async def release(self, jobs: Sequence[Job]) -> None:
        """Nothing to do: what is not settled is pending still."""

    async def renew(self, jobs: Sequence[Job]) -> None:  # noqa: ARG002 - the runner's signature
        """Extend the lease of the sync."""
        await self._store.renew(self._sync, seconds=self._lease, now=self._runtime.clock.now())


class Listing(Pass[UserToRead, UserRead]):
    """Pages of users, and the members of each user."""

    def __init__(
        self,
        runtime: Runtime,
        store: SyncStore,
        sync: Sync,
        streak: Streak,
        progress: Progress,
        *,
        seconds: float,
        accept_shorter: bool,
        check_total: Callable[[int], None],
    ) -> None:
        """``check_total``: raises :class:`ListLies` if the total of the first page is not to be believed."""
        super().__init__(runtime, store, sync, streak, progress, seconds=seconds)
        self._check_total = check_total
        self._accept_shorter = accept_shorter
        self.position = Position(
            per_page=sync.per_page or USERS_A_PAGE,
            taken=sync.taken,
            first_total=sync.first_total,
            total=sync.total,
            ended=sync.has_all_users,
        )
        #: The page that is being fetched, or was, ahead of need; and whether it is being stored by now.
        self._page: asyncio.Task[None] | None = None
        self._is_storing = False

    async def claim(self, n: int) -> Batch[UserToRead]:
        """Users whose members are to be read; fetches pages of users as they are needed."""
        async with self._turn:
            while True:
                users = await self._store.to_read(n, after=self._last)
                if len(users) >= n or self._streak.code or self._has_all_pages():
                    break
                page, self._page = self._page or asyncio.create_task(self._fetch_page()), None
                await page
            if users:
                self._last = users[-1].id
                self._began.update(dict.fromkeys((user.id for user in users), self._runtime.clock.now()))
            if self._page is None and not self.position.ended:
                self._page = asyncio.create_task(self._fetch_page())  # while these are worked on
            is_all = self._streak.code or self._has_all_pages()
            return Batch(taken=len(users) if is_all else n, jobs=users)

    def _has_all_pages(self) -> bool:
        return self.position.ended and self._page is None

    async def close(self) -> None:
        """End the page that is being fetched, which is asked for again; one that is being stored is finished."""
        page, self._page = self._page, None
        if page is not None:
            if not self._is_storing:
                page.cancel()
            await asyncio.gather(page, return_exceptions=True)

    async def _fetch_page(self) -> None:
        """One page of users into the database, with the checkpoint behind it."""
        position = replace(self.position)  # which stays as it is until the page is committed
        for _ in range(3):  # the page size may be another than the one that was asked for
            answer = await self._runtime.mx.list_users(position.page, position.per_page)
            if not isinstance(answer, UserList):
                self._failed(answer)
                self._streak.code = self._streak.code or failure_of(answer).code  # there is no going on without it
                self.runner.halted = True
                return
            self._streak.went_well()
            if position.first_total is None:
                self._check_total(answer.pagination.total_entries)
            if _accepts(position, answer, len(answer.users), may_shrink=self._accept_shorter):
                break
        else:
            raise ListLies("its page size is another with each answer")
        self._is_storing = True
        try:
            await self._store_page(position, answer)
        finally:
            self._is_storing = False

    async def _store_page(self, position: Position, page: UserList) -> None:
        takes_emails = self._runtime.settings.sync_emails
        fresh = await self._store.store_users(
            self._sync,
            position,
            [mx_user(user, with_email=takes_emails) for user in page.users],
            disabled={user.guid for user in page.users if user.is_disabled},
            unreadable=page.unreadable,
            seconds=self._lease,
            now=self._runtime.clock.now(),
        )
        self.position = position
        if page.users and not fresh:
            raise ListLies(
                f"pages repeat: page {page.pagination.current_page} holds nobody who was not on a page before"
            )

    async def work(self, user: UserToRead) -> UserRead:
        """Read the members of one user."""
        found = await members_of(self._runtime.mx, user.user_guid)
        if found.failure is not None:
            failed, counts = self._failed(found.failure)
            return UserRead(user=user, failed=failed, counts=counts)
        self._streak.went_well()
        noted = _noted(found) if found.unreadable or found.lie else {}
        heard = [mx_member(member, user_guid=user.user_guid) for member in found.members.values()]
        if found.lie or user.known.keys() <= found.members.keys():  # nearly always, nothing is missing
            return UserRead(user=user, members=heard, noted=noted)
        missing = not_listed(heard, {guid: row.moved_to for guid, row in user.known.items()})
        if missing and any(member.member_guid not in user.known for member in heard):
            heard, missing = await self._find_moved(user, heard, missing)
        return UserRead(user=user, members=heard, missing=missing, noted=noted)

    async def _find_moved(
        self, user: UserToRead, heard: list[MxMember], missing: list[str]
    ) -> tuple[list[MxMember], list[str]]:
        """Some rows are not listed, and some members are new: one may be the other under another GUID."""
        still = []
        for guid in missing:
            answer = await self._runtime.mx.read_member(user.user_guid, guid)
            if isinstance(answer, MemberRead) and answer.member.guid != guid:
                # Ahead of the same member as it was listed: the first answer about a member counts.
                heard = [mx_member(answer.member, user_guid=user.user_guid, asked_guid=guid), *heard]
            else:
                still.append(guid)
        return heard, still

    def crashed(self, job: UserToRead) -> UserRead:
        """An error of this worker counts as an attempt."""
        log.warning("sync_crashed", user=job.user_guid, outcome=OUR_FAULT.code)
        return UserRead(user=job, failed=True)

    async def settle(self, done: Sequence[UserRead]) -> None:
        """Write results, and the checkpoint."""
        if self._streak.code:  # MX serves nobody, so it is nobody's failed attempt
            done = [msgspec.structs.replace(each, counts=False) if each.failed else each for each in done]
        await self._store.settle_users(
            self._sync,
            done,
            read_at=self._read_at([each.user.id for each in done]),
            skip_aggregation=self._runtime.settings.mx_skip_aggregation,
            seconds=self._lease,
            now=self._runtime.clock.now(),
        )
        self.advanced += sum(not each.failed or each.counts for each in done)
        self._progress.done += sum(not each.failed for each in done)
        self._progress.total = max(self.position.total or 0, self._progress.done)


class Checking(Pass[MemberToCheck, MemberChecked]):
    """Members that MX's lists lack, read one by one."""

    async def claim(self, n: int) -> Batch[MemberToCheck]:
        """Members to be read."""
        async with self._turn:
            found = await self._store.to_check(n, after=self._last)
            if found:
                self._last = found[-1].id
                self._began.update(dict.fromkeys((member.id for member in found), self._runtime.clock.now()))
            return Batch(taken=len(found), jobs=found)

    async def work(self, member: MemberToCheck) -> MemberChecked:
        """Read one member."""
        answer = await self._runtime.mx.read_member(member.user_guid, member.member_guid)
        if isinstance(answer, MemberRead):
            self._streak.went_well()
            said = mx_member(answer.member, user_guid=member.user_guid, asked_guid=member.member_guid)
            return MemberChecked(member=member, said=said)
        if isinstance(answer, Gone):
            self._streak.went_well()
            return MemberChecked(member=member, gone=True)
        return MemberChecked(member=member, counts=self._failed(answer)[1])

    def crashed(self, job: MemberToCheck) -> MemberChecked:
        """An error of this worker counts as an attempt."""
        return MemberChecked(member=job)

    async def settle(self, done: Sequence[MemberChecked]) -> None:
        """Write results."""
        if self._streak.code:
            done = [msgspec.structs.replace(each, counts=False) for each in done]
        await self._store.settle_checks(
            self._sync,
            done,
            read_at=self._read_at([each.member.id for each in done]),
            skip_aggregation=self._runtime.settings.mx_skip_aggregation,
            seconds=self._lease,
            now=self._runtime.clock.now(),
            found=self._sync.found,
        )
        self.advanced += sum(each.gone or each.said is not None or each.counts for each in done)
        self._progress.done += sum(each.gone or each.said is not None for each in done)


class MembersSaid(msgspec.Struct, kw_only=True):
    """What MX's list of one user's members says, all pages."""

    members: dict[str, Member] = {}
    unreadable: int = 0
    #: It could not be read.
    failure: Failure | None = None
    #: MX does not know the user.
    is_gone: bool = False
    #: How the list contradicts itself: what it lacks is not missing then.
    lie: str = ""


async def members_of(mx: Mx, user_guid: str) -> MembersSaid:
    """List the members of one user."""
    answer = await mx.list_members(user_guid, 1, MEMBERS_A_PAGE)
    if isinstance(answer, MemberList) and _is_all(answer):  # nearly always
        return MembersSaid(members={member.guid: member for member in answer.members})
    found, position = MembersSaid(members={}), Position(per_page=MEMBERS_A_PAGE)
    for _ in range(_MOST_PAGES):
        if isinstance(answer, Gone):  # deleted since its page was read
            found.is_gone = True
            return found
        if not isinstance(answer, MemberList):
            found.failure = answer
            return found
        try:
            is_next = _accepts(position, answer, len(answer.members), may_shrink=True)
        except ListLies as lie:
            found.lie = str(lie)
            return found
        if is_next:
            before = len(found.members)
            found.members.update((member.guid, member) for member in answer.members)
            found.unreadable += answer.unreadable
            if before == len(found.members) and answer.members:
                found.lie = "its pages repeat"
        if position.ended or found.lie:
            break
        answer = await mx.list_members(user_guid, position.page, position.per_page)
    else:
        found.lie = f"it has no end after {_MOST_PAGES} pages"
    if not found.lie and len(found.members) + found.unreadable < (position.total or 0):
        found.lie = f"it says that it has {position.total} entries, and holds {len(found.members)}"
    return found


def _is_all(page: MemberList) -> bool:
    """Whether a first page holds the whole list."""
    said = page.pagination
    return (
        said.current_page == 1
        and said.total_entries == len(page.members) <= said.per_page == MEMBERS_A_PAGE
        and not page.unreadable
    )


def _noted(found: MembersSaid) -> dict[str, int]:
    """What a list tells in words of ``found``."""
    return {"unreadable": found.unreadable, "contradicted": int(bool(found.lie))}


def not_listed(heard: Sequence[MxMember], known: Mapping[str, str | None]) -> list[str]:
    """Which of our rows a list lacks. ``known``: their GUIDs, each with the one that it moved to."""
    names = {name for member in heard for name in (member.member_guid, member.own_id) if name is not None}
    return [guid for guid, moved in known.items() if guid not in names and moved not in names]


def _accepts(position: Position, page: UserList | MemberList, rows: int, *, may_shrink: bool) -> bool:
    """:meth:`Position.accepts` of a page with so many rows that could be read."""
    said = page.pagination
    return position.accepts(
        current_page=said.current_page,
        per_page=said.per_page,
        total=said.total_entries,
        entries=rows + page.unreadable,
        may_shrink=may_shrink,
    )


def lease_of(runtime: Runtime) -> float:
    """For how many seconds a sync is held: long enough for a slow transaction, short enough for whoever goes on with it."""
    return min(float(runtime.settings.lease_seconds), 30.0)
