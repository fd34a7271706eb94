"""Where MX sends the customer at the end of OAuth."""

from collections.abc import Callable
from typing import Any

import pytest

from worker.mx.atrium import Atrium
from worker.settings import Settings

BASE = "https://reconnect.example.com"


@pytest.mark.parametrize(
    ("given", "query"),
    [
        ({"mx_referral_source": "APP", "public_base_url": BASE}, f"{BASE}/done"),
        ({"mx_referral_source": "APP"}, None),
        ({"public_base_url": BASE}, None),
        (
            {"mx_referral_source": "APP", "public_base_url": BASE, "mx_client_redirect_url": "myapp://back"},
            "myapp://back",
        ),
    ],
)
def test_from_an_app_it_is_our_own_page_unless_another_is_set(
    settings_for: Callable[..., Settings], given: dict[str, Any], query: str | None
) -> None:
    url = Atrium(settings_for(**given)).window_url("USR-1", "MBR-1")
    assert url.query.get("client_redirect_url") == query
