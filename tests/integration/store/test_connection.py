"""If the database's host disappears without closing its connections, that is noticed within a minute, not after two hours."""

import asyncio
import os
import socket
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from worker.store.sql.database import open_engine


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()
    await writer.wait_closed()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no such option")
@pytest.mark.parametrize(("more", "patience"), [("", 30_000), ("?tcp_user_timeout=5000", 5000)], ids=["ours", "yours"])
async def test_the_kernel_gives_up_a_connection_that_nobody_answers(
    postgres: Any, settings_for: Any, more: str, patience: int
) -> None:
    relays: list[asyncio.Task[Any]] = []
    given = conninfo_to_dict(postgres.database())

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.append(asyncio.current_task())  # type: ignore[arg-type]
        theirs = await asyncio.open_unix_connection(f"{given['host']}/.s.PGSQL.5432")
        await asyncio.gather(_pass_on(reader, theirs[1]), _pass_on(theirs[0], writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"postgresql://{given['user']}@127.0.0.1:{port}/{given['dbname']}{more}"
    engine = open_engine(settings_for(database_url=url))
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        with socket.socket(fileno=os.dup(driver.pgconn.socket)) as own:
            names = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert tuple(own.getsockopt(socket.IPPROTO_TCP, name) for name in names) == (patience, 30, 10, 3)
    await engine.dispose()
    await asyncio.gather(*relays)
    server.close()
