"""How long a task may take. The runner observes the first three limits; Celery's limits come after them.

================================= ==================================================== ==========================
after                             what ends                                            with ``RUN_SECONDS=30``
================================= ==================================================== ==========================
``RUN_SECONDS``                   no more claims; all parts of a task share this       30 s
+ :data:`BEGIN_SECONDS`           no job is begun; those that wait are handed back     45 s
+ :data:`ANSWER_SECONDS`          running jobs are cancelled and handed back           230 s
+ :data:`SETTLE_SECONDS`          the task: Celery's soft limit                        240 s
+ :data:`CANCEL_SECONDS`          the child: Celery's hard limit                       300 s
================================= ==================================================== ==========================

A task that reached the soft limit would wake no successor, and its remaining rows would wait for the next sweep.
"""

#: How long claimed jobs are still begun after ``RUN_SECONDS``.
BEGIN_SECONDS = 15.0
#: How long a mail server may take to answer after the text of a mail. RFC 5321 asks for ten minutes, but by default a task lasts four. If
#: the answer comes later, the message is recorded as ``unknown`` and not sent again, unless ``AMBIGUOUS_SENDS`` is ``resend``.
MAIL_ANSWER_SECONDS = 180.0
#: How long the jobs that were begun last may take. A mail of deliver takes longest.
ANSWER_SECONDS = MAIL_ANSWER_SECONDS + 5.0
#: How long writing results and handing back jobs may take.
SETTLE_SECONDS = 10.0
#: How long cancelling a task at the soft limit may take.
CANCEL_SECONDS = 60

#: The least soft limit (seconds). A sweep does not depend on ``RUN_SECONDS``, so it may always take this long.
_LEAST = 240


def soft_limit(run_seconds: int) -> int:
    """Celery's soft limit of a task (seconds). Examples: 240 for a ``RUN_SECONDS`` of 30 or less, 410 for 200."""
    return max(_LEAST, run_seconds + int(BEGIN_SECONDS + ANSWER_SECONDS + SETTLE_SECONDS))


def hard_limit(run_seconds: int) -> int:
    """Celery's hard limit of a task (seconds): the child is killed. Examples: 300 for a ``RUN_SECONDS`` of 30 or less, 470 for 200."""
    return soft_limit(run_seconds) + CANCEL_SECONDS


def visibility_timeout(run_seconds: int) -> int:
    """After how long an unacknowledged message is delivered again (seconds): three times the hard limit."""
    return 3 * hard_limit(run_seconds)
