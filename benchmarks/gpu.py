"""What a share of a GPU is worth: `python -m benchmarks.gpu` prints a table, where there is a CUDA device.

A job that allocates beyond its share fails alone; two jobs on halves of a device train as many tokens as one after the
other would; a child that a warm template forks trains sooner than the first one. It takes some minutes; `--quick` shows
only that all of it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.local_ray import local_ray
from benchmarks.table import Line, table


def main() -> None:
    """Print the table, or why there is none."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    options.add_argument("--part", choices=("caps", "sharing", "starts"), action="append", help="measure only this")
    options.add_argument("--quick", action="store_true", help="take seconds, and mean nothing")
    chosen = options.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"this benchmark needs a CUDA device, and torch {torch.__version__} sees none here")
    from benchmarks.gpu_parts import PARTS, QUICK, Sizes

    sizes = QUICK if chosen.quick else Sizes()
    device = torch.cuda.get_device_properties(0)
    print(f"{device.name} with {device.total_memory / 2**30:.1f} GiB; torch {torch.__version__}\n", flush=True)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="ft-gpu-") as temporary, local_ray(cpus=8, gpus=1):
        for part in chosen.part or PARTS:
            directory = Path(temporary) / part
            directory.mkdir()
            lines += asyncio.run(PARTS[part](directory, sizes))
    print(table(lines))


if __name__ == "__main__":
    main()
