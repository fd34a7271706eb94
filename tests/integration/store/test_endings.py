"""For every row that an application may write, a sweep and planning end the reconnection in the same way."""

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

from sqlalchemy import insert, select

from worker.policy.recovery import ending
from worker.policy.selection import MemberFacts, Reason
from worker.settings import CONNECTION_STATUSES
from worker.store.sql.tables import members, reconnections
from worker.store.transactions.visit import Visits

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
STATUSES = ("DENIED", "IMPAIRED", "IMPORTED", "PREVENTED")
DAYS = (7, 2)
SINCE = {reason: NOW - timedelta(days=3) for reason in Reason} | {Reason.EXPIRES_SOON: NOW + timedelta(days=5)}
#: Values of the row's other columns, beside its status.
BESIDE: list[dict[str, Any]] = [
    {},
    {"error_code": 2004},
    {"error_code": 1000},
    {"token_revoked_at": NOW - timedelta(days=3)},
    {"token_expires_at": NOW - timedelta(days=3)},
    {"token_expires_at": NOW + timedelta(days=5)},
    {"token_expires_at": NOW + timedelta(days=90)},
    {"token_expires_at": NOW + timedelta(days=90), "is_reckoned": True},
    {"token_expires_at": NOW + timedelta(days=5), "is_reckoned": True},
    {"token_expires_at": NOW - timedelta(days=3), "is_reckoned": True},
    {"token_expires_at": NOW + timedelta(days=1)},
    {"is_oauth": False},
]


async def test_a_sweep_and_planning_end_a_reconnection_alike(bench_for: Any) -> None:
    bench = await bench_for()
    said = [*CONNECTION_STATUSES, None, "SOMETHING_NEW"]
    assert len(said) == 24
    cases: list[tuple[str, str, MemberFacts | None, str]] = [
        (f"MBR-{number}", reason, MemberFacts(connection_status=status, **beside), user)
        for number, (reason, status, beside, user) in enumerate(product(Reason, said, BESIDE, ("USR-1", "USR-2")))
    ]
    cases += [(f"MBR-deleted-{reason}", reason, None, "USR-1") for reason in Reason]
    columns = ("connection_status", "error_code", "token_revoked_at", "token_expires_at", "is_oauth")
    rows = [
        {"member_guid": guid, "user_guid": user}
        | {name: getattr(facts, name) for name in columns}
        | {"expiry_reckoned": facts.token_expires_at if facts.is_reckoned else None}
        for guid, _, facts, user in cases
        if facts is not None
    ]
    opened = [
        {
            "member_guid": guid,
            "user_guid": "USR-1",
            "state": "due",
            "reason": reason,
            "broken_since": SINCE[reason],
            "opened_at": NOW,
        }
        for guid, reason, *_ in cases
    ]
    async with bench.runtime.database.engine.begin() as connection:
        await connection.execute(insert(members), rows)
        await connection.execute(insert(reconnections), opened)
    visits = Visits(bench.runtime.database.rows, statuses=STATUSES, notice_days=DAYS)
    r = reconnections.c
    async with bench.runtime.database.engine.begin() as connection:
        await visits.visit(connection, [guid for guid, *_ in cases], NOW, grace=timedelta(0))
        # The oldest of each member. A newer one may exist: after a notice ended, or when the row names another user.
        found = await connection.execute(select(r.member_guid, r.state, r.outcome).order_by(r.id.desc()))
        swept = {row[0]: tuple(row[1:]) for row in found}
    for guid, reason, facts, user in cases:
        planned = ending(
            facts,
            reason=reason,
            broken_since=SINCE[reason],
            is_of_other_user=user != "USR-1",
            statuses=STATUSES,
            notice_days=DAYS,
            now=NOW,
        )
        assert swept[guid] == (planned or ("due", None)), (reason, facts, user)


def test_a_member_that_is_well_in_any_word_of_mx_has_come_back() -> None:
    for status in ("CONNECTED", "RECONNECTED", "UPDATED", "RESUMED", None):
        end = ending(
            MemberFacts(connection_status=status),
            reason=Reason.STATUS,
            broken_since=NOW,
            is_of_other_user=False,
            statuses=STATUSES,
            notice_days=(),
            now=NOW,
        )
        assert end == ("reconnected", "no_longer_broken")
