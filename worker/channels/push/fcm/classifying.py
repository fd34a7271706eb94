"""Classifies an answer of FCM, as one pure function (Firebase: *REST error codes for the HTTP v1 API*).

| errorCode, or else the HTTP status | outcome |
|---|---|
| 200 | sent |
| UNREGISTERED | the address is bad: the app is gone from the device |
| INVALID_ARGUMENT, and ``fieldViolations`` names the token, or there are none | the address is bad: see below |
| INVALID_ARGUMENT with other ``fieldViolations``, other 4xx | failed |
| QUOTA_EXCEEDED, 429 | later, and the whole channel waits as long as ``Retry-After`` says |
| UNAVAILABLE, 502, 503, 504 | later; FCM is overloaded, so the whole channel |
| INTERNAL, other 5xx | later |
| SENDER_ID_MISMATCH, THIRD_PARTY_AUTH_ERROR, 401, 403 | the channel is down: the project or its keys are wrong |
| 404 without an errorCode, 3xx | the channel is down: the server is not FCM, or the project does not exist |

FCM answers an invalid token with INVALID_ARGUMENT, "The registration token is not a valid FCM registration token", and no
``fieldViolations`` (firebase-admin-java, issue 1064; async-firebase, issue 15). For an invalid payload it names the field in
``fieldViolations``. If our payload is the cause all the same, every message gets this answer; the failure streak then stops the
channel and enables the devices again (``policy/streaks.py``).

A code is one of the words above in lower case, or ``http_`` and the status. It contains no text of FCM, which may repeat the token.
"""

import json
from collections.abc import Mapping
from typing import Any

from worker.channels import BadAddress, ChannelDown, Doubt, Failed, Outcome, Refusal, Sent, TryLater
from worker.channels.push.http import HttpResponse, asked_to_wait

#: Codes whose cause is usually the whole project, but may be one token: a token of another project, or of an iOS app if Firebase
#: has no key for Apple. :mod:`worker.channels.last_accepted` decides.
MAY_BE_ONE_TOKEN = frozenset({"sender_id_mismatch", "third_party_auth_error"})

_MISCONFIGURED = frozenset({"SENDER_ID_MISMATCH", "THIRD_PARTY_AUTH_ERROR"})
_TOKEN_FIELD = "message.token"  # noqa: S105 - a field's name
_OVERLOADED = frozenset({502, 503, 504})
_REFUSES_US = frozenset({401, 403, 404})


def classify(reply: HttpResponse) -> Outcome:  # noqa: PLR0911 - one return for each row of the table
    """The outcome of a message that FCM answered."""
    if reply.status == 200:  # noqa: PLR2004
        return Sent()
    details = _details(reply.body)
    error_code = next((code for item in details if isinstance(code := item.get("errorCode"), str)), "")
    match error_code:
        case "UNREGISTERED":
            return BadAddress(code="unregistered")
        case "INVALID_ARGUMENT":
            if _names_token(details) or not any("fieldViolations" in item for item in details):
                return BadAddress(code="invalid_token", refusal=Refusal("INVALID_ARGUMENT", Doubt.MESSAGE))
            return Failed(code="invalid_argument", refusal=Refusal("INVALID_ARGUMENT", Doubt.US))
        case "QUOTA_EXCEEDED":
            return _wait("quota_exceeded", reply.headers, whole_channel=True)
        case "UNAVAILABLE":
            return _wait("unavailable", reply.headers, whole_channel=True)
        case "INTERNAL":
            return _wait("internal", reply.headers, whole_channel=False)
        case code if code in _MISCONFIGURED:
            return ChannelDown(code=code.lower())
    return _classify_status(reply, details)


def _classify_status(reply: HttpResponse, details: list[dict[str, Any]]) -> Outcome:
    status = reply.status
    code = f"http_{status}"
    if status == 429 or status in _OVERLOADED:  # noqa: PLR2004
        return _wait(code, reply.headers, whole_channel=True)
    if status >= 500:  # noqa: PLR2004
        return _wait(code, reply.headers, whole_channel=False)
    if status in _REFUSES_US or 300 <= status < 400:  # noqa: PLR2004
        return ChannelDown(code=code)
    if status == 400 and _names_token(details):  # noqa: PLR2004
        return BadAddress(code="invalid_token", refusal=Refusal("INVALID_ARGUMENT", Doubt.MESSAGE))
    return Failed(code=code, refusal=Refusal(code, Doubt.US))


def _wait(code: str, headers: Mapping[str, str], *, whole_channel: bool) -> TryLater:
    refusal = Refusal(code, Doubt.US)
    return TryLater(code=code, after=asked_to_wait(headers), whole_channel=whole_channel, refusal=refusal)


def _names_token(details: list[dict[str, Any]]) -> bool:
    violations = (item.get("fieldViolations") for item in details)
    return any(
        isinstance(violation, dict) and violation.get("field") == _TOKEN_FIELD
        for listed in violations
        if isinstance(listed, list)
        for violation in listed
    )


def _details(body: bytes) -> list[dict[str, Any]]:
    """``error.details``; empty if the body has another shape."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return []
    error = answer.get("error") if isinstance(answer, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    return [item for item in details if isinstance(item, dict)] if isinstance(details, list) else []
