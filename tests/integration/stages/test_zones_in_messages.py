"""Mail and page show a date in the user's time zone, also if its offset from UTC is not a whole number of hours."""

import email
import re
from datetime import datetime, timedelta
from email import policy
from pathlib import Path
from typing import Any

import pytest

from worker.channels.wording.languages import language_for
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.link_page import page_of
from worker.stages.sweep import sweep
from worker.web.wording import banks_of, time_of

BASE = "https://reconnect.example.com"


@pytest.mark.parametrize(("offset", "hour"), [("+05:30", 20), ("-03:30", 20), ("-03:30", 2)])
async def test_an_offset_that_is_not_whole_hours_is_the_clock_of_the_mail_and_of_the_page(
    bench_for: Any, sandbox_for: Any, tmp_path: Path, offset: str, hour: int
) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, public_base_url=BASE, time_zone="Pacific/Kiritimati")
        midnight = bench.runtime.clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
        broke = midnight - timedelta(days=3) + timedelta(hours=hour)
        there = broke.astimezone(datetime.strptime(offset, "%z").tzinfo)
        date = f"{there:%B} {there.day}, {there.year}"
        await bench.member("a", token_revoked_at=bench.moment(broke))
        await bench.sql("UPDATE users SET locale = 'en-US', timezone = :zone", zone=offset)
        for stage in (sweep, fetch, deliver):
            await stage(bench.runtime)
        (path,) = (tmp_path / "mails").glob("*.eml")
        mail = email.message_from_bytes(path.read_bytes(), policy=policy.default)
        text = mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
        assert f"since {date}" in " ".join(text.split())
        page = await page_of(bench.runtime, re.findall(rf"{BASE}/r/([A-Za-z0-9_-]+)", text)[0])
        assert page is not None
        language = language_for(page.locale)
        assert [bank["date"] for bank in banks_of(page, language)] == [date]
        assert time_of(broke, language, page.time_zone).startswith(f"{there.hour % 12}:30")
