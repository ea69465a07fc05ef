"""A connection from the first rank to each other one, over which nothing is said: it closes when a process ends.

torch.distributed tells that a peer is gone by its port, and NCCL not even that.
"""

from __future__ import annotations

import secrets
import select
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from torch.distributed import Store  # type: ignore[attr-defined]  # the stub does not re-export it

_KEY = "ftactors/links"
_CONNECT_WITHIN_S = 60.0
_CLOSED_WITHIN_S = 2.0
_TOKEN_BYTES = 16


@dataclass(frozen=True)
class Links:
    """The first rank's connections."""

    sockets: Mapping[int, socket.socket]
    """By the rank that they go to."""

    def lost(self) -> list[int]:
        """Return the ranks whose processes have ended; one whose node was cut off is not among them."""
        found, _, _ = select.select(list(self.sockets.values()), [], [], _CLOSED_WITHIN_S)
        return [rank for rank, connection in self.sockets.items() if connection in found]


def listen(store: Store, size: int, host: str) -> Links:
    """Return the first rank's links, once all others have connected.

    Args:
        store: Where the port is told.
        size: How many ranks there are.
        host: How the others reach this machine.

    Raises:
        TimeoutError: somebody did not connect.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    token = secrets.token_bytes(_TOKEN_BYTES)
    sockets: dict[int, socket.socket] = {}
    with socket.create_server(("", 0), family=family, backlog=size) as listener:
        listener.settimeout(_CONNECT_WITHIN_S)
        store.set(_KEY, f"{listener.getsockname()[1]} {token.hex()}")
        while len(sockets) < size - 1:
            connection, _ = listener.accept()
            connection.settimeout(_CONNECT_WITHIN_S)
            hello = connection.recv(_TOKEN_BYTES + 4, socket.MSG_WAITALL)
            if secrets.compare_digest(hello[:_TOKEN_BYTES], token):
                sockets[int.from_bytes(hello[_TOKEN_BYTES:])] = connection
            else:  # somebody else's, on this network
                connection.close()
    return Links(sockets)


def connect(store: Store, rank: int, host: str) -> Links:
    """Return the link of another rank to the first one, to be kept open for as long as it works.

    Raises:
        OSError: the first rank cannot be reached.
    """
    port, token = store.get(_KEY).decode().split()
    connection = socket.create_connection((host, int(port)), _CONNECT_WITHIN_S)
    connection.sendall(bytes.fromhex(token) + rank.to_bytes(4))
    return Links({0: connection})
