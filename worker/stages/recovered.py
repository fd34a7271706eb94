"""Does an answer of MX mean that a member is back? Used by fetch, verify, deliver and clicks; webhooks and syncs call
:func:`worker.policy.recovery.is_back` for many members at once."""

from datetime import datetime

from worker.mx.answers import MemberState
from worker.policy.recovery import is_back, is_renewed
from worker.store.members import Well


def well_by(
    member: MemberState, *, member_guid: str, broken_since: datetime, reason: str, skip_aggregation: bool
) -> Well | None:
    """MX's values for ``member_guid``, if they mean that the reconnection is over. ``member`` may have another GUID by now."""
    back = is_back(
        connection_status=member.connection_status,
        is_being_aggregated=member.is_being_aggregated,
        successfully_aggregated_at=member.successfully_aggregated_at,
        error_code=member.error_code,
        broken_since=broken_since,
        reason=reason,
        skip_aggregation=skip_aggregation,
    )
    return _well(member, member_guid) if back else None


def renewed_by(member: MemberState, *, member_guid: str, clicked_at: datetime | None) -> Well | None:
    """MX's values for the member of a notice, if they mean that its customer renewed the consent by a click."""
    renewed = is_renewed(
        connection_status=member.connection_status,
        is_being_aggregated=member.is_being_aggregated,
        successfully_aggregated_at=member.successfully_aggregated_at,
        error_code=member.error_code,
        clicked_at=clicked_at,
    )
    return _well(member, member_guid) if renewed else None


def _well(member: MemberState, member_guid: str) -> Well | None:
    if member.connection_status is None:
        return None
    return Well(
        member_guid=member_guid,
        connection_status=member.connection_status,
        error_code=member.error_code,
        aggregated_at=member.successfully_aggregated_at,
    )
