"""`docs/events.md` and the published schema agree with what is posted: types, fields, examples, the schedule."""

import json
import re
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tests.pages import DOCS, ROOT, tables
from worker.endpoint import PATIENCE
from worker.policy import event_retries
from worker.policy.events import EventType, body, data_class, schema
from worker.stages import events as stage

PAGE = DOCS["events"]
EXAMPLES: list[dict[str, Any]] = [
    json.loads(line) for block in PAGE.blocks("json") for line in block.splitlines() if line.startswith("{")
]


def test_the_published_schema_is_the_one_of_the_code() -> None:
    published = (ROOT / "docs" / "events.schema.json").read_text(encoding="utf-8")
    assert json.loads(published) == schema(), "write it anew: reconnect events --schema > docs/events.schema.json"


def test_every_type_is_explained_and_has_one_example() -> None:
    explained = [row[0].strip("`") for row in tables(PAGE.section("Every type")) if row[0].startswith("`")]
    assert sorted(explained) == sorted(EventType)
    assert sorted(example["type"] for example in EXAMPLES) == sorted(EventType)


@pytest.mark.parametrize("example", EXAMPLES, ids=[example["type"] for example in EXAMPLES])
def test_an_example_is_what_would_be_posted(example: dict[str, Any]) -> None:
    data = msgspec.json.decode(json.dumps(example["data"]), type=data_class(EventType(example["type"])), strict=True)
    posted = json.loads(
        body(
            example["type"],
            example["id"],
            example["sequence"],
            example["timestamp"],
            msgspec.json.encode(data).decode(),
        )
    )
    assert posted == example
    assert list(posted) == list(example)
    assert re.fullmatch(schema()["properties"]["id"]["pattern"], example["id"])
    assert set(schema()["required"]) == set(example)


def test_the_page_has_the_figures_of_the_code() -> None:
    minutes = [wait // timedelta(minutes=1) for wait in event_retries.SCHEDULE]
    hours = [str(wait // 60) for wait in minutes if wait >= 60]
    assert minutes[:3] == [1, 5, 30]
    assert f"1 minute, 5 and 30 minutes, {', '.join(hours[:-1])} and\n{hours[-1]} hours" in PAGE.text
    assert timedelta(seconds=10) == event_retries.SOON
    assert f"within {PATIENCE:.0f} seconds" in PAGE.text
    assert stage.STREAK == 10
    total = sum(event_retries.SCHEDULE, timedelta(0))
    assert timedelta(days=3) < total < timedelta(days=3.5)
