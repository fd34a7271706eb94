"""The OpenAPI 3.1 document of ``/api/v1``. ``tests/integration/web/test_api.py`` checks it, and every answer against it."""

from typing import Any

import worker

_TEXT: dict[str, Any] = {"type": "string"}
_TEXT_OR_NULL: dict[str, Any] = {"type": ["string", "null"]}
_MOMENT: dict[str, Any] = {"type": "string", "format": "date-time"}


def document(base_url: str) -> dict[str, Any]:
    """The document; ``base_url`` is ``PUBLIC_BASE_URL``."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Reconnections",
            "version": worker.__version__,
            "description": "What a user has to reconnect, for a banner in your app, and opting a user out. For servers: there is no CORS.",
        },
        "servers": [{"url": base_url}],
        "security": [{"key": []}],
        "paths": {
            "/api/v1/users/{user_guid}/reconnections": {
                "parameters": [_USER],
                "get": {
                    "operationId": "listReconnections",
                    "summary": "What a user has to reconnect now",
                    "description": "Ask when the app is opened. Within an hour the link is the same, so each answer carries one that works.",
                    "responses": {"200": _json("ToReconnect", "Possibly nothing."), **_PROBLEMS},
                },
            },
            "/api/v1/users/{user_guid}/optout": {
                "parameters": [_USER],
                "post": {
                    "operationId": "optOut",
                    "summary": "Send a user no more messages, on any channel",
                    "description": "May be repeated. Links that the user has still work. The request needs no body.",
                    "responses": {"200": _json("OptedOut", "It holds from now on."), **_PROBLEMS},
                },
            },
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "One of API_KEYS."}},
            "schemas": _SCHEMAS,
        },
    }


_USER: dict[str, Any] = {
    "name": "user_guid",
    "in": "path",
    "required": True,
    "description": "MX's GUID of the user, such as USR-1a2b.",
    "schema": _TEXT,
}


def _json(schema: str, description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _problem(description: str, *headers: str) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    response: dict[str, Any] = {"description": description, "content": content}
    return response | ({"headers": {name: {"schema": _TEXT} for name in headers}} if headers else {})


_PROBLEMS: dict[str, Any] = {
    "401": _problem("No key, or one that is not in API_KEYS.", "WWW-Authenticate"),
    "404": _problem("No such user."),
    "429": _problem("Too many requests.", "Retry-After"),
    "500": _problem("An error of this service.", "Retry-After"),
    "503": _problem("The database is away.", "Retry-After"),
}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_SCHEMAS: dict[str, Any] = {
    "ToReconnect": _object(
        user_guid=_TEXT,
        reconnections={"type": "array", "items": {"$ref": "#/components/schemas/Reconnection"}},
        link=_TEXT_OR_NULL
        | {
            "format": "uri",
            "description": "The page that leads to all of these banks. A secret of this user. null: nothing is open.",
        },
        link_expires_at={"type": ["string", "null"], "format": "date-time"},
    ),
    "Reconnection": _object(
        member_guid=_TEXT,
        institution_code=_TEXT_OR_NULL,
        bank=_TEXT_OR_NULL | {"description": "What your application calls the institution."},
        since=_MOMENT | {"description": "Since when it is broken; with expires_soon, until when it works."},
        state={"type": "string", "enum": ["broken", "expires_soon"]},
        muted={"type": "boolean", "description": "The user asked for no messages about this bank."},
    ),
    "OptedOut": _object(user_guid=_TEXT, opted_out={"const": True}),
    "Problem": _object(type=_TEXT, title=_TEXT, status={"type": "integer"}, detail=_TEXT)
    | {"description": "Problem details (RFC 9457)."},
}
