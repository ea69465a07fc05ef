"""A model hub on this machine: as much of its HTTP interface as a download asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(repositories: Path) -> Iterator[str]:
    """Serve each `OWNER/NAME` directory as a repository with one commit; yield the endpoint."""

    class Handler(_Hub):
        root = repositories

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def use_hub(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's library talk to this endpoint."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


class _Hub(BaseHTTPRequestHandler):
    root: Path

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self._answer(with_body=False)

    def do_GET(self) -> None:
        """Answer with a body."""
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        match urlsplit(self.path).path.strip("/").split("/"):
            case ["api", "models", owner, name, "revision", _] if (self.root / owner / name).is_dir():
                self._send(self._json({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": []}), with_body=with_body)
            case ["api", "models", owner, name, "tree", _]:
                self._send(self._json([_entry(path) for path in self._files(owner, name)]), with_body=with_body)
            case [owner, name, "resolve", _, file] if (self.root / owner / name / file).is_file():
                self._send((self.root / owner / name / file).read_bytes(), with_body=with_body)
            case [""]:
                self._send(b"", with_body=with_body)
            case _:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

    def _files(self, owner: str, name: str) -> list[Path]:
        return sorted((self.root / owner / name).iterdir())

    @staticmethod
    def _json(value: object) -> bytes:
        return json.dumps(value).encode()

    def _send(self, body: bytes, *, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{_digest(body)}"')
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _entry(path: Path) -> dict[str, object]:
    return {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": _digest(path.read_bytes())}


def _digest(body: bytes) -> str:
    return sha1(body, usedforsecurity=False).hexdigest()
