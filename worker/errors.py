"""What can go wrong, in one place.

Every error that reaches a person is a :class:`WorkerError`: one line that says what, where and what to do. None of them
quotes a URI, an address, a key or a statement's parameters, so each may be printed, logged and shown in Flower as it is.
"""


class WorkerError(Exception):
    """Something went wrong that the person at the keyboard can mend; its text is the line they see."""

    #: What the ``reconnect`` command exits with.
    exit_code = 1


class SettingsError(WorkerError):
    """A setting is missing or makes no sense; every problem that was found is named in the one line."""

    exit_code = 2


class UsageError(WorkerError):
    """A command was called with something that it cannot take."""

    exit_code = 2


class DatabaseUnavailable(WorkerError):  # noqa: N818 - it names the state that the operator sees
    """The database cannot be reached, is full or cannot be written to."""


class SchemaMismatch(WorkerError):  # noqa: N818
    """The database's schema is not the one that this version works with; ``reconnect migrate`` brings it up to date."""


class BrokerUnavailable(WorkerError):  # noqa: N818
    """Redis cannot be reached, so no worker can be woken; nothing is lost, the next sweep wakes them."""


class StageFailed(WorkerError):  # noqa: N818
    """A stage stopped on an error that it has no answer to; its leases run out and the next sweep takes the work back.

    Raised ``from None`` at the task boundary: the text of a foreign exception may hold a URI or an address, and Celery
    would carry it to the log, the event stream and Flower.
    """
