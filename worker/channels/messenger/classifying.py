"""Classifies an answer of the company's messenger, as one pure function.

| HTTP status | outcome |
|---|---|
| 2xx | sent |
| 410 | no address: the messenger cannot reach this user; another channel is tried |
| 429, 502, 503, 504 | later, and the whole channel waits as long as ``Retry-After`` says |
| other 5xx | later |
| other 4xx, 3xx, 1xx | failed |

All messages go to one server. If it refuses several in the same way and accepts none, the failure streak stops the channel and undoes
the refusals (``policy/streaks.py``). So no user misses a message because of a wrong key (401) or a wrong path (404).
"""

from worker.channels import BadAddress, Doubt, Failed, Outcome, Refusal, Sent, TryLater
from worker.channels.push.http import HttpResponse, asked_to_wait

GONE = 410
_WAIT = frozenset({429, 502, 503, 504})


def classify(reply: HttpResponse) -> Outcome:
    """The outcome of a message that the messenger answered."""
    status = reply.status
    code = f"http_{status}"
    if 200 <= status < 300:  # noqa: PLR2004
        return Sent()
    if status == GONE:
        return BadAddress(code=code, refusal=Refusal(code, Doubt.MESSAGE))
    refusal = Refusal(code, Doubt.US)
    if status in _WAIT or status >= 500:  # noqa: PLR2004
        return TryLater(code=code, after=asked_to_wait(reply.headers), whole_channel=status in _WAIT, refusal=refusal)
    return Failed(code=code, refusal=refusal)
