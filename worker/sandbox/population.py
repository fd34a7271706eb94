"""The population file: the simulated members as JSON Lines, one member a line."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from worker.errors import UsageError
from worker.sandbox.problems import one_line
from worker.sandbox.script import GUID_ALPHABET, Step, parse_script

#: "letters, digits, - and _"
_OWN_ID = r"^[A-Za-z0-9_-]{1,120}$"
_STATUS = re.compile(r"[A-Z_]{2,40}")


def _guid(prefix: str) -> AfterValidator:
    pattern = re.compile(f"{prefix}-{GUID_ALPHABET}")

    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"expected {prefix}- and letters, digits, '-', '_', '.' or '~'")
        return value

    return AfterValidator(check)


def _check_status(value: str) -> str:
    # Not limited to MX's statuses: a client must cope with an unknown one.
    if not _STATUS.fullmatch(value):
        raise ValueError("expected a connection_status such as DENIED")
    return value


ConnectionStatus = Annotated[str, AfterValidator(_check_status)]
Script = Annotated[tuple[Step, ...], PlainValidator(parse_script)]


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedUser:
    """A user, as the lines of its members describe it."""

    guid: str
    id: str | None = None
    email: str | None = None
    is_disabled: bool = False


class SimulatedMember(BaseModel):
    """One member in the population file. :class:`worker.sandbox.members.Member` has its state while the sandbox runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    user_guid: Annotated[str, _guid("USR")]
    member_guid: Annotated[str, _guid("MBR")]
    institution_code: str = Field("mx_bank_oauth", min_length=1, max_length=100)
    institution_name: str = Field("MX Bank (OAuth)", min_length=1, max_length=200)
    connection_status: ConnectionStatus = "DENIED"
    #: See :mod:`worker.sandbox.script`.
    script: Script = (Step("ok"),)
    #: ``null``: MX does not say.
    is_oauth: bool | None = None
    #: ``false``: an MX partner manages it.
    is_managed_by_user: bool = True
    #: ``error.error_code``, until the member is CONNECTED.
    error_code: int | None = None
    #: The own ids, which Platform accepts as well.
    member_id: str | None = Field(None, pattern=_OWN_ID)
    user_id: str | None = Field(None, pattern=_OWN_ID)
    #: The user's address; the first line that has it counts.
    email: str | None = Field(None, max_length=254)
    user_is_disabled: bool = False


def load_population(path: Path) -> tuple[SimulatedMember, ...]:
    """Every member in the file; raises :class:`UsageError` with file, line and the first problem."""
    members: dict[str, SimulatedMember] = {}
    lines: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    member = SimulatedMember.model_validate_json(line)
                except ValidationError as error:
                    raise UsageError(
                        f"{path}:{number}: {one_line(error, tuple(SimulatedMember.model_fields))}"
                    ) from None
                first = lines.setdefault(member.member_guid, number)
                if first != number:
                    raise UsageError(f"{path}:{number}: member_guid is the same as on line {first}")
                members[member.member_guid] = member
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8") from None
    if not members:
        raise UsageError(f"{path}: holds no member")
    return tuple(members.values())
