"""How a trainer actor starts its child: forked from the node's template where that works, else spawned."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from pathlib import Path

from ftactors.core.work import Work
from ftactors.runtime.forked import ForkedChild, TemplateOf, fork
from ftactors.runtime.forking import Fork, TemplateError, built_with
from ftactors.runtime.spawn import Started, environment_for, log_of, search_path, spawn

PATIENCE_S = 60.0
"""How long a template may take to get warm, and to answer; two that import the same at once take longer.

While a child that was killed on the device is dying it has no limit: nothing else must start there either.
"""
_RETRY_S = 0.2


async def start(work: Work, *, threads: int, devices: tuple[str, ...], template: TemplateOf) -> Started:
    """Return a new process that waits to be told its work. Cancelled, it leaves none.

    Args:
        work: What it will be told.
        threads: How many threads each of its numeric libraries may use.
        devices: What it holds.
        template: Finds the node's template.

    Raises:
        OSError: the attempt's directory cannot be made, or no process be started.
    """
    log = log_of(work)
    log.parent.mkdir(parents=True, exist_ok=True)
    asked = Fork(
        environment=environment_for(work, threads),
        search_path=search_path(),
        directory=str(log.parent),
        threads=threads,
        devices=list(devices),
        model_type=await asyncio.to_thread(model_type_of, work),
        asker=os.getpid(),
        built_with=built_with(),
    )
    try:
        return await _forked(work, asked, template)
    except (TemplateError, OSError, ValueError) as error:
        why = str(error) or f"no template was ready within {PATIENCE_S:g} s"
        _note(log, f"this process starts slowly, for it was not forked from a warm one: {why}")
    return spawn(work, threads)


def model_type_of(work: Work) -> str | None:
    """Return the architecture of the model that is trained, as its directory or the hub's cache says; None: unknown."""
    ref = work.base
    while ref.kind == "adapter" and ref.base is not None:
        ref = ref.base
    places = [Path(ref.path)]
    if ref.source == "hub" and ref.revision is not None:
        home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
        cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
        places = [cache / f"models--{ref.path.replace('/', '--')}" / "snapshots" / ref.revision]
    for place in places:
        with suppress(OSError, ValueError, AttributeError):
            found = json.loads((place / "config.json").read_text()).get("model_type")
            return found if isinstance(found, str) else None
    return None


async def _forked(work: Work, asked: Fork, template: TemplateOf) -> ForkedChild:
    async with asyncio.timeout(PATIENCE_S) as patience:

        def wait_for(pids: list[int]) -> None:
            patience.reschedule(None)
            which = ", ".join(str(pid) for pid in pids)
            with suppress(OSError):
                _note(log_of(work), f"waits for the process {which} on its device to end")

        while True:
            name = await template()
            try:
                return await fork(name, work, asked, template, wait_for)
            except ConnectionError:  # it died, and another is on its way
                if patience.when() is None:
                    patience.reschedule(asyncio.get_running_loop().time() + PATIENCE_S)
                await asyncio.sleep(_RETRY_S)


def _note(log: Path, what: str) -> None:
    with log.open("a") as file:
        file.write(f"{what}\n")
