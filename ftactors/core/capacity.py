"""What is free on a node: devices as bins of 1,000 thousandths, CPUs and memory as sums.

Ray chooses the device of a share itself, and says which one only once the process is up. Until then the share is
unsettled, and only what finds a device wherever the unsettled ones end up may be placed beside it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ftactors.core.needs import WHOLE, Need
from ftactors.core.seen import Node

ROUNDING = 1e-6
"""Sums of CPUs and GiB are equal if they differ by less."""
_MOST_WORLDS = 256
"""So many ways in which shares may have come to lie are looked through; where there are more, nothing is certain."""


@dataclass(frozen=True, slots=True)
class Free:
    """What is free on a node."""

    node: Node
    settled: tuple[int, ...]
    """Free thousandths of each device before the unsettled shares are taken, ascending."""
    unsettled: tuple[int, ...]
    """Shares of which the device is not known, ascending."""
    cpus: float
    mem_gib: float
    roaming_cpus: float = 0.0
    """What preparations hold that come up here or on another node."""

    @property
    def devices(self) -> tuple[int, ...]:
        """The free thousandths of each device, ascending, if Ray puts the unsettled shares where they fit best."""
        return best_fit(self.settled, self.unsettled) if self.unsettled else self.settled

    def fits(self, need: Need) -> bool:
        """Return whether one worker fits, wherever the unsettled shares are."""
        return self.room(need, 1) > 0

    def room(self, need: Need, most: int) -> int:
        """Return how many workers fit, wherever the unsettled shares are, if more than `most` do not count."""
        share = need.gpu_thousandths
        if share and not (self.settled and self.settled[-1] >= share):  # first, for on a full cluster that is most
            return 0
        if need.accelerator_type is not None and need.accelerator_type != self.node.accelerator_type:
            return 0
        if need.cpus > 0:
            most = min(most, int((self.cpus - self.roaming_cpus + ROUNDING) / need.cpus))
        if need.mem_gib > 0:
            most = min(most, int((self.mem_gib + ROUNDING) / need.mem_gib))
        if share and most > 0:
            most = self._devices_for(share, most)
        return max(0, most)

    def taking(self, need: Need, workers: int) -> Free:
        """Return what is left when workers that Ray has yet to give a device are placed here."""
        shares = (need.gpu_thousandths,) * workers if need.gpu_thousandths else ()
        return Free(
            self.node,
            self.settled,
            tuple(sorted((*self.unsettled, *shares))) if shares else self.unsettled,
            self.cpus - workers * need.cpus,
            self.mem_gib - workers * need.mem_gib,
            self.roaming_cpus,
        )

    def hoped(self) -> Free:
        """Return the same with each unsettled share where it fits best."""
        if not self.unsettled:
            return self
        return Free(self.node, self.devices, (), self.cpus, self.mem_gib, self.roaming_cpus)

    def _devices_for(self, share: int, most: int) -> int:
        most = min(most, _count(self.settled, share))
        if self.unsettled:
            while most > 0 and not settles(self.settled, tuple(sorted((*self.unsettled, *(share,) * most)))):
                most -= 1
        return most


def bare(node: Node) -> Free:
    """Return what is free on a node when nothing runs there."""
    return Free(node, (WHOLE,) * node.gpus, (), node.cpus, node.mem_gib)


@lru_cache(maxsize=1 << 14)
def best_fit(free: tuple[int, ...], shares: tuple[int, ...]) -> tuple[int, ...]:
    """Return what is left of devices, ascending, when each share takes the fullest one that has room.

    A share for which none has room takes all of the emptiest.
    """
    left = list(free)
    for share in sorted(shares, reverse=True):
        if not left:
            break
        where = min(bisect_left(left, share), len(left) - 1)
        insort(left, max(0, left.pop(where) - share))
    return tuple(left)


@lru_cache(maxsize=1 << 16)
def settles(free: tuple[int, ...], shares: tuple[int, ...]) -> bool:
    """Return whether each share finds a device, in whatever order they come and on whatever device each is put.

    Args:
        free: Free thousandths of each device, ascending.
        shares: Ascending.
    """
    worlds = [(free, shares)]
    known = set(worlds)
    while worlds:
        left, waiting = worlds.pop()
        if _never_blocked(left, waiting):
            continue
        if not left or waiting[-1] > left[-1]:
            return False
        for world in _next_worlds(left, waiting):
            if world not in known:
                known.add(world)
                worlds.append(world)
        if len(known) > _MOST_WORLDS:
            return False
    return True


def _never_blocked(free: tuple[int, ...], shares: tuple[int, ...]) -> bool:
    """Return whether it is plain that no share can be blocked by the others."""
    if not shares:
        return True
    if shares[0] == shares[-1]:  # it is the same where they go
        return _count(free, shares[0]) >= len(shares)
    return all(_finds_device(free, shares, share) for share in set(shares))


def _finds_device(free: tuple[int, ...], shares: tuple[int, ...], share: int) -> bool:
    """Return whether it is plain that the others cannot take the room for a share on all devices that have it.

    On each of them they would have to take so much that less than the share is left: at least `least`. One that is as
    large as that does it alone, but on one device only; the smaller ones must add up.
    """
    roomy = free[bisect_left(free, share) :]
    if not roomy:
        return False
    least = roomy[0] - share + 1
    first_large = bisect_left(shares, least)
    large, small = len(shares) - first_large, sum(shares[:first_large])
    if share >= least:
        large -= 1
    else:
        small -= share
    return large + small // least < len(roomy)


def _next_worlds(free: tuple[int, ...], shares: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield what one more share may lead to; last, the smallest on the emptiest device, which blocks the most."""
    for share in sorted(set(shares), reverse=True):
        rest = list(shares)
        rest.remove(share)
        for device in sorted(set(free[bisect_left(free, share) :])):
            left = list(free)
            left.remove(device)
            insort(left, device - share)
            yield tuple(left), tuple(rest)


def _count(free: tuple[int, ...], share: int) -> int:
    return sum(device // share for device in free)
