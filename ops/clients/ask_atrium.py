"""Sends requests with `atrium` and prints the answers as JSON. Runs in the clients' environment, where the worker cannot be imported.

``python ask_atrium.py BASE_URL CLIENT_ID API_KEY``
"""

import json
import sys
import warnings
from collections.abc import Callable

import atrium
from atrium.rest import ApiException

warnings.simplefilter("ignore")  # the client is of 2021 and calls functions that urllib3 has deprecated since
base_url, client_id, api_key = sys.argv[1:]


def client(key: str) -> atrium.AtriumClient:
    # Without this line a second client would share the first one's headers.
    atrium.Configuration.set_default(None)
    return atrium.AtriumClient(key, client_id, base_url)


def error_of(call: Callable[[], object]) -> list[object] | None:
    try:
        call()
    except ApiException as error:
        body = error.body
        return [error.status, body.decode() if isinstance(body, bytes) else str(body)]
    return None


wrong = error_of(client("wrong").users.list_users)
asked = client(api_key)
pages = [asked.users.list_users(page=page, records_per_page=10) for page in (1, 2, 3)]
listed = asked.members.list_members("USR-0", page=1, records_per_page=100)
minted = [asked.members.read_o_auth_window_uri("MBR-0-0", "USR-0").member for _ in range(2)]
app = asked.members.read_o_auth_window_uri(
    "MBR-0-0", "USR-0", referral_source="APP", ui_message_webview_url_scheme="app"
)
json.dump(
    {
        "users": [user.guid for page in pages for user in page.users],
        "pagination": pages[1].pagination.to_dict(),
        "members": [member.guid for member in listed.members],
        "member": asked.members.read_member("MBR-0-0", "USR-0").member.to_dict(),
        "status": asked.members.read_member_status("MBR-0-0", "USR-0").member.to_dict(),
        "uris": [member.oauth_window_uri for member in (*minted, app.member)],
        "guids": [member.guid for member in (*minted, app.member)],
        "moved": asked.members.read_o_auth_window_uri("MBR-moved", "USR-moved").member.guid,
        "unsupported": error_of(lambda: asked.members.read_o_auth_window_uri("MBR-none", "USR-none")),
        "unknown": error_of(lambda: asked.members.read_member("MBR-nobody", "USR-0")),
        "wrong key": wrong,
        "disabled": None,
        "own ids": None,
    },
    sys.stdout,
)
