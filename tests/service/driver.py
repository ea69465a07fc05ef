"""A driver in a process of its own: `python -m tests.service.driver SETTINGS.json [JOB.json]`.

Submits the job, or else takes the newest one, and prints its statuses as lines of JSON until it ends. Then it detaches
from a service that it has joined, and stops one of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from ftactors import LLMFineTuningService, LLMModelManager


async def main(settings: str, job: str | None = None) -> None:
    asked = json.loads(Path(settings).read_text())
    service = LLMFineTuningService(LLMModelManager(asked.pop("models")), asked)
    await service.start()
    if job:
        status = await service.submit_fine_tuning_job(job)
    else:
        status = (await service.list_fine_tuning_jobs())[0]
    async for seen in service.watch_job(status.job_id):
        print(seen.model_dump_json(), flush=True)  # noqa: T201 - its way to the test
    if not job:
        events = await service.list_job_events(status.job_id)
        kinds = [event.event.type for event in events]
        placed = [event.event for event in events if event.event.type == "attempt_placed"]
        resumed = [event.resume_from.step if event.resume_from else None for event in placed]
        print(json.dumps({"events": kinds, "resumed": resumed}), flush=True)  # noqa: T201
    await service.stop(force=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
