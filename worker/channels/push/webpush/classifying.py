"""Classifies an answer of a push service, as one pure function (RFC 8030; autopush: *Error codes*).

| HTTP status | outcome |
|---|---|
| 2xx | sent |
| 404, 410 | the address is bad: the subscription has ended |
| 429 | later; only this message, because other push services may accept theirs |
| 413, other 4xx | failed |
| 401, 403 that name another VAPID key | failed, with the code ``vapid_key_mismatch``: see below |
| 401, 403 | the channel is down: our VAPID key or contact is refused (but see :mod:`worker.channels.last_accepted`) |
| 5xx | later |
| 3xx | failed: a redirect could lead anywhere |

A subscription belongs to the VAPID key that it was made with. If it belongs to another key, it was made before a change of keys, or is
made up. It must not count as "the channel is down", because then one such row stops push for all users. It must not count as a
bad address, because then a wrong key file disables every subscription. So the outcome is "failed". Google, Apple and Mozilla each report it
in their own way.
"""

import json
from typing import Any

from worker.channels import BadAddress, ChannelDown, Doubt, Failed, Outcome, Refusal, Sent, TryLater
from worker.channels.push.http import HttpResponse, asked_to_wait

OTHER_KEY = "vapid_key_mismatch"

_APPLE_OTHER_KEY = "VapidPkHashMismatch"
_MOZILLA_OTHER_KEY = "VAPID public key mismatch"
_GOOGLE_OTHER_KEY = b"do not correspond to the credentials used to create the subscription"


def classify(reply: HttpResponse) -> Outcome:
    """The outcome of a message that a push service answered."""
    status = reply.status
    code = f"http_{status}"
    if 200 <= status < 300:  # noqa: PLR2004
        return Sent()
    if status in {404, 410}:
        return BadAddress(code=code)
    if status in {401, 403}:
        if _names_another_key(reply.body):
            return Failed(code=OTHER_KEY, refusal=Refusal(OTHER_KEY, Doubt.US))
        return ChannelDown(code=code)
    refusal = Refusal(code, Doubt.US)
    if status == 429 or status >= 500:  # noqa: PLR2004
        return TryLater(code=code, after=asked_to_wait(reply.headers), refusal=refusal)
    return Failed(code=code, refusal=refusal)


def _names_another_key(body: bytes) -> bool:
    if _GOOGLE_OTHER_KEY in body:
        return True
    try:
        answer: Any = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(answer, dict):
        return False
    return answer.get("reason") == _APPLE_OTHER_KEY or answer.get("message") == _MOZILLA_OTHER_KEY
