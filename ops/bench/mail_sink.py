"""A lean mail server: SMTP on a raw protocol under uvloop. It replies after a fixed time, and accepts and discards every mail.

``python -m ops.bench.mail_sink DELAY`` listens on a free port, prints it, and takes ``DELAY`` seconds for each command. The
command ``STAT``, which no mail client sends, is answered with the figures so far.
"""

import asyncio
import json
import socket
import sys
import time
from typing import cast

_END = b"\r\n.\r\n"


class Sink:
    """The figures of all sessions."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.clear()

    def clear(self) -> None:
        """Set all figures to zero."""
        self.mails = 0
        self.first_at: float | None = None
        self.last_at: float | None = None

    def stats(self) -> bytes:
        """Return the figures in one line, and set them to zero."""
        figures = {"mails": self.mails, "first_at": self.first_at, "last_at": self.last_at}
        return json.dumps(figures).encode()


class Session(asyncio.Protocol):
    """One connection. The client waits for the reply before it sends the next command."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._rest = bytearray()
        self._in_content = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._reply(b"220 sink ESMTP")

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while True:
            end = self._rest.find(_END if self._in_content else b"\r\n")
            if end < 0:
                return
            taken = bytes(self._rest[:end])
            del self._rest[: end + (len(_END) if self._in_content else 2)]
            if self._in_content:
                self._in_content = False
                self._sink.mails += 1
                self._sink.last_at = time.monotonic()
                self._reply(b"250 taken")
            else:
                self._command(taken[:4].upper())

    def _command(self, verb: bytes) -> None:
        if verb == b"STAT":
            self._transport.write(self._sink.stats() + b"\r\n")
            self._sink.clear()
        elif verb == b"EHLO":
            self._reply(b"250-sink\r\n250 8BITMIME")
        elif verb == b"DATA":
            self._in_content = True
            self._reply(b"354 go on")
        elif verb == b"QUIT":
            self._reply(b"221 bye", last=True)
        else:
            if verb == b"MAIL" and self._sink.first_at is None:
                self._sink.first_at = time.monotonic()
            self._reply(b"250 ok")

    def _reply(self, line: bytes, *, last: bool = False) -> None:
        asyncio.get_running_loop().call_later(self._sink.delay, self._write, line + b"\r\n", last)

    def _write(self, line: bytes, last: bool) -> None:
        if not self._transport.is_closing():
            self._transport.write(line)
            if last:
                self._transport.close()


async def serve(delay: float) -> None:
    """Listen on a free port, print it, and serve for ever."""
    sink = Sink(delay)
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = await asyncio.get_running_loop().create_server(lambda: Session(sink), sock=listening)
    print(listening.getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(float(sys.argv[1])))
