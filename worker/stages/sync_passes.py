"""The two passes of a sync, as the runner sees them: list the members of each user, and read the members that MX's lists lack."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic

import msgspec
import structlog

from worker.mx.answers import Gone, MemberRead, UserList
from worker.policy.list_checks import ListLies, Position
from worker.policy.mx_failures import OUR_FAULT
from worker.runtime import Runtime
from worker.stages.attribution import failure_of
from worker.stages.mx_words import mx_member, mx_user
from worker.stages.runner import Batch
from worker.stages.sync_pass_base import MxHealth, Pass, Progress
from worker.stages.user_members import accepts, members_of, not_listed
from worker.store.from_mx.answers import MxMember
from worker.store.syncs.store import SyncStore
from worker.store.syncs.sync import MemberChecked, MemberToCheck, Sync, UserRead, UserToRead

log = structlog.get_logger()

#: Entries of one page of users, as asked for.
USERS_A_PAGE = 1_000


class Listing(Pass[UserToRead, UserRead]):
    """Pages of users, and the members of each user."""

    def __init__(
        self,
        runtime: Runtime,
        store: SyncStore,
        sync: Sync,
        mx_health: MxHealth,
        progress: Progress,
        *,
        seconds: float,
        accept_shorter: bool,
        check_total: Callable[[int], None],
    ) -> None:
        """``check_total``: raises :class:`ListLies` if the total of the first page is not to be believed."""
        super().__init__(runtime, store, sync, mx_health, progress, seconds=seconds)
        self._check_total = check_total
        self._accept_shorter = accept_shorter
        self.position = Position(
            per_page=sync.per_page or USERS_A_PAGE,
            taken=sync.taken,
            first_total=sync.first_total,
            total=sync.total,
            ended=sync.has_all_users,
        )
        #: The task that fetches the next page ahead of need, and whether it is storing the page already.
        self._page_task: asyncio.Task[None] | None = None
        self._is_storing = False

    async def claim(self, n: int) -> Batch[UserToRead]:
        """Users whose members are to be read; fetches pages of users as they are needed."""
        async with self._claim_lock:
            while True:
                users = await self._store.to_read(n, after=self._last_id)
                if len(users) >= n or self._mx_health.code or self._has_all_pages():
                    break
                if monotonic() >= self._claim_until:  # pages may be small, and MX slow
                    break
                page_task, self._page_task = self._page_task or asyncio.create_task(self._fetch_page()), None
                await page_task
            if users:
                self._last_id = users[-1].id
                self._claimed_at.update(dict.fromkeys((user.id for user in users), self._runtime.clock.now()))
            if self._page_task is None and not self.position.ended:
                self._page_task = asyncio.create_task(self._fetch_page())  # in parallel to the work on these users
            is_all = self._mx_health.code or self._has_all_pages()
            return Batch(users, more_may_be_due=len(users) >= n or not is_all)

    def _has_all_pages(self) -> bool:
        return self.position.ended and self._page_task is None

    async def close(self) -> None:
        """Cancel the fetch of a page; the page is asked for again. If it is being stored already, wait for that."""
        page_task, self._page_task = self._page_task, None
        if page_task is not None:
            if not self._is_storing:
                page_task.cancel()
            await asyncio.gather(page_task, return_exceptions=True)

    async def _fetch_page(self) -> None:
        """Fetch one page of users, and store it together with the checkpoint."""
        position = replace(self.position)  # a copy: the original changes only once the page is committed
        for _ in range(3):  # MX may use another page size than the one that was asked for
            answer = await self._runtime.mx.list_users(position.page, position.per_page)
            if not isinstance(answer, UserList):
                self._failed(answer)
                self._mx_health.code = (
                    self._mx_health.code or failure_of(answer).code
                )  # the listing cannot continue without this page
                self.runner.halted = True
                return
            self._mx_health.went_well()
            if position.first_total is None:
                self._check_total(answer.pagination.total_entries)
            if accepts(position, answer, len(answer.users), may_shrink=self._accept_shorter):
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
        new_users = await self._store.store_users(
            self._sync,
            position,
            [mx_user(user, with_email=takes_emails) for user in page.users],
            disabled={user.guid for user in page.users if user.is_disabled},
            unreadable=page.unreadable,
            seconds=self._lease,
            now=self._runtime.clock.now(),
        )
        self.position = position
        if page.users and not new_users:
            raise ListLies(
                f"pages repeat: page {page.pagination.current_page} holds nobody who was not on a page before"
            )

    async def work(self, user: UserToRead) -> UserRead:
        """Read the members of one user."""
        listed = await members_of(self._runtime.mx, user.user_guid)
        if listed.failure is not None:
            failed, counts = self._failed(listed.failure)
            return UserRead(user=user, failed=failed, counts=counts)
        self._mx_health.went_well()
        noted = listed.oddities() if listed.unreadable or listed.lie else {}
        mx_members = [mx_member(member, user_guid=user.user_guid) for member in listed.members.values()]
        if listed.lie or user.known.keys() <= listed.members.keys():  # nearly always, nothing is missing
            return UserRead(user=user, members=mx_members, noted=noted)
        missing = not_listed(mx_members, {guid: row.moved_to for guid, row in user.known.items()})
        if missing and any(member.member_guid not in user.known for member in mx_members):
            mx_members, missing = await self._find_moved(user, mx_members, missing)
        return UserRead(user=user, members=mx_members, missing=missing, noted=noted)

    async def _find_moved(
        self, user: UserToRead, mx_members: list[MxMember], missing: list[str]
    ) -> tuple[list[MxMember], list[str]]:
        """Some of our rows are not listed, and some listed members are new: a new one may be a missing one that moved to another GUID."""
        still_missing = []
        for guid in missing:
            answer = await self._runtime.mx.read_member(user.user_guid, user.known[guid].moved_to or guid)
            if isinstance(answer, MemberRead) and answer.member.guid != guid:
                # Put before the same member's entry in the list, because the first answer about a member counts.
                mx_members = [mx_member(answer.member, user_guid=user.user_guid, asked_guid=guid), *mx_members]
            else:
                still_missing.append(guid)
        return mx_members, still_missing

    def crashed(self, job: UserToRead) -> UserRead:
        """An error of this worker counts as an attempt."""
        log.warning("sync_crashed", user=job.user_guid, outcome=OUR_FAULT.code)
        return UserRead(user=job, failed=True)

    async def settle(self, reads: Sequence[UserRead]) -> None:
        """Write results, and the checkpoint."""
        if self._mx_health.code:  # MX fails as a whole, so no attempt is counted
            reads = [msgspec.structs.replace(read, counts=False) if read.failed else read for read in reads]
        await self._store.settle_users(
            self._sync,
            reads,
            read_at=self._read_at([read.user.id for read in reads]),
            skip_aggregation=self._runtime.settings.mx_skip_aggregation,
            seconds=self._lease,
            now=self._runtime.clock.now(),
        )
        self.advanced += sum(not read.failed or read.counts for read in reads)
        self._progress.done += sum(not read.failed for read in reads)
        self._progress.total = max(self.position.total or 0, self._progress.done)


class Checking(Pass[MemberToCheck, MemberChecked]):
    """Members that MX's lists lack, read one by one."""

    async def claim(self, n: int) -> Batch[MemberToCheck]:
        """Members to be read."""
        async with self._claim_lock:
            members = await self._store.to_check(n, after=self._last_id)
            if members:
                self._last_id = members[-1].id
                self._claimed_at.update(dict.fromkeys((member.id for member in members), self._runtime.clock.now()))
            return Batch(members, more_may_be_due=len(members) >= n)

    async def work(self, member: MemberToCheck) -> MemberChecked:
        """Read one member."""
        answer = await self._runtime.mx.read_member(member.user_guid, member.asked_guid)
        if isinstance(answer, MemberRead):
            self._mx_health.went_well()
            member_at_mx = mx_member(answer.member, user_guid=member.user_guid, asked_guid=member.member_guid)
            return MemberChecked(member=member, answer=member_at_mx)
        if isinstance(answer, Gone):
            self._mx_health.went_well()
            return MemberChecked(member=member, gone=True)
        return MemberChecked(member=member, counts=self._failed(answer)[1])

    def crashed(self, job: MemberToCheck) -> MemberChecked:
        """An error of this worker counts as an attempt."""
        return MemberChecked(member=job)

    async def settle(self, checks: Sequence[MemberChecked]) -> None:
        """Write results."""
        if self._mx_health.code:
            checks = [msgspec.structs.replace(check, counts=False) for check in checks]
        await self._store.settle_checks(
            self._sync,
            checks,
            read_at=self._read_at([check.member.id for check in checks]),
            skip_aggregation=self._runtime.settings.mx_skip_aggregation,
            seconds=self._lease,
            now=self._runtime.clock.now(),
            found=self._sync.found,
        )
        self.advanced += sum(check.gone or check.answer is not None or check.counts for check in checks)
        self._progress.done += sum(check.gone or check.answer is not None for check in checks)
