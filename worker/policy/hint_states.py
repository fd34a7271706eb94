"""The states of a hint, a sentence each.

A webhook or the end of OAuth stores a hint. The member that it names is then read at MX (:mod:`worker.stages.hints`).
"""

from enum import StrEnum


class HintState(StrEnum):
    """The state of one hint."""

    #: It waits for ``next_attempt_at``. A hint that arrives again becomes due again.
    DUE = "due"
    #: A worker has claimed it until its lease expires and is reading its member.
    LEASED = "leased"
    #: MX was asked about its member, or we have no such member or user.
    DONE = "done"
    #: Its member could not be read: MX rejected the request, ``MAX_ATTEMPTS`` attempts failed, or six workers died with it.
    FAILED = "failed"
    #: It names no member and no user, or its body is no JSON object.
    UNUSED = "unused"


#: A hint in one of these is deleted two days after it last came.
OVER = (HintState.DONE, HintState.FAILED, HintState.UNUSED)
