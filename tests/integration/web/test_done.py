"""The page at the end of OAuth: thanks, or what went wrong. It is the same for every member that the URL names."""

from typing import Any

import pytest

from tests.integration.web.conftest import Html
from worker.web import done
from worker.web.texts import REASONS

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The members that hints were given about. Each hint fails, which must not change the page."""
    found: list[str | None] = []

    async def ended(_: Any, member_guid: str | None) -> None:
        found.append(member_guid)
        raise RuntimeError("it is only a hint")

    monkeypatch.setattr(done, "oauth_ended", ended)
    return found


@pytest.mark.parametrize("language", ["en", "es", "fr"])
async def test_each_reason_has_words_of_its_own(site_for: Any, language: str, hints: list[str | None]) -> None:
    site = await site_for()
    thanks = await site.page("/done?status=success&member_guid=MBR-1", language=language)
    texts = {" ".join(thanks.texts["p"])}
    for reason in REASONS:
        page = await site.page(f"/done?status=error&amp;member_guid=MBR-2&amp;error_reason={reason}", language=language)
        assert page.lang == language
        assert page.h1 != thanks.h1
        texts.add(" ".join(page.texts["p"]))
    assert len(texts) == len(REASONS) + 1
    assert hints == ["MBR-1", *["MBR-2"] * len(REASONS)]


async def test_it_tells_nothing_of_a_member_and_takes_anything(site_for: Any, hints: list[str | None]) -> None:
    site = await site_for()
    await site.bench.member("ann")
    answers = [
        await site.ask("GET", f"/done?status=success&member_guid={guid}") for guid in ("MBR-ann", "MBR-none", "")
    ]
    assert len({text for _, text in answers}) == 1
    for query in (
        "",
        "?status=error&error_reason=<script>",
        "?status=%ff&member_guid=%00%0a",
        "?error_reason=" + "x" * 900,
    ):
        _, text = await site.ask("GET", f"/done{query}")
        page = Html(text)
        page.check()
        assert page.h1 == "The connection was not made"
    await site.ask("HEAD", "/done?status=success&member_guid=MBR-head")
    assert hints == ["MBR-ann", "MBR-none"]
