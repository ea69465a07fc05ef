"""Who makes room for a job of higher priority."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from ftactors.core.capacity import Free
from ftactors.core.needs import Need
from ftactors.core.occupancy import Holder, Occupancy
from ftactors.core.placement import fits, spread


def victims_for(
    need: Need, priority: int, holders: Sequence[Holder], occupancy: Occupancy, training: int
) -> Sequence[Holder]:
    """Return those who give their share back so that a job fits; nobody where it fits anyway, or not even so.

    The least important ones, and of those the latest placed; none whose room is not needed.

    Args:
        need: What the job needs.
        priority: Its priority; those of a lower one are asked, where they are preemptible.
        holders: The jobs that hold something.
        occupancy: What they leave free.
        training: How many jobs may hold a training share at once.
    """
    ending = [holder for holder in holders if holder.ends]
    able = [
        holder
        for holder in holders
        if holder.preemptible and not holder.ends and holder.purpose == "train" and holder.priority < priority
    ]
    if not able:
        return []
    able.sort(key=lambda holder: (holder.priority, -holder.placed_at, holder.job_id))
    train_now = sum(holder.purpose == "train" for holder in holders)

    def left_without(victims: Sequence[Holder]) -> dict[str, Free]:
        return occupancy.likely_without({holder.job_id for holder in (*ending, *victims)})

    def enough(victims: Sequence[Holder]) -> bool:
        train_then = train_now - sum(holder.purpose == "train" for holder in (*ending, *victims))
        return train_then < training and fits(need, left_without(victims))

    if enough([]) or not enough(able):
        return []
    victims = able[: bisect_left(range(len(able)), True, key=lambda number: enough(able[:number]))]
    nodes = {node_id for node_id, _ in spread(need, left_without(victims)) or ()}
    if any(map(occupancy.cluster.settles, nodes)):  # what others use there is seen in the next look
        return []
    there = [victim for victim in victims if victim.nodes & nodes]
    victims = there if enough(there) else victims
    for spared in reversed(victims):
        without = [victim for victim in victims if victim is not spared]
        victims = without if enough(without) else victims
    return victims
