"""Converts users and members as MX's client read them to the types of the store, for syncs and hints."""

from worker.channels.email.addresses import NotAMailbox, parse_mailbox
from worker.mx.answers import Member, User
from worker.store.from_mx.answers import MxMember, MxUser

#: The length of the columns for a code.
_LONGEST_CODE = 128


def mx_member(member: Member, *, user_guid: str, asked_guid: str | None = None) -> MxMember:
    """``user_guid``: the user that MX was asked for, as our tables have it. ``asked_guid``: the GUID of our row, if the request named one."""
    code = member.institution_code
    return MxMember(
        user_guid=user_guid,
        member_guid=member.guid,
        asked_guid=asked_guid if asked_guid != member.guid else None,
        own_id=member.id,
        connection_status=member.connection_status,
        is_oauth=member.is_oauth,
        institution_code=code if code is not None and len(code) <= _LONGEST_CODE else None,
        institution_name=member.name,
        error_code=member.error_code,
        tells_error=member.tells_error,
        is_managed_by_user=member.is_managed_by_user,
        is_being_aggregated=member.is_being_aggregated,
        successfully_aggregated_at=member.successfully_aggregated_at,
    )


def mx_user(user: User, *, with_email: bool) -> MxUser:
    """``with_email``: ``SYNC_EMAILS``. An address that is not exactly one mailbox is left out."""
    email = None
    if with_email and user.email is not None:
        try:
            parse_mailbox(user.email)
        except NotAMailbox:
            pass
        else:
            email = user.email
    return MxUser(user_guid=user.guid, email=email, own_id=user.id)
