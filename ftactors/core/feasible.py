"""What a cluster can never place, said at submit: which field asks for too much, and what would be possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ftactors.core.config import ResourceConfig
from ftactors.core.errors import ConfigProblem
from ftactors.core.needs import WHOLE, Need
from ftactors.core.placement import could_ever_fit
from ftactors.core.problems import value_of
from ftactors.core.seen import Node, Seen

_NAMED = 3
"""So many nodes are named, the largest first."""
_FIELD = "resources"


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What a submit must know of the cluster, whatever others use of it now."""

    up: tuple[Node, ...]
    could_add: tuple[Node, ...] = ()
    """Nodes that the cluster's autoscaler could bring."""

    @classmethod
    def of(cls, seen: Seen) -> ClusterFacts:
        """Return the facts that a look shows; they are the same however much is free."""
        up = [node for node in seen.nodes.values() if node.state == "up"]
        return cls(
            tuple(replace(node, free_gpu_thousandths=0, free_cpus=0.0, free_mem_gib=0.0) for node in up),
            seen.could_add,
        )

    @property
    def nodes(self) -> int:
        """How many nodes are up."""
        return len(self.up)

    @property
    def gpus(self) -> int:
        """How many GPUs the nodes have that are up."""
        return sum(node.gpus for node in self.up)

    @property
    def cpus(self) -> float:
        """How many CPUs the nodes have that are up, all together."""
        return sum(node.cpus for node in self.up)

    @property
    def most_cpus(self) -> float:
        """How many CPUs a worker can have: those of the largest node that is up."""
        return max((node.cpus for node in self.up), default=0.0)

    @property
    def could_have(self) -> tuple[Node, ...]:
        """The nodes that are up, and those that could come."""
        return self.up + self.could_add

    @property
    def could_have_gpus(self) -> bool:
        """Whether a node that is up or could come has a GPU."""
        return any(node.gpus for node in self.could_have)

    def could_hold(self, need: Need) -> bool:
        """Return whether all workers fit when nothing else runs on the nodes."""
        idle = {f"{number}": replace(node, node_id=f"{number}") for number, node in enumerate(self.could_have)}
        return could_ever_fit(need, Seen(complete=True, nodes=idle))


def why_never(asked: ResourceConfig, resolved: ResourceConfig, cluster: ClusterFacts) -> list[ConfigProblem]:
    """Return what a job asks for that no node could ever hold, by field; nothing where it could be placed.

    Args:
        asked: The resources as they were asked for.
        resolved: The same with a device chosen where none was asked for.
        cluster: What there is, and what could come.
    """
    need = Need(
        workers=resolved.num_workers,
        gpu_thousandths=round((resolved.num_gpus or 0) * WHOLE),
        cpus=resolved.num_cpus,
        mem_gib=resolved.memory_gib or 0.0,
        accelerator_type=resolved.accelerator_type,
    )
    if cluster.could_hold(need):
        return []
    return [*_kinds_that_are_not_there(asked, need, cluster)] or [*_too_much(asked, need, cluster)]


def _kinds_that_are_not_there(asked: ResourceConfig, need: Need, cluster: ClusterFacts) -> Iterator[ConfigProblem]:
    gone = "the cluster has no GPUs"
    if need.gpu_thousandths and not cluster.could_have_gpus:
        possible = "ask for 0, or leave it out to train on CPUs"
        yield _problem("num_gpus", f"cannot be had: {gone}; {possible}", asked.num_gpus)
    if need.accelerator_type is None:
        return
    types = sorted({node.accelerator_type for node in cluster.could_have if node.accelerator_type})
    if need.accelerator_type not in types:
        lacks = f"no node has it; there are {', '.join(types)}" if types else "no node has any"
        told, possible = (lacks, "") if cluster.could_have_gpus else (gone, " to train on CPUs")
        yield _problem("accelerator_type", f"cannot be had: {told}; leave it out{possible}", asked.accelerator_type)


def _too_much(asked: ResourceConfig, need: Need, cluster: ClusterFacts) -> Iterator[ConfigProblem]:
    """Yield each amount that is too large by itself; else that they are not had together, or not so often."""
    one = replace(need, workers=1)
    if cluster.could_hold(one):
        yield _too_many_workers(asked, need, cluster)
        return
    alone: list[ConfigProblem] = []
    of_type = [node for node in cluster.could_have if need.accelerator_type in {None, node.accelerator_type}]
    has = f"the cluster has {_described(of_type)}"
    most_cpus, most_gib = (max((amount(node) for node in of_type), default=0.0) for amount in (_cpus, _gib))
    if need.cpus > most_cpus:
        message = f"no node has so many: {has}; ask for at most {most_cpus:g}"
        alone.append(_problem("num_cpus", message, asked.num_cpus))
    if need.mem_gib > most_gib:
        message = f"no node has so much: {has}; ask for at most {_down(most_gib):g}"
        alone.append(_problem("memory_gib", message, asked.memory_gib))
    if not alone:
        message = f"no node has {one} at once: {has}; ask for what one of them has"
        if asked.num_gpus is None and need.gpu_thousandths:
            message += ", or for num_gpus=0 to train on CPUs"
        alone.append(ConfigProblem(_FIELD, message, value_of(_asked(asked))))
    yield from alone


def _too_many_workers(asked: ResourceConfig, need: Need, cluster: ClusterFacts) -> ConfigProblem:
    most = _largest(need.workers, lambda workers: cluster.could_hold(replace(need, workers=workers)))
    one = replace(need, workers=1)
    has = _described([node for node in cluster.could_have if need.accelerator_type in {None, node.accelerator_type}])
    message = f"so many workers of {one} do not fit: the cluster has {has}; ask for at most {most}"
    return _problem("num_workers", message, asked.num_workers)


def _largest(above: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number below `above` that fits, where 1 does."""
    low = 1
    while above - low > 1:
        middle = (low + above) // 2
        low, above = (middle, above) if fits(middle) else (low, middle)
    return low


def _described(nodes: list[Node]) -> str:
    """Return what nodes have, the largest first; those alike together."""
    kinds: dict[str, list[Node]] = {}
    for node in sorted(nodes, key=lambda node: (-node.gpus, -node.cpus, -node.mem_gib)):
        kinds.setdefault(_size(node), []).append(node)
    told = [f"{_named(alike)} with {size}" for size, alike in [*kinds.items()][:_NAMED]]
    left = sum(len(alike) for alike in [*kinds.values()][_NAMED:])
    more = f", and {left} smaller nodes" if left else ""
    return (", ".join(told) or "no node that is up") + more


def _named(alike: list[Node]) -> str:
    return f"{len(alike)} nodes each" if len(alike) > 1 else f"node {alike[0].name or alike[0].node_id}"


def _size(node: Node) -> str:
    of_type = f" of type {node.accelerator_type}" if node.accelerator_type else ""
    gpus = f"{node.gpus} GPU{of_type}, " if node.gpus else ""
    return f"{gpus}{node.cpus:g} CPU and {_down(node.mem_gib):g} GiB"


def _cpus(node: Node) -> float:
    return node.cpus


def _gib(node: Node) -> float:
    return node.mem_gib


def _down(gib: float) -> float:
    """Return the amount in tenths, so that as much as is told can be had."""
    return int(gib * 10) / 10


def _problem(name: str, message: str, asked: object) -> ConfigProblem:
    return ConfigProblem(f"{_FIELD}.{name}", message, None if asked is None else value_of(asked))


def _asked(resources: ResourceConfig) -> dict[str, object]:
    return resources.model_dump(exclude_none=True, exclude_defaults=True)
