"""What a cluster in memory gives out of its nodes, as Ray does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random

from ftactors.core.events import RankPlacement
from ftactors.core.needs import WHOLE
from ftactors.core.seen import Node

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Grant:
    """A part of a node that somebody has."""

    node_id: str
    gpu_thousandths: int
    cpus: float
    mem_gib: float
    device: int | None
    """Counts the node's devices from 0; None where no share of one was asked for."""


def grant(node: Node, asked: RankPlacement, held: Iterable[Grant], random: Random) -> Grant | None:
    """Return what a node gives; None while it has no room.

    A share comes from the fullest device that has room, and from any one of those that are equally full.

    Args:
        node: What there is.
        asked: What is asked of it.
        held: What others have of it.
        random: Chooses between devices that are equally full.
    """
    there = with_free(node, held := [*held])
    if node.state != "up" or there.free_cpus + _ROUNDING < asked.cpus or there.free_mem_gib + _ROUNDING < asked.mem_gib:
        return None
    device = None
    if asked.gpu_thousandths:
        free = free_thousandths(node, held)
        roomy = [index for index, left in enumerate(free) if left >= asked.gpu_thousandths]
        least = min((free[index] for index in roomy), default=0)
        fullest = [index for index in roomy if free[index] == least]
        if not fullest:
            return None
        device = random.choice(fullest)
    return Grant(node.node_id, asked.gpu_thousandths, asked.cpus, asked.mem_gib, device)


def free_thousandths(node: Node, held: Iterable[Grant]) -> list[int]:
    """Return what is free of each device of a node; below 0 where too much was given out."""
    free = [WHOLE] * node.gpus
    for part in held:
        if part.node_id == node.node_id and part.device is not None:
            free[part.device] -= part.gpu_thousandths
    return free


def with_free(node: Node, held: Iterable[Grant]) -> Node:
    """Return the node as a look shows it: with what is free there, and with nothing at all once it is dead."""
    if node.state == "dead":
        return Node(node.node_id, "dead", node.name)
    here = [part for part in held if part.node_id == node.node_id]
    return replace(
        node,
        free_gpu_thousandths=sum(free_thousandths(node, here)),
        free_cpus=node.cpus - sum(part.cpus for part in here),
        free_mem_gib=node.mem_gib - sum(part.mem_gib for part in here),
    )
