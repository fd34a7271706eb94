"""Sends requests with `mx-platform-python` and prints the answers as JSON. Runs in the clients' environment, where the worker cannot be
imported.

``python ask_platform.py BASE_URL CLIENT_ID API_KEY [VERSION]``. Without a version the client uses its default, v20111101.
"""

import json
import sys
from collections.abc import Callable

import mx_platform_python as mx

base_url, client_id, api_key, *version = sys.argv[1:]


def client(key: str) -> mx.ApiClient:
    made = mx.ApiClient(mx.Configuration(host=base_url, username=client_id, password=key))
    if version:
        made.set_default_header("Accept", "application/json")
        made.set_default_header("Accept-Version", version[0])
    return made


def error_of(call: Callable[[], object]) -> list[object] | None:
    try:
        call()
    except mx.ApiException as error:
        return [error.status, str(error.body)]
    return None


asked = client(api_key)
users, members, widgets = mx.UsersApi(asked), mx.MembersApi(asked), mx.WidgetsApi(asked)
pages = [users.list_users(page=page, records_per_page=10) for page in (1, 2, 3)]
listed = members.list_members("USR-0", page=1, records_per_page=100)
minted = [widgets.request_o_auth_window_uri("MBR-0-0", "USR-0", skip_aggregation=True).member for _ in range(2)]
app = widgets.request_o_auth_window_uri(
    "MBR-0-0", "USR-0", referral_source="APP", client_redirect_url="https://a.example/", enable_app2app="false"
)
json.dump(
    {
        "users": [user.guid for page in pages for user in page.users],
        "pagination": pages[1].pagination.to_dict(),
        "members": [member.guid for member in listed.members],
        "member": members.read_member("MBR-0-0", "USR-0").member.to_dict(),
        "status": members.read_member_status("MBR-0-0", "USR-0").member.to_dict(),
        "uris": [member.oauth_window_uri for member in (*minted, app.member)],
        "guids": [member.guid for member in (*minted, app.member)],
        "moved": widgets.request_o_auth_window_uri("MBR-moved", "USR-moved").member.guid,
        "unsupported": error_of(lambda: widgets.request_o_auth_window_uri("MBR-none", "USR-none")),
        "unknown": error_of(lambda: members.read_member("MBR-nobody", "USR-0")),
        "wrong key": error_of(mx.UsersApi(client("wrong")).list_users),
        "disabled": [user.guid for user in users.list_users(is_disabled=True).users],
        "own ids": members.read_member("ours-0", "u-0").member.guid if version else None,
    },
    sys.stdout,
)
