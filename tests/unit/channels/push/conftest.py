"""Messages for tests of push channels."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from worker.channels import Bank, Message

LINK = "https://mxbank.mx.com/oauth/authorize?client_id=b8Oi&state=d273e4f71bc095cf16c4acbee011caf4"


@pytest.fixture
def link() -> str:
    return LINK


@pytest.fixture
def make_message() -> Callable[..., Message]:
    def make(*names: str, **overrides: Any) -> Message:
        since = datetime(2026, 3, 3, 23, 30, tzinfo=UTC)
        values = {
            "key": "5f0c1a2b3c4d5e6f708192a3b4c5d6e7",
            "address": "a-device",
            "locale": "en-US",
            "time_zone": ZoneInfo("Europe/Madrid"),
            "step": 0,
            "banks": tuple(Bank(name=name, since=since, link=LINK) for name in names or ("First Bank",)),
        }
        return Message(**{**values, **overrides})

    return make
