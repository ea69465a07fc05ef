"""The address at which the ranks of an attempt meet."""

from __future__ import annotations

import socket


class Meeting:
    """A free port of this machine, kept free for as long as this object lives.

    It is bound and never listened at: nobody else is given it, and a process that listens there with `SO_REUSEADDR`,
    as torch.distributed's store does, can.

    Args:
        host: How the other ranks reach this machine.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("", 0))

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self._host}:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        """Let the port go."""
        self._socket.close()
