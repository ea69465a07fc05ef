"""What a trainer actor and a node's template say to each other: one message at a time, with descriptors beside it.

They talk over a sequenced Unix socket in the abstract namespace, which keeps messages apart and leaves no file behind.
The messages come from the same user (`is_own_user`), and their text may hold what UTF-8 cannot say, as environments do.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ftactors import __version__
from ftactors.core.errors import FtactorsError

_LARGEST_BYTES = 1 << 20
_MOST_DESCRIPTORS = 253  # what the kernel lets through (SCM_MAX_FD)
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class TemplateError(FtactorsError):
    """No child can be forked here; it is started plainly."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Fork a child that takes these for its own, and four descriptors: orders, words, log, lifeline."""

    environment: dict[str, str]
    search_path: list[str]
    """The head of its `sys.path`; the interpreter's own directories follow."""
    directory: str
    threads: int
    devices: list[str]
    """What the actor holds: a child that was killed there has to be gone first."""
    model_type: str | None
    """The architecture to have imported."""
    asker: int
    """The actor's process."""
    built_with: list[str]
    """The interpreter and the version of ftactors that the actor runs with."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """Watch a child of a template that died; its process descriptor comes along."""

    pid: int
    devices: list[str]


@dataclass(frozen=True, slots=True)
class Waits:
    """There is no child before these have ended, which were killed on its devices; their descriptors come along."""

    pids: list[int]


@dataclass(frozen=True, slots=True)
class Forked:
    """The child is there; its process descriptor comes along."""

    pid: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The child has ended, with the negative of the signal that killed it as its code; None: that cannot be known."""

    code: int | None


@dataclass(frozen=True, slots=True)
class Refused:
    """There is no child."""

    reason: str


Message = Fork | Adopt | Waits | Forked | Ended | Refused
_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in (Fork, Adopt, Waits, Forked, Ended, Refused)}


def built_with() -> list[str]:
    """Return what a template has to have in common with the actor that asks it."""
    return [sys.executable, __version__]


def endpoint() -> socket.socket:
    """Return a socket of the kind that both sides use; it does not block."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST_BYTES)
    return made


def address_of(name: str) -> str:
    """Return the address of a template's name; no file is needed for it."""
    return f"\0{name}"


def is_own_user(peer: socket.socket) -> bool:
    """Return whether the process at the other end runs for the same user."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(credentials)[1] == os.getuid())


def send(peer: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send a message, whole.

    Raises:
        OSError: the other side is gone, or the message is larger than the kernel lets through.
    """
    told = json.dumps({type(message).__name__: asdict(message)}).encode()
    socket.send_fds(peer, [told], descriptors)


def receive(peer: socket.socket) -> tuple[Message | None, list[int]]:
    """Return the next message and its descriptors; None where the other side has hung up.

    Raises:
        BlockingIOError: there is none yet.
        OSError: the other side is gone.
        ValueError: it is no message.
    """
    told, descriptors, flags, _ = socket.recv_fds(peer, _LARGEST_BYTES, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not told:
        return None, descriptors
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("a message was cut off")
        ((kind, fields),) = json.loads(told).items()
        return _KINDS[kind](**fields), descriptors
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        close_all(descriptors)
        raise ValueError(f"{told[:80]!r} is no message: {error}") from error


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)
