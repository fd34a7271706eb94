"""Converts users and members as MX's client read them to the types of the store, for syncs and hints."""

from worker.channels.email.addresses import NotAMailbox, parse_mailbox
from worker.mx.answers import Member, User
from worker.store.from_mx.answers import MxMember, MxUser

#: The length of the columns for a code.
_LONGEST_CODE = 128


def mx_member(said: Member, *, user_guid: str, asked_guid: str | None = None) -> MxMember:
    """``user_guid``: the user that MX was asked for, as our tables have it. ``asked_guid``: the GUID of our row, if the request named one."""
    code = said.institution_code
    return MxMember(
        user_guid=user_guid,
        member_guid=said.guid,
        asked_guid=asked_guid if asked_guid != said.guid else None,
        own_id=said.id,
        connection_status=said.connection_status,
        is_oauth=said.is_oauth,
        institution_code=code if code is not None and len(code) <= _LONGEST_CODE else None,
        institution_name=said.name,
        error_code=said.error_code,
        tells_error=said.tells_error,
        is_managed_by_user=said.is_managed_by_user,
        is_being_aggregated=said.is_being_aggregated,
        successfully_aggregated_at=said.successfully_aggregated_at,
    )


def mx_user(said: User, *, with_email: bool) -> MxUser:
    """``with_email``: ``SYNC_EMAILS``. An address that is not exactly one mailbox is left out."""
    email = None
    if with_email and said.email is not None:
        try:
            parse_mailbox(said.email)
        except NotAMailbox:
            pass
        else:
            email = said.email
    return MxUser(user_guid=said.guid, email=email, own_id=said.id)
