"""MX's webhooks at full speed: ``python -m ops.bench.webhook_load HOST:PORT CREDENTIALS --requests N --connections C``.

The requests use ``C`` connections that stay open. One request in ten repeats an earlier one. The requests are built before the clock
starts, and answers are parsed without a library, so that the client needs little CPU. Prints JSON.
"""

import argparse
import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import Iterator

_REPEATED_EVERY = 10


def requests(count: int, address: str, credentials: str) -> Iterator[bytes]:
    """The requests, as bytes."""
    head = (
        f"POST /webhooks/mx HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        f"Authorization: Basic {base64.b64encode(credentials.encode()).decode()}\r\nUser-Agent: mx\r\nAccept: */*\r\n"
    )
    for number in range(count):
        named = number - 1 if number % _REPEATED_EVERY == _REPEATED_EVERY - 1 else number
        body = json.dumps(
            {
                "action": "CHANGED",
                "connection_status": "DENIED",
                "connection_status_id": 2,
                "connection_status_message": "The credentials entered do not match those at this institution.",
                "member_guid": f"MBR-{named:08}-0000-4000-8000-000000000000",
                "type": "CONNECTION_STATUS",
                "user_guid": f"USR-{named:08}-0000-4000-8000-000000000000",
            }
        )
        yield f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


class Connection(asyncio.Protocol):
    """One connection. The next request is sent after the answer to the one before."""

    def __init__(self, waiting: Iterator[bytes], took: list[float], statuses: Counter[str]) -> None:
        self._waiting = waiting
        self._took = took
        self._statuses = statuses
        self._began = 0.0
        self._read = b""
        self._transport: asyncio.Transport | None = None
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def start(self) -> None:
        """Send the next request, if there is one."""
        request = next(self._waiting, None)
        if request is None or self._transport is None:
            if not self.ended.done():
                self.ended.set_result(None)
            return
        self._began = time.monotonic()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Read an answer. A 204 ends with its headers; any other status is counted and ends the connection."""
        self._read += data
        if b"\r\n\r\n" not in self._read:
            return
        status = self._read[9:12].decode()
        self._took.append(time.monotonic() - self._began)
        self._statuses[status] += 1
        self._read = b""
        if status != "204" and self._transport is not None:
            self._transport.close()
            return
        self.start()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.ended.done():
            self._statuses["lost"] += 1
            self.ended.set_result(None)


async def main() -> None:
    """Run the load and print the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("credentials")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=200)
    given = parser.parse_args()
    waiting = iter(list(requests(given.requests, given.address, given.credentials)))
    took: list[float] = []
    statuses: Counter[str] = Counter()
    host, _, port = given.address.rpartition(":")
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: Connection(waiting, took, statuses), host, int(port)))[1]
        for _ in range(given.connections)
    ]
    began, cpu = time.monotonic(), time.process_time()
    for connection in connections:
        connection.start()
    await asyncio.wait([connection.ended for connection in connections])
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    distinct = len({request.rpartition(b"\r\n\r\n")[2] for request in requests(given.requests, "x", "x:y")})
    print(
        json.dumps({"seconds": seconds, "cpu": cpu, "took": sorted(took), "statuses": statuses, "distinct": distinct})
    )


if __name__ == "__main__":
    asyncio.run(main())
