"""The broker's check of `reconnect doctor`: it runs each command that a worker needs, on keys of its own."""

from contextlib import suppress
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from worker.app import STAGES
from worker.broker_faults import broker_fault
from worker.settings import Settings

#: Kombu's separator between a queue's name and a priority: each priority has a list of its own.
_PRIORITY = "\x06\x16"
#: The keys that Kombu uses besides the queues, and their types.
_KEYS = {"unacked": "hash", "unacked_index": "zset", "unacked_mutex": "string"}


def examine_broker(settings: Settings) -> tuple[bool, str]:
    """Whether the broker works for us, and a sentence that says what to do if not."""
    client = Redis.from_url(settings.redis_url.get_secret_value(), socket_connect_timeout=3, socket_timeout=3)
    try:
        client.ping()
        if foreign := _foreign_keys(client):
            return False, (
                f"{', '.join(foreign)}: something else writes to this Redis database; delete what is foreign "
                "(`redis-cli DEL …`) or give us a database of our own"
            )
        _write(client)
        return _policy(client)
    except RedisError as error:
        return False, broker_fault(error) or f"Redis refuses it ({type(error).__name__})"
    except OSError as error:
        return False, broker_fault(error) or f"it cannot be reached ({type(error).__name__}); see REDIS_URL"
    finally:
        client.close()


def _foreign_keys(client: Any) -> list[str]:
    expected = _KEYS | {f"_kombu.binding.{name}": "set" for name in (*STAGES, "celery.pidbox", "celeryev")}
    expected |= {f"{stage}{end}": "list" for stage in STAGES for end in ("", *(_PRIORITY + step for step in "369"))}
    foreign = []
    for key, kind in expected.items():
        actual = client.type(key).decode()
        if actual not in {kind, "none"}:
            foreign.append(f"the key {key.partition(_PRIORITY)[0]} is a {actual} and must be a {kind}")
    return foreign


def _write(client: Any) -> None:
    """Run each command that a worker or a sweep needs, on a key that is deleted afterwards."""
    key = f"reconnect.doctor.{uuid4()}"
    try:
        client.lpush(key, "x")
        client.expire(key, 60)
        client.llen(key)
        client.brpop([key], timeout=1)
        with client.pipeline() as pipe:
            pipe.zadd(key, {"x": 1}).zrem(key, "x").hset(key, "x", "x").hdel(key, "x").sadd(key, "x").srem(
                key, "x"
            ).execute()
        client.set(key, "x", ex=60, nx=True)
        client.eval("return redis.call('del', KEYS[1])", 1, key)
        client.publish(key, "x")
    finally:
        with suppress(RedisError):  # a Redis that refuses this has refused one of the commands above
            client.delete(key)


def _policy(client: Any) -> tuple[bool, str]:
    try:
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction")
    except ResponseError:
        return True, (
            "takes what we write (its configuration cannot be read, as with hosted ones; see that maxmemory-policy is noeviction)"
        )
    if policy != "noeviction":
        return False, f"maxmemory-policy is {policy}: set noeviction, or messages vanish when memory is short"
    return True, "takes what we write, maxmemory-policy noeviction"
