"""What a broker's error means, in plain words. Nothing that the server, a URL or a key says is quoted.

redis-py shows a refusal as ``server:ResponseError`` and keeps the code in the exception's class or text. A replica, a key of a
foreign type and a lack of rights look alike so, though each needs something else done.
"""

from kombu.exceptions import OperationalError
from redis import exceptions as redis_errors

#: By the code with which the server's answer begins.
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
    "MASTERDOWN": "Redis is a replica whose primary is away (MASTERDOWN)",
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
    """What is wrong, and what to do; ``None`` for an error that is not a broker's.

    Kombu and pipelines wrap errors, so causes are asked as well.
    """
    seen: set[int] = set()
    asked: BaseException | None = error
    said = None
    while asked is not None and id(asked) not in seen:
        seen.add(id(asked))
        found = _words(asked)
        if found is not None and found != AWAY:
            return found
        said = said or found
        asked = asked.__cause__ or asked.__context__
    return said


def _words(error: BaseException) -> str | None:
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
            # A pipeline names the command in front of the server's answer.
            return code
    first, _, _ = str(error).rpartition("caused error: ")[2].partition(" ")
    known = getattr(error, "status_code", None) or first
    return known if known.isascii() and known.isalpha() and known.isupper() else None
