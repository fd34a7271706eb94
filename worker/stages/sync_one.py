"""Sync one user or one member, for `reconnect sync --user` and `--member`."""

from collections import Counter
from datetime import datetime

from worker.mx.answers import Gone, MemberRead
from worker.runtime import Runtime
from worker.stages.attribution import failure_of
from worker.stages.mx_words import mx_member
from worker.stages.sync import SyncEnded
from worker.stages.user_members import members_of, not_listed
from worker.store.syncs.store import SyncStore
from worker.store.syncs.sync import (
    MemberChecked,
    MemberToCheck,
    complete,
)


async def sync_user(runtime: Runtime, user_guid: str) -> dict[str, int]:
    """List the members of one user, and read those that are not listed. Returns what was found, as in ``store/syncs/sync.py``."""
    now = await runtime.set_clock()
    store, counts = runtime.database.store(SyncStore), Counter[str]()
    known = await store.members_of(user_guid)
    listed = await members_of(runtime.mx, user_guid)
    if listed.failure is not None or (listed.is_gone and not known):
        code = "not_found" if listed.failure is None else failure_of(listed.failure).code
        raise SyncEnded(f"sync: MX does not list the members of {user_guid} ({code})")
    if listed.lie:
        raise SyncEnded(f"sync: MX's list of the members of {user_guid} is not believed: {listed.lie}")
    mx_members = [mx_member(member, user_guid=user_guid) for member in listed.members.values()]
    missing = not_listed(mx_members, known)
    # First those that are not listed: one may have moved to a GUID that our tables do not have yet.
    for guid in missing:
        await _sync_one(runtime, user_guid, guid, counts, read_at=now, asked_guid=known[guid])
    await store.apply_one(
        mx_members,
        read_at=now,
        now=runtime.clock.now(),
        skip_aggregation=runtime.settings.mx_skip_aggregation,
        found=counts,
    )
    return complete(counts + Counter(users=1))


async def sync_member(runtime: Runtime, member_guid: str, user_guid: str | None = None) -> dict[str, int]:
    """Read one member; ``user_guid`` is needed if our tables do not have it. Returns what was found, as in ``store/syncs/sync.py``."""
    now = await runtime.set_clock()
    counts = Counter[str]()
    store = runtime.database.store(SyncStore)
    user = user_guid or await store.user_of(member_guid)
    if user is None:
        raise SyncEnded(f"sync: {member_guid} is not in the database; MX needs its user to find it: add --user USR-…")
    moved_to = (await store.members_of(user)).get(member_guid)
    await _sync_one(runtime, user, member_guid, counts, read_at=now, asked_guid=moved_to)
    return complete(counts)


async def _sync_one(
    runtime: Runtime,
    user_guid: str,
    member_guid: str,
    counts: Counter[str],
    *,
    read_at: datetime,
    asked_guid: str | None = None,
) -> None:
    store, skip = runtime.database.store(SyncStore), runtime.settings.mx_skip_aggregation
    answer = await runtime.mx.read_member(user_guid, asked_guid or member_guid)
    if isinstance(answer, MemberRead):
        mx_members = [mx_member(answer.member, user_guid=user_guid, asked_guid=member_guid)]
        await store.apply_one(mx_members, read_at=read_at, now=runtime.clock.now(), skip_aggregation=skip, found=counts)
    elif isinstance(answer, Gone):
        member = MemberToCheck(id=0, member_guid=member_guid, user_guid=user_guid, attempts=0)
        await store.settle_checks(
            None, [MemberChecked(member=member, gone=True)],
            read_at=read_at, skip_aggregation=skip, seconds=0, now=runtime.clock.now(), found=counts,
        )  # fmt: skip
    else:
        raise SyncEnded(f"sync: MX does not read {member_guid} for us now ({failure_of(answer).code})")
