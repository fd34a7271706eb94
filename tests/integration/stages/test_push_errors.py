"""What each error of a push service does to the message, the device, the channel and the reconnection.

``tests/integration/channels`` tests over real connections that the errors become these outcomes. Here the outcomes go through
the deliver stage.
"""

import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from worker.channels import Dispatching, Message, Outcome, Unknown
from worker.channels.push.apns import classifying as apns
from worker.channels.push.fcm import classifying as fcm
from worker.channels.push.http import HttpResponse
from worker.channels.push.webpush import classifying as webpush
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.store.sql.tables import devices, notifications, pauses, reconnections

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
#: The least wait before a retry without ``Retry-After``. A first retry waits a random time of at most a minute.
SECOND = timedelta(seconds=1)


def _fcm(status: int, code: str, *, field: str | None = None, after: str | None = None) -> Outcome:
    details: list[dict[str, Any]] = [{"errorCode": code}]
    if field:
        details.append({"fieldViolations": [{"field": field}]})
    headers = {"retry-after": after} if after else {}
    return fcm.classify(HttpResponse(status, headers, json.dumps({"error": {"details": details}}).encode()))


def _apns(status: int, reason: str = "", after: str | None = None) -> Outcome:
    headers = {"retry-after": after} if after else {}
    return apns.classify(HttpResponse(status, headers, json.dumps({"reason": reason}).encode()))


def _webpush(status: int, body: str = "", after: str | None = None) -> Outcome:
    return webpush.classify(HttpResponse(status, {"retry-after": after} if after else {}, body.encode()))


