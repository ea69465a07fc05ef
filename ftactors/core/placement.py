"""On which nodes a job's workers go: where they leave the most room for what is larger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ftactors.core.capacity import ROUNDING, Free, bare
from ftactors.core.events import RankPlacement
from ftactors.core.needs import WHOLE, Need
from ftactors.core.seen import Seen

Spread = Sequence[tuple[str, int]]
"""Nodes, and how many workers each of them takes."""


def spread(need: Need, *capacities: Mapping[str, Free]) -> Spread | None:
    """Return the nodes for a job's workers, as few as possible, so that they fit by each of the capacities.

    Fractions go where the fullest device that has room is, whole devices where the fewest are idle, and what needs no
    GPU to nodes without. None where not all of them fit.
    """
    rooms = _rooms(need, capacities)
    if sum(rooms.values()) < need.workers:
        return None
    left, chosen = need.workers, list[tuple[str, int]]()
    while left:
        node_id = min(rooms, key=lambda node_id: _rank(capacities[0][node_id], need, rooms[node_id], left))
        workers = min(left, rooms.pop(node_id))
        chosen.append((node_id, workers))
        left -= workers
    return chosen


def fits(need: Need, capacity: Mapping[str, Free]) -> bool:
    """Return whether a job's workers fit."""
    return sum(_rooms(need, [capacity]).values()) >= need.workers


def take(need: Need, where: Spread, capacity: dict[str, Free]) -> None:
    """Take the workers' shares from a capacity."""
    for node_id, workers in where:
        capacity[node_id] = capacity[node_id].taking(need, workers)


def room_anywhere(need: Need, capacity: Mapping[str, Free]) -> list[str]:
    """Return the nodes to one of which Ray may bring a preparation; none where they may all be taken by others."""
    room = {node_id: free.cpus + ROUNDING for node_id, free in capacity.items() if free.cpus + ROUNDING >= need.cpus}
    roaming_cpus = max((free.roaming_cpus for free in capacity.values()), default=0.0)
    if need.cpus > 0 and sum(cpus // need.cpus for cpus in room.values()) * need.cpus < roaming_cpus + need.cpus:
        return []
    return list(room)


def ranks_of(need: Need, where: Spread) -> tuple[RankPlacement, ...]:
    """Return the ranks of an attempt whose workers go there, those of a node side by side."""
    return tuple(
        RankPlacement(node_id=node_id, gpu_thousandths=need.gpu_thousandths, cpus=need.cpus, mem_gib=need.mem_gib)
        for node_id, workers in where
        for _ in range(workers)
    )


def could_ever_fit(need: Need, seen: Seen) -> bool:
    """Return whether the workers fit on the nodes that are up when nothing else runs there."""
    return fits(need, {node.node_id: bare(node) for node in seen.nodes.values() if node.state == "up"})


def _rooms(need: Need, capacities: Sequence[Mapping[str, Free]]) -> dict[str, int]:
    """Return how many workers each node takes, by each of the capacities; only nodes that take one."""
    rooms: dict[str, int] = {}
    for node_id in capacities[0]:
        room = need.workers
        for capacity in capacities:
            room = capacity[node_id].room(need, room) if room else 0
        if room:
            rooms[node_id] = room
    return rooms


def _rank(free: Free, need: Need, room: int, left: int) -> tuple[int, float, float, str]:
    """Return what makes a node better than others for the workers that are left; the smallest is the best."""
    fewer_nodes = -min(room, left)
    if not need.gpu_thousandths:
        return fewer_nodes, free.node.gpus, free.cpus, free.node.node_id
    tightest = min((device for device in free.devices if device >= need.gpu_thousandths), default=WHOLE)
    return fewer_nodes, tightest, sum(device == WHOLE for device in free.devices), free.node.node_id
