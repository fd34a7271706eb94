"""`resume outage:CODE` ends the hold of a false alarm, and the next sweep does not begin it again."""

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any


def test_a_hold_that_was_ended_is_not_begun_again_by_the_next_sweep(machine: Any) -> None:
    rows = (f"USR-{n:03},MBR-{n:03},alder,DENIED,{n}@mail.example" for n in range(60))
    (machine.folder / "m.csv").write_text(
        "user_guid,member_guid,institution_code,connection_status,email\n" + "\n".join(rows)
    )
    earlier = str(datetime.now(UTC).replace(tzinfo=None) - timedelta(days=5))
    with sqlite3.connect(machine.folder / "reconnect.db") as database:
        database.execute(
            "INSERT INTO reconnections (member_guid, user_guid, institution_code, state, reason, broken_since, opened_at, closed_at) "
            "VALUES ('MBR-past', 'USR-past', 'alder', 'reconnected', 'connection_status', ?, ?, ?)",
            (earlier, earlier, earlier),
        )
    database.close()
    _, _, held, resumed, _, status = machine.each(
        "import m.csv", "sweep", "status", "resume outage:alder", "sweep", "status"
    )
    assert "Paused outage:alder" in held.out
    assert "Resumed outage:alder; 60 reconnections are due again, spread over an hour" in resumed.out
    assert '"nobody_woken"' in resumed.out  # it tried; there is no broker here
    assert "outage:alder" not in status.out
