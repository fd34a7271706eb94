import pytest

from worker.channels import BadAddress, ChannelDown, Sent, TryLater
from worker.channels.email.backoff import Backoff

SLOW = TryLater(code="mail_421", whole_channel=True)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def backoff(clock):
    return Backoff(first=5.0, longest=60.0, clock=clock)


def pauses(backoff, clock, times):
    for _ in range(times):
        pause = backoff.note(SLOW).after
        yield pause
        clock.now += pause


def test_nothing_is_paused_at_first(backoff):
    assert backoff.paused() is None


@pytest.mark.parametrize("outcome", [Sent(), TryLater(code="rcpt_450"), BadAddress(code="rcpt_550")])
def test_an_outcome_of_one_message_begins_no_pause(backoff, outcome):
    assert backoff.note(outcome) == outcome
    assert backoff.paused() is None


def test_during_a_pause_it_answers_with_its_reason_and_the_seconds_left(backoff, clock):
    assert backoff.note(SLOW) == TryLater(code="mail_421", whole_channel=True, after=5.0)
    clock.now += 2
    assert backoff.paused() == TryLater(code="mail_421", whole_channel=True, after=3.0)
    clock.now += 3
    assert backoff.paused() is None


def test_each_pause_in_a_row_is_twice_as_long_up_to_the_longest(backoff, clock):
    assert list(pauses(backoff, clock, 6)) == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_connections_refused_side_by_side_count_once(backoff, clock):
    assert [backoff.note(SLOW).after for _ in range(10)] == [5.0] * 10
    clock.now += 5
    assert backoff.note(SLOW).after == 10.0


def test_a_mail_that_went_through_starts_the_pauses_anew(backoff, clock):
    list(pauses(backoff, clock, 3))
    backoff.note(Sent())
    assert backoff.note(SLOW).after == 5.0


def test_a_mail_that_is_sent_during_a_pause_does_not_reset_it(backoff, clock):
    list(pauses(backoff, clock, 1))
    backoff.note(SLOW)
    backoff.note(Sent())
    clock.now += 10
    assert backoff.note(SLOW).after == 20.0


def test_a_channel_that_is_down_pauses_briefly_every_time(backoff, clock):
    down = ChannelDown(code="auth_refused")
    list(pauses(backoff, clock, 4))
    for _ in range(3):
        assert backoff.note(down) == down
        assert backoff.paused() == down
        clock.now += 5
        assert backoff.paused() is None


def test_thousands_of_pauses_stay_finite(backoff, clock):
    assert list(pauses(backoff, clock, 3000))[-1] == 60.0
