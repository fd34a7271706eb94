"""The flavours of MX's API: Atrium, and two versions of Platform.

The sandbox serves all of them at one address. A request with ``Authorization``, ``Accept-Version`` or Platform's media type is treated as
Platform's, any other as Atrium's. Then its credentials and its version must be right for that flavour.

Sources: MX's page for Atrium's endpoint, and MX's OpenAPI file of Platform (``tests/data/mx_platform_v20250224.json``).
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus

from aiohttp import web

from worker.sandbox.members import Member
from worker.sandbox.population import SimulatedUser
from worker.sandbox.replies import refusal

ATRIUM_TYPE = "application/vnd.mx.atrium.v1+json"
PLATFORM_2011_TYPE = "application/vnd.mx.api.v1+json"
PLATFORM_VERSION = "v20250224"

_JSON = frozenset({"application/json", "application/*", "*/*"})
Fields = dict[str, object]


class Refused(Exception):  # noqa: N818 - carried from a check to the answer
    """The request is answered with an error."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.response: web.Response = refusal(status, message)


@dataclass(kw_only=True)
class Keys:
    """The credentials that are accepted; while ``revoked``, none are."""

    api_key: str = field(repr=False)
    client_id: str = field(repr=False)
    revoked: bool = False

    def accept(self, client_id: str | None, api_key: str | None) -> bool:
        return not self.revoked and client_id == self.client_id and api_key == self.api_key


def _everybody(_query: Mapping[str, str]) -> Callable[[SimulatedUser], bool]:
    return lambda _user: True


@dataclass(frozen=True, kw_only=True)
class Speech:
    """One flavour, in one version."""

    name: str
    #: The JSON of a member that is read or listed, without a window.
    member: Callable[[Member], Fields]
    #: The fields beside the window in the answer to a request for one.
    beside_window: Callable[[Member], Fields]
    user: Callable[[SimulatedUser], Fields]
    #: Which users are listed, by the query.
    searched: Callable[[Mapping[str, str]], Callable[[SimulatedUser], bool]] = _everybody
    #: Whether users and members may be named by own ids.
    own_ids: bool = False
    #: The parameters of a window that are true or false.
    flags: tuple[str, ...] = ("skip_aggregation", "enable_app2app")
    #: Whether flags may be written ``True``, as MX's own Python client of Platform does.
    flags_in_any_case: bool = True


def _atrium_time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _platform_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _atrium_member(member: Member) -> Fields:
    busy = member.is_being_aggregated  # first, because reading it may change successfully_aggregated_at
    record = member.record
    fields: Fields = {
        "aggregated_at": _atrium_time(member.successfully_aggregated_at),
        "connection_status": member.connection_status,
        "guid": member.guid,
        "identifier": record.member_id,
        "institution_code": record.institution_code,
        "is_being_aggregated": busy,
        "metadata": None,
        "name": record.institution_name,
        "status": "COMPLETED" if member.connection_status == "CONNECTED" else "HALTED",
        "successfully_aggregated_at": _atrium_time(member.successfully_aggregated_at),
        "user_guid": record.user_guid,
    }
    # The specification's sample has none of these fields.
    return fields | _if_known(is_oauth=record.is_oauth, error=_error(member))


def _platform_member(member: Member) -> Fields:
    busy = member.is_being_aggregated  # first, as above
    record = member.record
    moment = _platform_time(member.successfully_aggregated_at)
    fields: Fields = {
        "aggregated_at": moment,
        "background_aggregation_is_disabled": False,
        "connection_status": member.connection_status,
        "connection_status_message": None,
        "guid": member.guid,
        "id": record.member_id,
        "institution_code": record.institution_code,
        "institution_guid": f"INS-{record.institution_code}",
        "is_being_aggregated": busy,
        "is_managed_by_user": record.is_managed_by_user,
        "is_manual": False,
        "is_oauth": record.is_oauth,
        "metadata": None,
        "most_recent_job_detail_code": None,
        "most_recent_job_detail_text": None,
        "most_recent_job_guid": None,
        "name": record.institution_name,
        "needs_updated_credentials": False,
        "oauth_window_uri": None,
        "successfully_aggregated_at": moment,
        "use_cases": ["PFM"],
        "user_guid": record.user_guid,
        "user_id": record.user_id,
    }
    return fields | _if_known(error=_error(member))


