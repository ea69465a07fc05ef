"""A process that stops in the middle of opening the log at a URL, with all that opening locks; it may be continued."""

import os
import signal
import sys

from sqlalchemy import Connection, make_url

from ftactors.core.errors import LogRefusedError
from ftactors.log.postgresql import PostgresqlStorage
from ftactors.log.rows import Head


class Stopping(PostgresqlStorage):
    """Stops before it commits that the log is its own."""

    def _take(self, connection: Connection) -> Head:
        taken = super()._take(connection)
        print("stopping", flush=True)  # noqa: T201
        os.kill(os.getpid(), signal.SIGSTOP)
        return taken


if __name__ == "__main__":
    try:
        Stopping(make_url(sys.argv[1])).open()
    except LogRefusedError as error:
        print(error, flush=True)  # noqa: T201
