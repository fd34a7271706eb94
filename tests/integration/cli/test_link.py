"""`reconnect link`: a fresh link for one user."""

import re
from typing import Any

from worker.cli.linking import make_link
from worker.policy.links import hash_of
from worker.stages.link_page import page_of
from worker.stages.sweep import sweep

BASE = "https://reconnect.example.com"
PUBLIC = {"PUBLIC_BASE_URL": BASE}


def test_the_command_prints_a_link_or_one_line_that_says_why_not(machine: Any) -> None:
    (machine.folder / "m.csv").write_text(
        "user_guid,member_guid,connection_status\nUSR-1,MBR-1,DENIED\nUSR-2,MBR-2,CONNECTED\n"
    )
    assert machine("import", "m.csv").code == 0
    machine("sweep")
    ran = machine("link", "USR-1", environment=PUBLIC)
    assert ran.code == 0, ran.err
    assert re.fullmatch(rf"{BASE}/r/[A-Za-z0-9_-]{{22}}\n", ran.out)
    again = machine.json("link", "USR-1", environment=PUBLIC)
    assert again["link"] != ran.out.strip()
    assert set(again) == {"user_guid", "link", "expires_at"}
    for user, environment, code, line in (
        ("USR-1", {}, 2, "reconnect: settings: PUBLIC_BASE_URL is missing: without it there are no links of ours"),
        ("MBR-1", PUBLIC, 2, "reconnect: 'MBR-1' is no user GUID; it starts with USR-"),
        ("USR-2", PUBLIC, 1, "reconnect: link: USR-2 has nothing to reconnect"),
        ("USR-9", PUBLIC, 1, "reconnect: USR-9 is not in the database"),
    ):
        refused = machine("link", user, environment=environment)
        assert (refused.code, refused.out, refused.err.strip()) == (code, "", line)


async def test_it_leads_to_all_that_the_user_has_open(bench_for: Any) -> None:
    bench = await bench_for(public_base_url=BASE)
    for name in ("alder", "birch"):
        await bench.member(name, user="p", connection_status="DENIED")
    await sweep(bench.runtime)
    token = (await make_link(bench.runtime, "USR-p"))["link"].rpartition("/")[2]
    row = (await bench.sql("SELECT token_hash, user_guid, notification_id FROM links"))[0]
    assert tuple(row) == (hash_of(token), "USR-p", None)
    page = await page_of(bench.runtime, token)
    assert page is not None
    assert {bank.member_guid for bank in page.banks} == {"MBR-alder", "MBR-birch"}
