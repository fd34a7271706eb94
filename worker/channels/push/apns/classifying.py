"""Classifies an answer of APNs, as one pure function (Apple: *Handling notification responses from APNs*).

| reason, or else the HTTP status | outcome |
|---|---|
| 200 | sent |
| Unregistered, ExpiredToken, 410 | the address is bad: the app is gone from the device |
| BadDeviceToken, DeviceTokenNotForTopic | the address is bad, or a setting is wrong: see below |
| ExpiredProviderToken | the channel is down: a new provider token was refused too |
| BadTopic, MissingTopic, TopicDisallowed, 401, other 403, 3xx | the channel is down: key, team, topic or environment is wrong |
| TooManyRequests, other 429 | later: too many for this one device |
| TooManyProviderTokenUpdates | later, and the whole channel waits for 20 minutes |
| ServiceUnavailable, Shutdown, 503 | later; APNs is overloaded or shuts down, so the whole channel |
| IdleTimeout, InternalServerError, other 5xx | later |
| PayloadTooLarge, any other 4xx | failed |

BadDeviceToken means that the device token is invalid, or that it belongs to Apple's other environment. So a wrong ``APNS_SANDBOX``
would disable every device. The outcome is therefore ``doubtful``: the device is disabled with a warning, and after five such
devices in a row the channel is down instead (:mod:`worker.channels.push.apns.doubtful`).

A code is one of the reasons above in snake case, or ``http_`` and the status. It contains no other part of the answer.
"""

import json
import re

from worker.channels import BadAddress, ChannelDown, Doubt, Failed, Outcome, Refusal, Sent, TryLater
from worker.channels.push.apns.provider_token import MIN_RENEWAL_INTERVAL
from worker.channels.push.http import HttpResponse, asked_to_wait

EXPIRED_PROVIDER_TOKEN = "ExpiredProviderToken"  # noqa: S105 - Apple's word for it

_GONE = frozenset({"Unregistered", "ExpiredToken"})
#: The device token is invalid, or belongs to another environment or app.
_DOUBTFUL = frozenset({"BadDeviceToken", "DeviceTokenNotForTopic"})
_MISCONFIGURED = frozenset({
    "BadCertificate", "BadCertificateEnvironment", "BadEnvironmentKeyIdInToken", EXPIRED_PROVIDER_TOKEN, "Forbidden",
    "InvalidProviderToken", "MissingProviderToken", "UnrelatedKeyIdInToken",
    "BadTopic", "MissingTopic", "TopicDisallowed",
})  # fmt: skip
_TRANSIENT = frozenset({"TooManyRequests", "IdleTimeout", "InternalServerError"})
_OVERLOADED = frozenset({"ServiceUnavailable", "Shutdown"})
_REFUSED = frozenset({
    "BadCollapseId", "BadExpirationDate", "BadMessageId", "BadPath", "BadPriority",
    "DuplicateHeaders", "InvalidPushType", "MethodNotAllowed", "MissingDeviceToken", "PayloadEmpty", "PayloadTooLarge",
})  # fmt: skip


def classify(reply: HttpResponse) -> Outcome:  # noqa: PLR0911 - one return for each row of the table
    """The outcome of a message that APNs answered."""
    if reply.status == 200:  # noqa: PLR2004
        return Sent()
    reason = reason_of(reply)
    code = re.sub(r"(?<!^)(?=[A-Z])", "_", reason).lower()
    if reason in _GONE | _DOUBTFUL:
        return BadAddress(code=code, doubtful=reason in _DOUBTFUL)
    if reason in _REFUSED:
        return Failed(code=code, refusal=Refusal(reason, Doubt.US))
    if reason in _MISCONFIGURED:
        return ChannelDown(code=code)
    if reason in _TRANSIENT:
        # TooManyRequests counts the requests for one device, so it is no sign of a failure streak.
        refusal = None if reason == "TooManyRequests" else Refusal(reason, Doubt.US)
        return TryLater(code=code, after=asked_to_wait(reply.headers), refusal=refusal)
    if reason in _OVERLOADED:
        return TryLater(
            code=code, after=asked_to_wait(reply.headers), whole_channel=True, refusal=Refusal(reason, Doubt.US)
        )
    if reason == "TooManyProviderTokenUpdates":
        after = asked_to_wait(reply.headers) or MIN_RENEWAL_INTERVAL
        return TryLater(code=code, after=after, whole_channel=True, refusal=Refusal(reason, Doubt.US))
    return _classify_status(reply)


def reason_of(reply: HttpResponse) -> str:
    """The ``reason`` in the answer's JSON, such as ``BadDeviceToken``; empty if there is none."""
    try:
        answer = json.loads(reply.body)
    except (ValueError, RecursionError):
        return ""
    reason = answer.get("reason") if isinstance(answer, dict) else None
    return reason if isinstance(reason, str) else ""


def _classify_status(reply: HttpResponse) -> Outcome:
    status = reply.status
    code = f"http_{status}"
    if status == 410:  # noqa: PLR2004
        return BadAddress(code=code)
    if status in {401, 403} or 300 <= status < 400:  # noqa: PLR2004
        return ChannelDown(code=code)
    refusal = Refusal(code, Doubt.US)
    if status == 429 or status >= 500:  # noqa: PLR2004
        return TryLater(code=code, after=asked_to_wait(reply.headers), whole_channel=status == 503, refusal=refusal)  # noqa: PLR2004
    return Failed(code=code, refusal=refusal)
