"""A wire between a client and a server that can be cut in the middle of an exchange."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from threading import Thread


class Cut(Enum):
    """Where the wire is cut next."""

    NOWHERE = "nowhere"
    BEFORE_THE_REQUEST = "the server never hears the client's next word"
    BEFORE_THE_REPLY = "the server hears it, does it and answers, and the client never hears that"


class Wire:
    """Carries bytes both ways, for one client after the other."""

    def __init__(self, port: int) -> None:
        self.cut = Cut.NOWHERE
        self._server_port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more clients."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                Thread(target=self._carry, args=(client, server, Cut.BEFORE_THE_REQUEST), daemon=True).start()
                Thread(target=self._carry, args=(server, client, Cut.BEFORE_THE_REPLY), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, cut: Cut) -> None:
        with suppress(OSError):
            while (word := source.recv(65536)) and self.cut is not cut:
                target.sendall(word)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def wire_to(port: int) -> Iterator[Wire]:
    """Give a wire to a port of this machine."""
    wire = Wire(port)
    try:
        yield wire
    finally:
        wire.close()
