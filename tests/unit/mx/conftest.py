"""Settings that need neither an environment nor a ``.env``."""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet

from worker.settings import Settings


@pytest.fixture
def make_settings() -> Callable[..., Settings]:
    def make(**overrides: Any) -> Settings:
        values = {"mx_api_key": "key-7f3a", "mx_client_id": "client-91bc", "uri_keys": Fernet.generate_key().decode()}
        return Settings(_env_file=None, **(values | overrides))

    return make
