"""Explains an error of the broker in plain words. Never quotes the server's answer, the URL or a key.

redis-py shows a refusal as ``server:ResponseError`` and keeps the code in the exception's class or text. So a replica, a key of
another type and missing rights all look alike, though each has a different remedy.
"""

from kombu.exceptions import OperationalError
from redis import exceptions as redis_errors

#: The explanation of each code. The code is the first word of the server's answer.
WORDS = {
    "READONLY": "Redis is a read-only replica: after a failover, REDIS_URL must lead to the new primary (READONLY)",
    "UNBLOCKED": "Redis has just become a replica: after a failover, REDIS_URL must lead to the new primary (UNBLOCKED)",
    "WRONGTYPE": "a key that we use holds another type, so something else writes to this Redis database: `reconnect doctor` "
    "names it; delete it or give us a database of our own (WRONGTYPE)",
    "NOPERM": "Redis' ACL forbids our user a command or a key: it needs ~* &* +@all -@dangerous +info (NOPERM)",
    "OOM": "Redis is out of memory and takes nothing more: raise maxmemory or find what fills it (OOM)",
    "MISCONF": "Redis cannot save to its disk and takes no writes: see its log and its disk (MISCONF)",
    "LOADING": "Redis is loading its data from disk: it answers when that is done (LOADING)",
    "NOAUTH": "Redis wants a password: see REDIS_URL (NOAUTH)",
    "WRONGPASS": "Redis refuses the user or password: see REDIS_URL (WRONGPASS)",
    "MASTERDOWN": "Redis is a replica whose primary cannot be reached (MASTERDOWN)",
    "CLUSTERDOWN": "the Redis cluster is down; a cluster does not serve as our broker (CLUSTERDOWN)",
    "MOVED": "this is a Redis cluster, which does not serve as our broker: use a single primary (MOVED)",
    "NOREPLICAS": "Redis has too few replicas to take writes (NOREPLICAS)",
    "BUSY": "Redis is busy with a script (BUSY)",
    "EXECABORT": "Redis refused a transaction: a replica, out of memory or without rights (EXECABORT)",
}
_BY_CLASS = {
    redis_errors.ReadOnlyError: "READONLY",
    redis_errors.NoPermissionError: "NOPERM",
    redis_errors.OutOfMemoryError: "OOM",
    redis_errors.BusyLoadingError: "LOADING",
    redis_errors.ExecAbortError: "EXECABORT",
    redis_errors.MasterDownError: "MASTERDOWN",
    redis_errors.ClusterDownError: "CLUSTERDOWN",
    redis_errors.MovedError: "MOVED",
}
AWAY = "nobody answers as Redis: see that it runs and REDIS_URL is right"
_BY_KIND = (
    (redis_errors.AuthenticationError, WORDS["WRONGPASS"]),
    (redis_errors.TimeoutError, "Redis does not answer in time"),
    ((redis_errors.ConnectionError, ConnectionError, OperationalError), AWAY),
)


def broker_fault(error: BaseException) -> str | None:
    """What is wrong and what to do; ``None`` for an error that is not the broker's.

    Kombu and pipelines wrap errors, so causes are examined too. ``AWAY`` is returned only if no cause has a code.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    fallback = None
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        explanation = _explanation(current)
        if explanation is not None and explanation != AWAY:
            return explanation
        fallback = fallback or explanation
        current = current.__cause__ or current.__context__
    return fallback


def _explanation(error: BaseException) -> str | None:
    code = _code(error)
    if code in WORDS:
        return WORDS[code]
    if isinstance(error, redis_errors.RedisError) and "max number of clients" in str(error):
        return "Redis has as many clients as its maxclients allows"
    for kinds, words in _BY_KIND:
        if isinstance(error, kinds):
            return words
    if isinstance(error, redis_errors.RedisError):
        return f"Redis refuses it ({code or type(error).__name__})"
    return None


def _code(error: BaseException) -> str | None:
    if not isinstance(error, redis_errors.RedisError):
        return None
    for kind, code in _BY_CLASS.items():
        if isinstance(error, kind):
            return code
    # The error of a pipeline has "Command # 1 (…) of pipeline caused error: " in front of the server's answer.
    first_word, _, _ = str(error).rpartition("caused error: ")[2].partition(" ")
    candidate = getattr(error, "status_code", None) or first_word
    return candidate if candidate.isascii() and candidate.isalpha() and candidate.isupper() else None
