"""An answer that slows the whole channel down, and when it counts for one message only."""

from dataclasses import replace
from datetime import UTC

import pytest

from worker.channels import ChannelDown, Doubt, Message, Outcome, Refusal, Sent, TryLater
from worker.channels.one_message import for_one_message

MESSAGE = Message(key="k", address="a", locale=None, time_zone=UTC, step=0, banks=())
SLOW_DOWN = TryLater(code="http_429", after=60.0, whole_channel=True, refusal=Refusal("http_429", Doubt.US))


def test_what_slows_the_channel_down_is_the_message_s_where_others_were_accepted() -> None:
    assert for_one_message(MESSAGE, SLOW_DOWN) is SLOW_DOWN
    assert for_one_message(replace(MESSAGE, only_this_message=True), SLOW_DOWN) == replace(
        SLOW_DOWN, whole_channel=False
    )


@pytest.mark.parametrize(
    "outcome",
    [
        Sent(),
        ChannelDown(code="http_401"),
        replace(SLOW_DOWN, refusal=None),  # the channel was paused, so nothing was sent
        replace(SLOW_DOWN, refusal=Refusal("connect_failed", Doubt.UNREACHABLE)),
        replace(SLOW_DOWN, whole_channel=False),
    ],
)
def test_every_other_outcome_stays_as_it_is(outcome: Outcome) -> None:
    assert for_one_message(replace(MESSAGE, only_this_message=True), outcome) is outcome
