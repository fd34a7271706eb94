"""Keys are rotated batch by batch. A rotation that is interrupted can be run again."""

from typing import Any

import pytest
from cryptography.fernet import Fernet

from worker.errors import SettingsError
from worker.store import windows
from worker.store.windows import RotationStore


async def _windows(bench: Any, count: int) -> None:
    for number in range(count):
        await bench.sql(
            "INSERT INTO reconnections (id, member_guid, user_guid, state, reason, broken_since, opened_at) VALUES "
            f"({number + 1}, 'MBR-{number}', 'USR-{number}', 'ready', 'connection_status', '2026-11-01 00:00:00', '2026-11-01 00:00:00')"
        )
        stored = bench.runtime.vault.encrypt(f"https://bank.example/{number}")
        await bench.sql(
            "INSERT INTO windows (reconnection_id, epoch, member_guid, uri, fetched_at) VALUES "
            f"({number + 1}, 1, 'MBR-{number}', '{stored}', '2026-11-01 00:00:00')"
        )


async def test_rotation_can_be_interrupted_and_run_again(bench_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "BATCH", 4)
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    before = await bench_for(uri_keys=old)
    await _windows(before, 10)
    both = await bench_for(uri_keys=f"{new},{old}")
    store = RotationStore(both.runtime.database, both.runtime.vault)
    assert await store.rotate_after(0) == (4, 4, 4)  # the rotation is interrupted here
    last, rotated = 0, 0
    while True:
        end, _, changed = await store.rotate_after(last)
        rotated += changed
        if end is None:
            break
        last = end
    assert rotated == 6
    after = await bench_for(uri_keys=new)
    for (stored,) in await after.sql("SELECT uri FROM windows ORDER BY id"):
        assert after.runtime.vault.decrypt(stored).startswith("https://bank.example/")


async def test_a_uri_that_no_key_opens_stops_the_rotation_with_one_line(bench_for: Any) -> None:
    before = await bench_for(uri_keys=Fernet.generate_key().decode())
    await _windows(before, 1)
    other = await bench_for(uri_keys=Fernet.generate_key().decode())
    with pytest.raises(SettingsError, match="no key fits"):
        await RotationStore(other.runtime.database, other.runtime.vault).rotate_after(0)
