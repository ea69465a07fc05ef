"""Why there is no room for a job, in words with numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

from ftactors.core.capacity import Free
from ftactors.core.needs import WHOLE, Need
from ftactors.core.occupancy import Holder
from ftactors.core.placement import spread
from ftactors.core.seen import Node

_NAMED = 3
"""So many nodes are named."""
_ENDS_NAMED = 2
"""So many jobs that are to end are named."""
_ID_LENGTH = 12
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


class _Kind(NamedTuple):
    """One of the things that a node has."""

    asked: Callable[[Need], float]
    without: Callable[[Need], Need]
    need: Callable[[Need], str]
    free: Callable[[Free], str]
    amount: Callable[[Free], float]
    unit: str


_GPU = _Kind(
    lambda need: need.gpu_thousandths,
    lambda need: replace(need, gpu_thousandths=0),
    lambda need: f"{need.gpu_thousandths / WHOLE:g} GPU{' on one device' if need.gpu_thousandths < WHOLE else ''}",
    lambda free: _devices(free.devices),
    lambda free: max(free.devices, default=0) * WHOLE * WHOLE + sum(free.devices),
    " GPU",
)
_CPU = _Kind(
    lambda need: need.cpus,
    lambda need: replace(need, cpus=0.0),
    lambda need: f"{need.cpus:g} CPU",
    lambda free: f"{max(0.0, round(free.cpus - free.roaming_cpus, 3)):g}",
    lambda free: free.cpus - free.roaming_cpus,
    " CPU",
)
_MEMORY = _Kind(
    lambda need: need.mem_gib,
    lambda need: replace(need, mem_gib=0.0),
    lambda need: f"{need.mem_gib:g} GiB of memory",
    lambda free: f"{max(0.0, round(free.mem_gib, 1)):g}",
    lambda free: free.mem_gib,
    " GiB",
)
_KINDS = (_GPU, _CPU, _MEMORY)


@dataclass(frozen=True, slots=True)
class Room:
    """What all reasons rest on."""

    now: float
    free: Mapping[str, Free]
    """By node, for certain."""
    idle: Mapping[str, Free]
    """By node, when nothing runs there."""
    could_add: Sequence[Node]
    holders: Sequence[Holder]
    ends: Mapping[str, float | None]
    """When the holders are expected to end; None where nobody knows."""

    names: Mapping[str, str]
    """What the nodes are called; see `names_of`."""


def names_of(nodes: Iterable[Node]) -> dict[str, str]:
    """Return what nodes are called, by id; of several with the same name, each by a part of its id."""
    there = [*nodes]
    times = Counter(node.name for node in there)
    return {
        node.node_id: f"node {node.name if node.name and times[node.name] == 1 else node.node_id[:_ID_LENGTH]}"
        for node in there
    }


def why_never(need: Need, room: Room) -> str | None:
    """Return why a job finds no room even when all nodes are idle; None where it would."""
    if spread(need, room.idle) is not None:
        return None
    one = replace(need, workers=1)
    hold = sum(free.room(one, need.workers) for free in room.idle.values())
    told = f"needs {need}; no node of the cluster has that now, even when it is idle"
    if hold:
        told = f"needs {need}; the nodes that are up have room for {hold} of them, even when they are idle"
    groups = dict.fromkeys(node.name for node in room.could_add if one_fits(one, node))
    return f"{told}; the autoscaler could add nodes that do ({', '.join(groups)})" if groups else told


def one_fits(one: Need, node: Node) -> bool:
    """Return whether a worker fits on a node when nothing else runs there."""
    return Free(node, (WHOLE,) * node.gpus, (), node.cpus, node.mem_gib).fits(one)


def why_no_room(need: Need, room: Room) -> str:
    """Return what is short now, where it is free, and who should give some back when."""
    one = replace(need, workers=1)
    nodes = [node_id for node_id, free in room.idle.items() if free.fits(one)]
    hoped = {node_id: free.hoped() for node_id, free in room.free.items()}
    if need.gpu_thousandths and spread(need, hoped) is not None:
        nodes = [node_id for node_id in nodes if room.free[node_id].unsettled] or nodes
        return f"needs {_asked(need, (_GPU,))}; {_unconfirmed(nodes, room)}"
    short = _short(need, room.free)
    return "; ".join((f"needs {_asked(need, short)}", _free(nodes, short, room), _who_ends_on(nodes, room)))


def who_ends(there: Sequence[Holder], room: Room) -> str:
    """Return which of some jobs are to end next, and when."""
    if not there:
        return ""
    known = [(at, holder) for holder in there if (at := room.ends.get(holder.job_id)) is not None]
    if not known:
        first = min(there, key=lambda holder: (holder.placed_at, holder.job_id))
        return f"when job {first.job_id} {_where(first, room)}ends is not known yet"
    known.sort(key=lambda end: (end[0], end[1].job_id))
    return "; ".join(_ends(holder, at, room) for at, holder in known[:_ENDS_NAMED])


def nodes_for(need: Need, room: Room) -> str:
    """Return the nodes that have room for a worker now."""
    one = replace(need, workers=1)
    return _nodes([node_id for node_id, free in room.free.items() if free.fits(one)], room)


def about(seconds: float) -> str:
    """Return a time to come in one unit, as exactly as an estimate is."""
    if seconds <= _MINUTE_S:
        return f"{max(10, ceil(seconds / 10) * 10)} s"
    if seconds < 2 * _HOUR_S:
        return f"{ceil(seconds / _MINUTE_S)} min"
    return f"{ceil(seconds / _HOUR_S)} h" if seconds < 2 * _DAY_S else f"{ceil(seconds / _DAY_S)} days"


def _short(need: Need, free: Mapping[str, Free]) -> list[_Kind]:
    """Return what is short: that without which the job would fit; where it takes more than one, all that is asked."""
    asked = [kind for kind in _KINDS if kind.asked(need)]
    alone = [kind for kind in asked if spread(kind.without(need), free) is not None]
    return alone or [kind for kind in asked if spread(_only(kind, need), free) is None] or asked


def _only(kind: _Kind, need: Need) -> Need:
    for other in _KINDS:
        if other is not kind:
            need = other.without(need)
    return need


def _asked(need: Need, kinds: Iterable[_Kind]) -> str:
    workers = f"{need.workers} workers of " if need.workers > 1 else ""
    of_type = f" on a node of type {need.accelerator_type}" if need.accelerator_type else ""
    return f"{workers}{' and '.join(kind.need(need) for kind in kinds)}{of_type}"


def _free(nodes: Sequence[str], kinds: Sequence[_Kind], room: Room) -> str:
    """Return what is free of these kinds on the nodes that could hold a worker, the most first."""
    amounts = {node_id: tuple(kind.amount(room.free[node_id]) for kind in kinds) for node_id in nodes}
    some = sorted(
        (node_id for node_id in nodes if any(amount > 0 for amount in amounts[node_id])), key=room.names.__getitem__
    )
    some.sort(key=lambda node_id: amounts[node_id], reverse=True)
    if not some:
        return f"nothing of that is free on {_nodes(nodes, room)}"
    told = [f"{_amount(kinds, room.free[node_id])} on {room.names[node_id]}" for node_id in some[:_NAMED]]
    left = len(some) - _NAMED
    return f"free are {_listed([*told, f'not more on {left} other nodes'] if left > 0 else told)}"


def _amount(kinds: Sequence[_Kind], free: Free) -> str:
    if kinds == [_MEMORY]:
        return f"{_MEMORY.free(free)} GiB"
    return kinds[0].free(free) if len(kinds) == 1 else " with ".join(f"{kind.free(free)}{kind.unit}" for kind in kinds)


def _devices(devices: Iterable[int]) -> str:
    """Return what is free of each device, such as `2 and 0.4`: two whole ones, and a part of a third."""
    counts = Counter(device for device in devices if device)
    whole = counts.pop(WHOLE, 0)
    told = [f"{whole}"] if whole else []
    for amount, count in sorted(counts.items(), reverse=True):
        each = f"{amount / WHOLE:g}"
        told += [each] * count if count <= _NAMED else [f"{each} on each of {count} devices"]
    return " and ".join(told) or "0"


def _unconfirmed(nodes: Sequence[str], room: Room) -> str:
    told = _listed([f"{_devices(room.free[node_id].devices)} on {room.names[node_id]}" for node_id in nodes[:_NAMED]])
    new = [
        f"job {holder.job_id}"
        for holder in room.holders
        if any(share.node_id in nodes and share.gpu_thousandths and share.device is None for share in holder.shares)
    ]
    who = _listed(new[:_NAMED]) + (f" and {len(new) - _NAMED} more" if len(new) > _NAMED else "")
    return f"free may be {told}, but Ray has not told yet which devices {who or 'others on the cluster'} got there"


def _who_ends_on(nodes: Collection[str], room: Room) -> str:
    there = [holder for holder in room.holders if any(share.node_id in nodes for share in holder.shares)]
    return who_ends(there, room) if there else "the rest is in use by others on the cluster"


def _ends(holder: Holder, at: float, room: Room) -> str:
    who = f"job {holder.job_id} {_where(holder, room)}".rstrip()
    left_s = at - room.now
    if holder.ends:
        return f"{who} gives its share back" + (f" within {about(left_s)}" if left_s > 0 else " now")
    return f"{who} is expected to end " + (f"in about {about(left_s)}" if left_s > 0 else "any moment")


def _where(holder: Holder, room: Room) -> str:
    there = dict.fromkeys(share.node_id for share in holder.shares if share.node_id in room.idle)
    return f"on {_nodes([node_id for node_id in there if node_id is not None], room)} " if there else ""


def _nodes(nodes: Sequence[str], room: Room) -> str:
    names = [room.names[node_id] for node_id in nodes[:_NAMED]]
    left = len(nodes) - _NAMED
    return _listed([*names, f"{left} other nodes"] if left > 0 else names)


def _listed(told: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(told[:-1]), *told[-1:])))
