"""Waking workers over a real broker: no more tasks than needed, and also after the broker was down."""

from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from tests.conftest import make_settings
from tests.faults.servers import OwnValkey
from worker.app import STAGES, configuration
from worker.errors import BrokerUnavailable
from worker.publishing import publish


@pytest.fixture
def own_valkey() -> Iterator[OwnValkey]:
    valkey = OwnValkey()
    yield valkey
    valkey.kill()


@pytest.fixture
def app(own_valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    monkeypatch.setattr("worker.app.settings", lambda: make_settings(redis_url=own_valkey.url))
    app = Celery("publishing", set_as_current=False)
    app.add_defaults(configuration)
    yield app
    app.close()


def waiting(valkey: OwnValkey, stage: str) -> int:
    with redis.Redis.from_url(valkey.url) as client:
        return client.llen(stage)


def test_a_queue_never_holds_more_than_are_needed(app: Celery, own_valkey: OwnValkey) -> None:
    assert [publish(app, "fetch", n) for n in (2, 2, 5, 1)] == [2, 0, 3, 0]
    assert publish(app, "deliver", 1) == 1
    assert (waiting(own_valkey, "fetch"), waiting(own_valkey, "deliver")) == (5, 1)


def test_workers_are_woken_again_by_connections_that_a_broker_has_left(app: Celery, own_valkey: OwnValkey) -> None:
    assert publish(app, "fetch", 2) == 2
    own_valkey.kill()
    with pytest.raises(BrokerUnavailable, match="Nothing is lost"):
        publish(app, "fetch", 2)
    own_valkey.start()
    assert publish(app, "fetch", 2) == 2
    own_valkey.kill()
    own_valkey.start()  # before any connection noticed
    assert publish(app, "fetch", 3) == 3
    assert waiting(own_valkey, "fetch") == 3


def test_waking_somebody_who_is_awake_costs_one_command(app: Celery, own_valkey: OwnValkey) -> None:
    publish(app, "fetch", 1)
    with redis.Redis.from_url(own_valkey.url) as client:
        client.config_resetstat()
        publish(app, "fetch", 1)
        calls = {name: figures["calls"] for name, figures in client.info("commandstats").items()}
    calls.pop("cmdstat_config|resetstat", None)
    assert calls == {"cmdstat_llen": 1}


def test_a_message_whose_worker_died_comes_back_to_its_own_queue_only(app: Celery, own_valkey: OwnValkey) -> None:
    with app.connection_for_read() as connection, connection.channel() as channel:
        for queue in app.amqp.queues.values():
            queue(channel).declare()
        assert publish(app, "fetch", 1) == 1
        message = channel.basic_get("fetch")
        assert message is not None
        assert waiting(own_valkey, "fetch") == 0
        channel.qos.restore_by_tag(message.delivery_tag)
    assert {stage: waiting(own_valkey, stage) for stage in STAGES} == dict.fromkeys(STAGES, 0) | {"fetch": 1}