def _error(member: Member) -> Fields | None:
    code = member.record.error_code if member.connection_status != "CONNECTED" else None
    return {"error_code": code, "error_message": "The user must connect again."} if code is not None else None


def _if_known(**fields: object) -> Fields:
    return {name: value for name, value in fields.items() if value is not None}


def _atrium_user(user: SimulatedUser) -> Fields:
    return {"guid": user.guid, "identifier": user.id, "is_disabled": user.is_disabled, "metadata": None}


def _platform_user(user: SimulatedUser) -> Fields:
    fields: Fields = {"guid": user.guid, "id": user.id, "is_disabled": user.is_disabled, "metadata": None}
    return fields | _if_known(email=user.email)


def _as_asked(query: Mapping[str, str]) -> Callable[[SimulatedUser], bool]:
    """Platform's search by id, address, and whether the user is disabled."""
    asked = {name: value for name in ("id", "email", "is_disabled") if (value := query.get(name)) is not None}

    def fits(user: SimulatedUser) -> bool:
        has = {"id": user.id, "email": user.email, "is_disabled": str(user.is_disabled)}
        return all((has[name] or "").lower() == value.lower() for name, value in asked.items())

    return fits


def _guid_alone(member: Member) -> Fields:
    return {"guid": member.guid}


ATRIUM = Speech(
    name="atrium",
    member=_atrium_member,
    beside_window=_atrium_member,
    user=_atrium_user,
    flags=("skip_aggregation",),
    flags_in_any_case=False,
)
PLATFORM = Speech(
    name="platform",
    member=_platform_member,
    beside_window=_guid_alone,
    user=_platform_user,
    searched=_as_asked,
    own_ids=True,
)
PLATFORM_2011 = Speech(
    name="platform_2011", member=_platform_member, beside_window=_guid_alone, user=_platform_user, searched=_as_asked
)


def understood(headers: Mapping[str, str], keys: Keys) -> Speech:
    """How to answer this request; raises :class:`Refused` for wrong credentials or a version that MX does not know."""
    accepted = {part.partition(";")[0].strip() for part in headers.get("Accept", "").split(",")}
    if not ("Authorization" in headers or "Accept-Version" in headers or PLATFORM_2011_TYPE in accepted):
        if not keys.accept(headers.get("MX-Client-ID"), headers.get("MX-API-Key")):
            raise _unauthorized()
        if ATRIUM_TYPE not in accepted:
            raise Refused(HTTPStatus.NOT_ACCEPTABLE, f"Accept must name {ATRIUM_TYPE}")
        return ATRIUM
    if not keys.accept(*_basic(headers.get("Authorization", ""))):
        raise _unauthorized()
    version = headers.get("Accept-Version")
    if version == PLATFORM_VERSION and accepted & _JSON:
        return PLATFORM
    if version is None and PLATFORM_2011_TYPE in accepted:
        return PLATFORM_2011
    raise Refused(
        HTTPStatus.NOT_ACCEPTABLE,
        f"expected Accept: application/json with Accept-Version: {PLATFORM_VERSION}, or Accept: {PLATFORM_2011_TYPE}",
    )


def _unauthorized() -> Refused:
    return Refused(HTTPStatus.UNAUTHORIZED, "Unauthorized")


def _basic(header: str) -> tuple[str | None, str | None]:
    """Name and password of HTTP Basic (RFC 7617); ``None`` twice for anything else."""
    scheme, _, encoded = header.partition(" ")
    try:
        name, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None, None
    return (name, password) if scheme.lower() == "basic" and colon else (None, None)
