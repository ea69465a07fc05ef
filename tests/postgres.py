"""A PostgreSQL server of the tests' own: on a free port of the loopback, in a temporary directory, gone at the end."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

USER, PASSWORD = "ada", "no secret, for a server of tests"
SETTINGS = {
    "listen_addresses": "'127.0.0.1'",
    "unix_socket_directories": "''",
    "fsync": "on",  # what the log asks for, said here because it is what the tests are about
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "40",
    "shared_buffers": "'16MB'",
    "log_min_messages": "error",
}


class PostgresServer:
    """A running server; `fresh` makes a database on it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = count(1)
        self._emptied: list[str] = []
        self._ours = _another_user(directory)
        self.port = 0
        password_file = directory / "password"
        password_file.write_text(PASSWORD)
        self._run(
            "initdb", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256",
            f"--username={USER}", f"--pwfile={password_file}",
        )  # fmt: skip
        with (directory / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in SETTINGS.items())

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Have a process wait for the end of this block, or of this process, then stop the server and clean up."""
        script = 'read _; "$0" stop --wait --mode=immediate --pgdata="$1/data"; rm -rf "$1"'
        command = ["sh", "-c", script, _found("pg_ctl"), self._directory]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **quiet, **self._ours):
            yield  # to leave closes its standard input, and waits

    def start(self) -> None:
        """Start the server, on the port that it had, or on a free one at first; return when it answers."""
        self.port = self.port or _free_port()
        self._run("pg_ctl", "start", "--wait", f"--options=-p {self.port}", f"--log={self._directory / 'log'}")

    def stop(self, *, mode: str = "fast") -> None:
        """Stop the server; `immediate` is its crash."""
        self._run("pg_ctl", "stop", "--wait", f"--mode={mode}")

    def url(self, database: str) -> str:
        """Return the URL of a database as `log_url` takes it."""
        return f"postgresql+psycopg://{USER}:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres", **settings: Any) -> psycopg.Connection:
        """Return a connection to a database that commits each statement, as its superuser."""
        address: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "user": USER, "password": PASSWORD}
        return psycopg.connect(**address, dbname=database, autocommit=True, **settings)

    def admin(self, *statements: str) -> None:
        """Execute statements in the database that every server has."""
        with self.connect() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    @contextmanager
    def database(self, options: str) -> Iterator[str]:
        """Give the name of a new database, made with options; it is dropped in the end, whoever still uses it."""
        name = f"log{next(self._numbers)}"
        self.admin(f"CREATE DATABASE {name} {options}")
        yield name
        self.admin(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """Give the name of an empty database: one that was used before and emptied, for to make one takes a while."""
        if not self._emptied:
            self._emptied.append(f"log{next(self._numbers)}")
            self.admin(f"CREATE DATABASE {self._emptied[-1]}")
        name = self._emptied.pop()
        yield name
        others = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() "
        with self.connect(name) as connection:
            connection.execute(f"{others} AND pid <> pg_backend_pid()".encode())
            connection.execute("DROP SCHEMA IF EXISTS ftactors CASCADE")
        self._emptied.append(name)

    @contextmanager
    def configured(self, **settings: str) -> Iterator[None]:
        """Run with other settings of the whole server for a while."""
        before = self._settings(settings)
        self._configure(settings, *(f"ALTER SYSTEM SET {name} = {value}" for name, value in settings.items()))
        try:
            yield
        finally:
            self._configure(before, *(f"ALTER SYSTEM RESET {name}" for name in settings))

    @contextmanager
    def as_standby(self) -> Iterator[None]:
        """Run as a standby for a while, one whose primary is gone."""
        signal = self._directory / "data" / "standby.signal"
        self.stop()
        signal.touch()
        self.start()
        try:
            yield
        finally:
            self.stop()
            signal.unlink()
            self.start()

    def _configure(self, settings: Mapping[str, str], *statements: str) -> None:
        self.admin(*statements, "SELECT pg_reload_conf()")
        deadline = time.monotonic() + 30
        while self._settings(settings) != settings:
            assert time.monotonic() < deadline, f"the server has not taken {settings} over"

    def _settings(self, names: Iterable[str]) -> dict[str, str]:
        with self.connect() as connection:
            return {name: connection.execute(f"SHOW {name}".encode()).fetchone()[0] for name in names}

    def _run(self, program: str, *arguments: str) -> None:
        command = [_found(program), f"--pgdata={self._directory / 'data'}", *arguments]
        log = self._directory / "out"
        with log.open("wb") as out:  # a file, for a pipe would stay open as long as the server lives
            ended = subprocess.run(command, stdout=out, stderr=out, check=False, cwd=self._directory, **self._ours)
        assert ended.returncode == 0, f"{' '.join(command)}:\n{log.read_text()}"


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """Start a server, and stop it in the end, also when this process is killed meanwhile."""
    server = PostgresServer(Path(tempfile.mkdtemp(prefix="ft-pg-")))
    with server.watched():
        server.start()
        yield server


def _found(program: str) -> str:
    """Return the path of one of PostgreSQL's programs; Debian keeps them out of PATH, the newest version last."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda path: int(path.parts[-3]))
    path = shutil.which(program) or next(map(str, reversed(debian)), None)
    assert path is not None, (
        f"{program} is not installed, and these tests need a PostgreSQL: apt-get install postgresql"
    )
    return path


def _another_user(directory: Path) -> dict[str, Any]:
    """Return the arguments by which a subprocess runs as another user if we are root, which no server runs as."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            os.chown(directory, user.pw_uid, user.pw_gid)
            directory.chmod(0o711)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise AssertionError("PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run it as")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
