"""How the ranks of an attempt come together, at the address that the first one's trainer actor keeps free."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # the stub does not re-export it

from ftactors.core.errors import RankLostError
from ftactors.core.work import Work
from trainers import links
from trainers.ranks import ALONE, Ranks

_MEET_WITHIN = timedelta(minutes=10)
_EXCHANGE_WITHIN = timedelta(days=1)  # a gang that hangs is ended by its scheduler: stall_timeout_seconds


def meet(work: Work) -> Ranks:
    """Return the ranks of an attempt, once all are there; torch.distributed is ready then.

    Each rank has a machine's device 0 to itself, as far as it can see. Ranks that share one device exchange gradients
    by gloo, for NCCL refuses that.

    Raises:
        RankLostError: somebody did not come.
    """
    if work.world_size == 1 or work.rendezvous is None:
        return ALONE
    host, _, port = work.rendezvous.rpartition(":")
    os.environ.update(_environment(work, host, port))
    try:
        store = TCPStore(host, int(port), work.world_size, is_master=work.rank == 0, timeout=_MEET_WITHIN)
        backend = _backend(work, store)
        dist.init_process_group(
            f"cpu:gloo,cuda:{backend}" if work.uses_gpu else backend,
            store=store,
            rank=work.rank,
            world_size=work.world_size,
            timeout=_EXCHANGE_WITHIN,
        )
        link = links.connect(store, work.rank, host) if work.rank else links.listen(store, work.world_size, host)
    except (RuntimeError, OSError) as error:
        raise RankLostError(
            f"the {work.world_size} ranks did not meet at {work.rendezvous}, as rank {work.rank} sees it: {error}",
            hint="every node must reach every other one at any port; GLOO_SOCKET_IFNAME names the interface to use",
        ) from error
    return Ranks(work.rank, work.world_size, backend, link)


def _environment(work: Work, host: str, port: str) -> dict[str, str]:
    """Return what torch.distributed, and what is built on it, reads of the environment."""
    interface = _interface(host, int(port))
    chosen = {} if interface is None else {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}
    return {name: value for name, value in chosen.items() if name not in os.environ} | {
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
        "RANK": str(work.rank),
        "WORLD_SIZE": str(work.world_size),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
    }


def _interface(host: str, port: int) -> str | None:
    """Return the network interface that this machine reaches a host through; None where it has no name.

    Left alone, gloo takes the one that this machine's name stands for: often the loopback.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:  # connecting it sends nothing
        probe.connect(address)
        own = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address.partition("%")[0] == own for known in addresses):
            return str(name)
    return None


def _backend(work: Work, store: TCPStore) -> str:
    """Return what exchanges gradients: nccl where each rank has a GPU of its own."""
    if not work.uses_gpu:
        return "gloo"
    store.set(f"ftactors/device/{work.rank}", str(torch.cuda.get_device_properties(0).uuid))
    devices = [store.get(f"ftactors/device/{rank}") for rank in range(work.world_size)]
    return "nccl" if len(set(devices)) == len(devices) else "gloo"
