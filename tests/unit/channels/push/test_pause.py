"""How long a channel pauses."""

import pytest

from worker.channels import BadAddress, ChannelDown, Failed, Sent, TryLater, Unknown
from worker.channels.push.pause import Pause


@pytest.fixture
def pause(clock):
    return Pause(usual=60.0, clock=clock)


def test_it_lasts_as_long_as_the_service_says(pause, clock):
    asked = TryLater(code="http_429", after=17.0, whole_channel=True)
    assert pause.note(asked) == asked
    clock.now += 16
    assert pause.paused() == TryLater(code="http_429", after=1.0, whole_channel=True)
    clock.now += 1
    assert pause.paused() is None


def test_it_lasts_a_minute_where_the_service_does_not_say(pause, clock):
    noted = pause.note(TryLater(code="http_503", whole_channel=True))
    assert noted == TryLater(code="http_503", after=60.0, whole_channel=True)
    clock.now += 59
    assert pause.paused()


def test_no_wait_at_all_is_no_pause(pause):
    pause.note(TryLater(code="http_429", after=0.0, whole_channel=True))
    assert pause.paused() is None


def test_a_shorter_wait_shortens_nothing(pause, clock):
    pause.note(TryLater(code="long", after=100.0, whole_channel=True))
    pause.note(TryLater(code="short", after=1.0, whole_channel=True))
    clock.now += 50
    assert pause.paused() == TryLater(code="long", after=50.0, whole_channel=True)


@pytest.mark.parametrize(
    "outcome",
    [
        Sent(),
        TryLater(code="x", after=9.0),
        BadAddress(code="x"),
        Failed(code="x"),
        ChannelDown(code="x"),
        Unknown(code="x"),
    ],
)
def test_what_speaks_of_one_message_pauses_nothing(pause, outcome):
    assert pause.note(outcome) is outcome
    assert pause.paused() is None