class Answering:
    """A channel that dispatches every message and answers with the same outcome."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.outcome: Outcome = Unknown(code="never")

    async def send(self, _message: Message, dispatching: Dispatching) -> Outcome:
        await dispatching()
        return self.outcome

    async def check(self) -> Outcome:
        return self.outcome

    async def close(self) -> None:
        pass


#: By the error's name: the outcome of the service's answer. These disable the device.
DROPPED = {
    "fcm UNREGISTERED": _fcm(404, "UNREGISTERED"),
    "fcm INVALID_ARGUMENT of the token": _fcm(400, "INVALID_ARGUMENT", field="message.token"),
    "apns Unregistered": _apns(410, "Unregistered"),
    "apns ExpiredToken": _apns(410, "ExpiredToken"),
    "apns BadDeviceToken": _apns(400, "BadDeviceToken"),
    "apns DeviceTokenNotForTopic": _apns(400, "DeviceTokenNotForTopic"),
    "webpush 404": _webpush(404),
    "webpush 410": _webpush(410),
}
REFUSED = {
    "fcm INVALID_ARGUMENT of something else": _fcm(400, "INVALID_ARGUMENT", field="message.data"),
    "apns PayloadTooLarge": _apns(413, "PayloadTooLarge"),
    "webpush 413": _webpush(413),
    "webpush of another key": _webpush(403, '{"reason": "VapidPkHashMismatch"}'),
}
#: By the error's name: the outcome, the attempts that it counts, and the least wait before the next attempt.
LATER = {
    "fcm QUOTA_EXCEEDED": (_fcm(429, "QUOTA_EXCEEDED", after="300"), 0, 300 * SECOND),
    "fcm 429": (_fcm(429, "", after="120"), 0, 120 * SECOND),
    "fcm UNAVAILABLE": (_fcm(503, "UNAVAILABLE", after="30"), 0, 30 * SECOND),
    "fcm INTERNAL": (_fcm(500, "INTERNAL"), 1, SECOND),
    "apns TooManyRequests": (_apns(429, "TooManyRequests"), 1, SECOND),
    "apns TooManyProviderTokenUpdates": (_apns(429, "TooManyProviderTokenUpdates"), 0, 20 * MINUTE),
    "apns InternalServerError": (_apns(500, "InternalServerError"), 1, SECOND),
    "apns ServiceUnavailable": (_apns(503, "ServiceUnavailable", after="7"), 0, 7 * SECOND),
    "apns Shutdown": (_apns(503, "Shutdown"), 0, SECOND),
    "webpush 429": (_webpush(429, after="90"), 1, 90 * SECOND),
    "webpush 503": (_webpush(503), 1, SECOND),
}
STOPPED = {
    "fcm SENDER_ID_MISMATCH": _fcm(403, "SENDER_ID_MISMATCH"),
    "fcm THIRD_PARTY_AUTH_ERROR": _fcm(401, "THIRD_PARTY_AUTH_ERROR"),
    "fcm 401": _fcm(401, ""),
    "apns ExpiredProviderToken": _apns(403, "ExpiredProviderToken"),
    "apns InvalidProviderToken": _apns(403, "InvalidProviderToken"),
    "apns TopicDisallowed": _apns(400, "TopicDisallowed"),
    "webpush 401": _webpush(401),
    "webpush 403": _webpush(403),
}

Told = Callable[..., Any]


@pytest.fixture
def told(bench_for: Any, sandbox_for: Any) -> Told:
    """Delivers one message for each error, each to a user with one device. Pauses of earlier errors are deleted.

    Yields the error's name, and a dictionary: its user's rows by table, and the moments before (``now``) and after (``until``).
    """

    async def tell(errors: dict[str, Outcome]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        async with sandbox_for({f"m{number}": ["ok"] for number in range(len(errors))}) as sandbox:
            bench = await bench_for(mx_base_url=sandbox.addresses.base_url)
            channels = {kind: Answering(kind) for kind in ("fcm", "apns", "webpush")}
            bench.runtime.channels = channels
            for number, error in enumerate(errors):
                await bench.member(f"m{number}", email=None, connection_status="DENIED")
                await bench.sql(
                    "INSERT INTO devices (user_guid, device_kind, device_address) VALUES (:u, :k, :a)",
                    u=f"USR-m{number}", k=error.split(maxsplit=1)[0], a=f"token-{number}",
                )  # fmt: skip
            await sweep(bench.runtime)
            await fetch(bench.runtime)
            await bench.sql("UPDATE notifications SET next_attempt_at = NULL")
            for number, (error, outcome) in enumerate(errors.items()):
                user, now = f"USR-m{number}", bench.runtime.clock.now()
                at = bench.stored(now)
                await bench.sql("UPDATE notifications SET next_attempt_at = :at WHERE user_guid = :u", at=at, u=user)
                channels[error.split(maxsplit=1)[0]].outcome = outcome
                await deliver(bench.runtime)
                found: dict[str, Any] = {"now": now, "until": bench.runtime.clock.now()}
                async with bench.runtime.database.engine.begin() as connection:
                    for table in (notifications, reconnections, devices):
                        rows = await connection.execute(select(table).where(table.c.user_guid == user))
                        found[table.name] = rows.mappings().one()
                    found["pauses"] = (await connection.execute(select(pauses))).mappings().first()
                yield error, found
                await bench.sql("DELETE FROM pauses")
                await bench.sql("UPDATE notifications SET refusal = NULL, next_attempt_at = NULL")

    return tell


async def test_a_device_that_is_gone_is_disabled(told: Told) -> None:
    async for error, found in told(DROPPED):
        assert found["devices"]["disabled_at"] is not None, error
        assert found["notifications"]["state"] == "suppressed", error
        assert found["notifications"]["outcome"] == DROPPED[error].code
        assert (found["reconnections"]["state"], found["reconnections"]["attempts"]) == ("due", 0), error
        assert found["reconnections"]["next_attempt_at"] <= found["until"], error  # at once, for another channel
        assert found["pauses"] is None, error


async def test_a_message_that_is_refused_for_good_leaves_the_device_alone(told: Told) -> None:
    async for error, found in told(REFUSED):
        assert found["devices"]["disabled_at"] is None, error
        assert found["notifications"]["state"] == "failed", error
        assert found["reconnections"]["state"] == "due", error
        wait = found["reconnections"]["next_attempt_at"] - found["now"]
        assert 3 * DAY <= wait < 3 * DAY + MINUTE, error  # no other channel: the next reminder's day
        assert found["pauses"] is None, error


async def test_what_passes_is_tried_later(told: Told) -> None:
    async for error, found in told({error: outcome for error, (outcome, _, _) in LATER.items()}):
        _, spent, least = LATER[error]
        assert found["devices"]["disabled_at"] is None, error
        assert (found["notifications"]["state"], found["notifications"]["attempts"]) == ("pending", spent), error
        assert found["reconnections"]["state"] == "ready", error
        wait = found["notifications"]["next_attempt_at"] - found["now"]
        assert least <= wait <= least + MINUTE + (found["until"] - found["now"]), error
        assert found["pauses"] is None, error


async def test_what_concerns_us_as_a_whole_stops_the_channel_and_spends_nothing(told: Told) -> None:
    async for error, found in told(STOPPED):
        kind = error.split(maxsplit=1)[0]
        assert (found["pauses"]["scope"], found["pauses"]["reason"]) == (f"delivery:{kind}", STOPPED[error].code)
        assert (found["notifications"]["state"], found["notifications"]["attempts"]) == ("pending", 0), error
        assert found["reconnections"]["state"] == "ready", error
        assert found["devices"]["disabled_at"] is None, error


async def test_a_lost_answer_is_not_sent_again_by_guesswork(told: Told) -> None:
    async for error, found in told(dict.fromkeys(("fcm", "apns", "webpush"), Unknown(code="connection_lost"))):
        assert found["notifications"]["state"] == "unknown", error
        assert found["reconnections"]["state"] == "notified", error
