"""How long a task may take. The runner keeps to the first three moments, and Celery's limits lie behind them.

================================= ==================================================== ==========================
after                             what ends                                            with ``RUN_SECONDS=30``
================================= ==================================================== ==========================
``RUN_SECONDS``                   claims. All parts of one task share this moment.     30 s
+ :data:`BEGIN_SECONDS`           beginning what was claimed; the rest is handed back  45 s
+ :data:`ANSWER_SECONDS`          what was begun; what still goes on is handed back    230 s
+ :data:`SETTLE_SECONDS`          the task: Celery's soft limit                        240 s
+ :data:`CANCEL_SECONDS`          the child: Celery's hard limit                       300 s
================================= ==================================================== ==========================

A task that met the soft limit would leave no successor, and what it has left would wait for the next sweep.
"""

#: After ``RUN_SECONDS`` what was claimed is begun for so long.
BEGIN_SECONDS = 15.0
#: How long a mail server may take to answer after the text of a mail. RFC 5321 asks for ten minutes, but by default a task lasts four. If the answer is later, the message is recorded as ``unknown`` and not sent again, unless ``AMBIGUOUS_SENDS`` is ``resend``.
MAIL_ANSWER_SECONDS = 180.0
#: How long the last jobs may take. Those of deliver take longest: a mail that has just been begun.
ANSWER_SECONDS = MAIL_ANSWER_SECONDS + 5.0
#: How long it may take to write results and to hand back the rest.
SETTLE_SECONDS = 10.0
#: How long a task that met the soft limit may take to be cancelled.
CANCEL_SECONDS = 60

#: A sweep has no ``RUN_SECONDS``: it may take so long however small they are.
_LEAST = 240


def soft_limit(run_seconds: int) -> int:
    """Celery's soft limit of a task (seconds). Examples: 240 for a ``RUN_SECONDS`` of 30 or less, 410 for 200."""
    return max(_LEAST, run_seconds + int(BEGIN_SECONDS + ANSWER_SECONDS + SETTLE_SECONDS))


def hard_limit(run_seconds: int) -> int:
    """Celery's hard limit of a task (seconds): the child is killed. Examples: 300 for a ``RUN_SECONDS`` of 30 or less, 470 for 200."""
    return soft_limit(run_seconds) + CANCEL_SECONDS


def visibility_timeout(run_seconds: int) -> int:
    """When a message counts as lost with its worker (seconds): after three times the longest task."""
    return 3 * hard_limit(run_seconds)
