"""What can go wrong, in one place.

Every error that an operator sees is a :class:`WorkerError`: one line that says what, where and what to do. None of them
quotes a URI, an address, a key or a statement's parameters, so each may be printed, logged and shown in Flower as it is.
"""


class WorkerError(Exception):
    """An error that the operator can mend; its text is the line that they see."""

    #: The exit code of the ``reconnect`` command.
    exit_code = 1


class SettingsError(WorkerError):
    """A setting is missing or wrong; the line names every such setting."""

    exit_code = 2


class UsageError(WorkerError):
    """A command was called with a wrong argument."""

    exit_code = 2


class DatabaseUnavailable(WorkerError):  # noqa: N818 - it names the state that the operator sees
    """The database cannot be reached, is full or cannot be written to."""


class SchemaMismatch(WorkerError):  # noqa: N818
    """The database has another schema than this version needs; ``reconnect migrate`` brings it up to date."""


class BrokerUnavailable(WorkerError):  # noqa: N818
    """Redis cannot be reached, so no worker can be woken. Nothing is lost: the next sweep wakes them."""


class StageFailed(WorkerError):  # noqa: N818
    """A stage stopped on an error that it does not handle. Its leases expire, and the next sweep requeues the rows.

    Raised ``from None`` at the task boundary: the text of a library's exception may hold a URI or an address, and Celery
    would write it to the log, the event stream and Flower.
    """
