"""What customers do on our pages is recorded as events, and the schema of events is served."""

import json
from typing import Any

from tests.integration.stages.links import linked
from tests.receiver import KEY
from worker.policy.events import schema

ON = {"events_url": "http://127.0.0.1:9/in", "events_secrets": KEY}


async def told(bench: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(row[0], json.loads(row[1])) for row in await bench.sql("SELECT type, data FROM events ORDER BY id")]


async def test_a_click_and_the_end_that_mx_answers_are_told_in_order_and_a_double_click_once(
    site_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"a": ["connected"], "b": ["moved:MBR-new"]}) as sandbox:
        site = await site_for(**sandbox.settings, **ON)
        for name in ("a", "b"):
            token, id_ = await linked(site.bench, name)
            page = await site.page(f"/r/{token}")
            form = {name: value for name, value in page.forms[0].items() if name != "method"}
            for _ in range(2):
                await site.ask("POST", f"/r/{token}", data=form)
            events = [
                (type_, data["reconnection_id"])
                for type_, data in await told(site.bench)
                if data["user_guid"] == f"USR-{name}"
            ]
            assert events[0] == ("reconnection.clicked", id_), events
            assert len(events) == len(set(events)) <= 2
        assert "reconnection.reconnected" in {type_ for type_, _ in await told(site.bench)}
        moved = [data for type_, data in await told(site.bench) if type_ == "reconnection.moved"]
        assert [(data["member_guid"], data["moved_to"]) for data in moved] == [("MBR-b", "MBR-new")]


async def test_the_unsubscribe_page_tells_one_opt_out(site_for: Any) -> None:
    site = await site_for(**ON)
    token, _ = await linked(site.bench, "a")
    for _ in range(2):
        response, _ = await site.ask("POST", f"/u/{token}", data={"List-Unsubscribe": "One-Click"})
        assert response.status == 200
    assert await told(site.bench) == [("user.opted_out", {"user_guid": "USR-a"})]
    assert token not in str(await site.bench.sql("SELECT * FROM events"))


async def test_the_schema_is_served_while_events_are_on(site_for: Any) -> None:
    site = await site_for(**ON)
    response, text = await site.ask("GET", "/events.schema.json")
    assert (response.status, response.content_type) == (200, "application/schema+json")
    assert json.loads(text) == schema()
    off = await site_for()
    response, _ = await off.ask("GET", "/events.schema.json")
    assert response.status == 404
