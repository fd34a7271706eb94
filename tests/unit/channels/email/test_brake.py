import pytest

from worker.channels import BadAddress, ChannelDown, Sent, TryLater
from worker.channels.email.brake import Brake

SLOW = TryLater(code="mail_421", whole_channel=True)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def brake(clock):
    return Brake(first=5.0, longest=60.0, clock=clock)


def pauses(brake, clock, times):
    for _ in range(times):
        pause = brake.note(SLOW).after
        yield pause
        clock.now += pause


def test_it_holds_nothing_at_first(brake):
    assert brake.holds() is None


@pytest.mark.parametrize("outcome", [Sent(), TryLater(code="rcpt_450"), BadAddress(code="rcpt_550")])
def test_what_concerns_one_message_does_not_pull_it(brake, outcome):
    assert brake.note(outcome) == outcome
    assert brake.holds() is None


def test_it_answers_with_its_reason_and_the_seconds_left(brake, clock):
    assert brake.note(SLOW) == TryLater(code="mail_421", whole_channel=True, after=5.0)
    clock.now += 2
    assert brake.holds() == TryLater(code="mail_421", whole_channel=True, after=3.0)
    clock.now += 3
    assert brake.holds() is None


def test_each_pause_in_a_row_is_twice_as_long_up_to_the_longest(brake, clock):
    assert list(pauses(brake, clock, 6)) == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_connections_refused_side_by_side_count_once(brake, clock):
    assert [brake.note(SLOW).after for _ in range(10)] == [5.0] * 10
    clock.now += 5
    assert brake.note(SLOW).after == 10.0


def test_a_mail_that_went_through_starts_the_pauses_anew(brake, clock):
    list(pauses(brake, clock, 3))
    brake.note(Sent())
    assert brake.note(SLOW).after == 5.0


def test_a_mail_that_was_in_hand_while_it_holds_proves_nothing(brake, clock):
    list(pauses(brake, clock, 1))
    brake.note(SLOW)
    brake.note(Sent())
    clock.now += 10
    assert brake.note(SLOW).after == 20.0


def test_a_channel_that_is_down_pauses_briefly_every_time(brake, clock):
    down = ChannelDown(code="auth_refused")
    list(pauses(brake, clock, 4))
    for _ in range(3):
        assert brake.note(down) == down
        assert brake.holds() == down
        clock.now += 5
        assert brake.holds() is None


def test_thousands_of_pauses_stay_finite(brake, clock):
    assert list(pauses(brake, clock, 3000))[-1] == 60.0
