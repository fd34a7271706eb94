"""The customer's page: its text for each state in three languages, and the answer to a press for each result of the click."""

from datetime import timedelta
from typing import Any

import pytest

from tests.integration.stages.links import link, linked, message, reconnection
from tests.integration.web.conftest import Html
from worker.stages.click import Back, Choose, Ended, LeadsTo, NoLink, TooMany, TryAgain
from worker.web import links

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

BROKEN, AHEAD, BACK, ENDED = "broken", "ahead", "back", "ended"


async def _link_to(bench: Any, state: str) -> str:
    how: dict[str, Any] = {
        BROKEN: {},
        AHEAD: {"reason": "expires_soon", "since": timedelta(days=5)},
        BACK: {"state": "reconnected"},
        ENDED: {"state": "unsupported"},
    }[state]
    token, _ = await linked(bench, "ann", **how)
    return token


@pytest.mark.parametrize(
    ("state", "language", "h1", "buttons"),
    [
        (BROKEN, "en", "Your connection to Bank ann", ["Reconnect Bank ann"]),
        (BROKEN, "es", "Su conexión con Bank ann", ["Volver a conectar Bank ann"]),
        (BROKEN, "fr", "Votre connexion à Bank ann", ["Reconnecter Bank ann"]),
        (AHEAD, "en", "Your connection to Bank ann", ["Reconnect Bank ann"]),
        (AHEAD, "fr", "Votre connexion à Bank ann", ["Reconnecter Bank ann"]),
        (BACK, "en", "Bank ann is connected again", []),
        (BACK, "es", "La conexión con Bank ann se ha restablecido", []),
        (BACK, "fr", "La connexion à Bank ann est rétablie", []),
        (ENDED, "en", "Your connection to Bank ann", []),
        (ENDED, "es", "Su conexión con Bank ann", []),
    ],
)
async def test_each_state_has_its_page_in_each_language(
    site_for: Any, state: str, language: str, h1: str, buttons: list[str]
) -> None:
    site = await site_for()
    token = await _link_to(site.bench, state)
    page = await site.page(f"/r/{token}", language=language)
    assert (page.lang, page.h1) == (language, h1)
    assert page.buttons == buttons
    assert len(page.forms) == len(buttons)
    assert ("Connections" if language == "en" else "→") in page.source or state == BACK  # a way without the button


async def test_several_banks_have_a_button_each_unless_nothing_is_to_do(site_for: Any) -> None:
    site = await site_for()
    ids = [await reconnection(site.bench, "ann")]
    ids += [await reconnection(site.bench, "bo", user="ann", state="unsupported")]
    ids += [await reconnection(site.bench, "cy", user="ann", state="reconnected")]
    ids += [await reconnection(site.bench, "di", user="ann", reason="expires_soon", since=timedelta(days=9))]
    token = await link(site.bench, "ann", await message(site.bench, "ann", *ids))
    page = await site.page(f"/r/{token}")
    assert page.h1 == "Your connections to 4 banks"
    assert sorted(page.texts["h2"]) == ["Bank ann", "Bank bo", "Bank cy", "Bank di"]
    assert {form["reconnection"] for form in page.forms} == {str(ids[0]), str(ids[3])}
    assert {form["method"] for form in page.forms} == {"post"}
    assert len({form["nonce"] for form in page.forms}) == 1
    other = await site.page(f"/r/{token}")
    assert other.forms[0]["nonce"] != page.forms[0]["nonce"]


async def test_the_users_language_and_zone_come_before_the_browsers(site_for: Any) -> None:
    site = await site_for()
    token, _ = await linked(site.bench)
    await site.bench.sql("UPDATE users SET locale = 'es-MX', timezone = 'Pacific/Kiritimati'")
    await site.bench.sql("UPDATE reconnections SET broken_since = '2026-03-03 20:00:00.000000'")
    page = await site.page(f"/r/{token}", language="fr")
    assert page.lang == "es"
    assert "4 de marzo de 2026" in page.source
    await site.bench.sql("UPDATE users SET locale = 'de-DE'")  # there is no German catalogue
    assert (await site.page(f"/r/{token}", language="de, fr-CH;q=0.9, en;q=0.5")).lang == "fr"
    assert (await site.page(f"/r/{token}", language=";;q=,*")).lang == "en"


