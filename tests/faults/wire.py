"""A TCP relay between the worker and a server that refuses connections or cuts them, by seeded random numbers."""

import random
import selectors
import socket
import threading
from contextlib import suppress
from typing import Self

_PIECE = 65_536


class Wire:
    """Relays connections on ``port`` to ``target``. A share of them is cut after a random number of bytes to the server."""

    def __init__(self, target: int, rng: random.Random, *, longest: int = 40_000) -> None:
        self._target = target
        self._rng = rng
        self._longest = longest
        #: The share of connections that are cut: with 0.2 the first, the sixth, … They are not drawn, since then perhaps none of a few is cut.
        self.share = 0.0
        self._to_cut = 1.0
        self.cut = 0
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.port = 0
        self.connect()

    def connect(self) -> None:
        """Listen, at the same address as before."""
        listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="wire", daemon=True).start()

    def disconnect(self) -> None:
        """Stop listening, and cut all connections."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            for side in self._open:
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            left = None
            if self.share and self._to_cut >= 1:
                left, self._to_cut = self._rng.randrange(self._longest), self._to_cut - 1
            self._to_cut += self.share
            threading.Thread(target=self._relay, args=(client, left), name="wire", daemon=True).start()

    def _relay(self, client: socket.socket, left: int | None) -> None:
        """Relay until either side disconnects or ``left`` bytes went to the server."""
        with client, socket.socket() as server, selectors.DefaultSelector() as ready:
            with self._lock:
                self._open |= {client, server}
            try:
                server.connect(("127.0.0.1", self._target))
                ready.register(client, selectors.EVENT_READ, server)
                ready.register(server, selectors.EVENT_READ, client)
                while True:
                    for key, _ in ready.select():
                        piece = key.fileobj.recv(_PIECE)  # type: ignore[union-attr]
                        if not piece:
                            return
                        if left is not None and key.fileobj is client:
                            piece, left = piece[:left], left - len(piece)
                        key.data.sendall(piece)
                        if left is not None and left <= 0:
                            self.cut += 1
                            return
            except OSError:
                return
            finally:
                with self._lock:
                    self._open -= {client, server}
