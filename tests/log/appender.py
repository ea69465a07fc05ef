"""A process that appends to the log at a path, and prints each seq that is durable, until it is killed."""

import asyncio
import sys

from ftactors.log.sqlite import SqliteStorage
from tests.log.examples import Owner, progress


async def client(owner: Owner, number: int) -> None:
    while True:
        seq = owner.record(progress(f"j{number}", owner.log.seq + 1))
        await owner.log.durable(seq)
        print(seq, flush=True)  # noqa: T201


async def main(path: str, clients: int) -> None:
    owner = Owner(SqliteStorage(path))
    await asyncio.gather(*(client(owner, number) for number in range(clients)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