async def test_a_hostile_name_is_text_and_keeps_its_direction(site_for: Any) -> None:
    site = await site_for()
    token, _ = await linked(site.bench)
    name = "<script>alert(1)</script>\u202e \"'&בנק"
    await site.bench.sql("UPDATE members SET institution_name = :n", n=name)
    page = await site.page(f"/r/{token}")
    assert "\u202e" not in page.source
    assert any("<script>alert(1)</script> \"'&בנק" in text for text in page.texts["bdi"])


@pytest.mark.parametrize(
    ("answer", "status", "h1", "says"),
    [
        (TryAgain(), 503, "Please try again in a moment", "Nothing is lost"),
        (TryAgain(timedelta(seconds=90)), 503, "Please try again in a moment", "press the button again"),
        (Choose(), 200, "Your connection to Bank ann", "Please choose the bank"),
        (Ended("unsupported"), 200, "Your connection to Bank ann", "Connections"),
        (Back("Bank ann"), 200, "Your connection to Bank ann", "is connected again"),
        (NoLink(), 404, "This link no longer works", "newest message"),
    ],
)
async def test_a_press_that_leads_nowhere_has_a_way_on(  # noqa: PLR0917
    site_for: Any, monkeypatch: pytest.MonkeyPatch, answer: Any, status: int, h1: str, says: str
) -> None:
    site = await site_for()
    token, _ = await linked(site.bench)

    async def click(*_: Any, **__: Any) -> Any:
        return answer

    monkeypatch.setattr(links, "click", click)
    response, text = await site.ask("POST", f"/r/{token}", data={"nonce": "n"})
    page = Html(text)
    page.check()
    assert (response.status, page.h1) == (status, h1)
    assert says in " ".join(page.source.split())
    assert status == 404 or page.buttons == ["Reconnect Bank ann"]
    assert response.headers.get("Retry-After") == {503: "90" if answer != TryAgain() else "30"}.get(status)


async def test_a_link_that_was_used_too_often_says_when_on_the_users_clock(
    site_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await site_for()
    token, _ = await linked(site.bench)
    await site.bench.sql("UPDATE users SET locale = 'fr', timezone = 'Asia/Tokyo'")
    now = site.bench.runtime.clock.now()
    until = now.replace(hour=3, minute=15, second=0) + timedelta(days=1)

    async def click(*_: Any, **__: Any) -> Any:
        return TooMany(until)

    monkeypatch.setattr(links, "click", click)
    response, text = await site.ask("POST", f"/r/{token}")
    assert response.status == 429
    assert "12:15" in text
    assert 0 < int(response.headers["Retry-After"]) <= 36 * 3600


async def test_a_press_leads_to_the_bank_by_the_very_uri(site_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site = await site_for()
    token, id_ = await linked(site.bench)
    uri = "https://bank.example/oauth?state=a%2Fb+c&x=%c3%a9|{}"
    asked: dict[str, Any] = {}

    async def click(_: Any, given: str, **options: Any) -> Any:
        asked.update(options, token=given)
        return LeadsTo(uri)

    monkeypatch.setattr(links, "click", click)
    form = {"nonce": "n" * 22, "reconnection": str(id_)}
    response, text = await site.ask("POST", f"/r/{token}", data=form)
    assert (response.status, response.headers["Location"]) == (303, uri)
    assert "form-action" not in response.headers["Content-Security-Policy"]
    assert Html(text).addresses[-1] == uri
    assert asked == {"token": token, "nonce": "n" * 22, "reconnection_id": id_}
    # A press without a nonce gets a new one, so it shares its URI with no other. An invalid id of a reconnection is ignored.
    await site.ask("POST", f"/r/{token}", data={"reconnection": "9" * 30})
    first = asked["nonce"]
    await site.ask("POST", f"/r/{token}", data={"reconnection": "-1"})
    assert asked["reconnection_id"] is None
    assert first != asked["nonce"] != ""
