"""Whatever RUN_SECONDS is, every task ends before Celery's limits, and its message counts as lost only after them."""

import pytest

from tests.conftest import make_settings
from worker import app
from worker.channels.email.channel import COMMAND_PATIENCE
from worker.endpoint import PATIENCE
from worker.runtime import CANCEL_PATIENCE, MX_CALL_SECONDS
from worker.stages.events import LONGEST
from worker.task_limits import (
    ANSWER_SECONDS,
    BEGIN_SECONDS,
    MAIL_ANSWER_SECONDS,
    SETTLE_SECONDS,
    hard_limit,
    soft_limit,
)

RUN_SECONDS = range(1, 201)


def test_the_settings_have_the_range_that_is_tried_here() -> None:
    for run_seconds in (RUN_SECONDS[0], RUN_SECONDS[-1]):
        make_settings(run_seconds=run_seconds)
    for run_seconds in (RUN_SECONDS[0] - 1, RUN_SECONDS[-1] + 1):
        with pytest.raises(Exception, match="RUN_SECONDS"):
            make_settings(run_seconds=run_seconds)


@pytest.mark.parametrize("run_seconds", [1, 29, 30, 31, 60, 75, 200])
def test_celery_is_configured_with_them(run_seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.app.settings", lambda: make_settings(run_seconds=run_seconds))
    made = app.configuration()
    limits = made["task_soft_time_limit"], made["task_time_limit"]
    assert limits == (soft_limit(run_seconds), hard_limit(run_seconds))
    assert made["broker_transport_options"]["visibility_timeout"] == 3 * limits[1]
    assert min(limits) >= 240  # RUN_SECONDS does not limit a sweep
    if run_seconds == 30:
        assert limits == (240, 300)


def test_every_task_ends_before_the_soft_limit() -> None:
    for run_seconds in RUN_SECONDS:
        # The runner cancels everything that takes longer than this.
        last = run_seconds + BEGIN_SECONDS + ANSWER_SECONDS
        assert last + SETTLE_SECONDS <= soft_limit(run_seconds)
        assert soft_limit(run_seconds) + CANCEL_PATIENCE < hard_limit(run_seconds)


def test_no_call_that_was_begun_in_time_is_cancelled() -> None:
    # A mail: a server may take 30 s to answer DATA, or 180 s to accept the text. One that does both is not expected.
    assert MAIL_ANSWER_SECONDS < ANSWER_SECONDS
    assert MX_CALL_SECONDS + COMMAND_PATIENCE < ANSWER_SECONDS  # from the freshness check to DATA
    assert 2 * MX_CALL_SECONDS < ANSWER_SECONDS  # fetch: a user's next bank begins at most one call after RUN_SECONDS
    assert 3 * MX_CALL_SECONDS < BEGIN_SECONDS + ANSWER_SECONDS  # sync: a page is asked for up to 3 times
    assert LONGEST.total_seconds() + PATIENCE < ANSWER_SECONDS  # the events of one user
