"""The driver's side of the scheduler actor: find it or make it, ask it, and wait out its restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from pathlib import Path
from typing import Any

import ray
from ray._private import worker as ray_worker  # the only place that decides where Ray's messages go
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError

import ftactors
from ftactors.core.errors import (
    FtactorsError,
    LogError,
    LogRefusedError,
    ServiceUnavailableError,
    VersionMismatchError,
)
from ftactors.core.service_config import ServiceConfig
from ftactors.runtime.actor import NAME, SchedulerActor, is_served
from ftactors.runtime.desk import Hello

_LOG = logging.getLogger(__name__)
_PATIENCE_S = 60.0
"""How long a scheduler that restarts is waited for."""
_RETRY_S = 0.2
_DEATH_S = 10.0
_ANSWER_S = 5.0
_HEAD: dict[str, float] = {"node:__internal_head__": 0.001}


def connect_to_ray(address: str | None, namespace: str) -> bool:
    """Join a cluster or start a local one, unless this process is connected; return whether one was started.

    Args:
        address: `local`, `auto`, an address, or None: the running cluster if there is one, else a local one.
        namespace: The namespace of actors.
    """
    if ray.is_initialized() or (address != "local" and join_ray(address, namespace)):
        return False
    if address not in (None, "local"):
        raise ServiceUnavailableError(
            f"no Ray cluster answers at {address!r}; start one with `ray start --head`, "
            "or use ray_address='local' for one of this driver's own"
        )
    ray.init(address="local", **_options(namespace))
    log_messages_of_ray()
    return True


def join_ray(address: str | None, namespace: str) -> bool:
    """Join a running cluster, unless this process is connected; return whether there is one.

    Args:
        address: `auto`, an address, or None: any that runs on this machine.
        namespace: The namespace of actors.
    """
    if not ray.is_initialized():
        if not _answers(address):  # Ray itself would try for minutes, and then end this process
            return False
        try:
            ray.init(address=address or "auto", **_options(namespace))
        except ConnectionError:
            return False
        log_messages_of_ray()
    return True


def _answers(address: str | None) -> bool:
    """Return False where the address is a host and a port, and nothing listens there."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return True
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except OSError:
        return False
    return True


def log_messages_of_ray() -> None:
    """Take what Ray tells a driver to our log, away from standard output: that is the program's own."""

    def log(data: dict[str, Any], *_: object, **__: object) -> None:
        for line in data["lines"]:
            _LOG.info("Ray says: %s", line)

    ray_worker.print_to_stdstream = log


def _options(namespace: str) -> dict[str, Any]:
    """Return what Ray is told in either case; its warnings are about how we call it, and of no use to a user."""
    return {"namespace": namespace, "log_to_driver": False, "logging_level": logging.ERROR}


def ray_address() -> str:
    """Return the address of the cluster that this process is connected to."""
    return str(ray.get_runtime_context().gcs_address)


def disconnect_from_ray() -> None:
    """Leave the cluster; one that this process started ends."""
    ray.shutdown()


class SchedulerClient:
    """A running scheduler actor.

    Args:
        handle: The actor.
        namespace: Where it has its name.
        created: Whether this driver made it.
        patience_s: How long one that cannot answer is waited for.
        retry_s: The wait between two tries.
    """

    def __init__(
        self,
        handle: Any,
        namespace: str,
        *,
        created: bool,
        patience_s: float = _PATIENCE_S,
        retry_s: float = _RETRY_S,
    ) -> None:
        self._handle = handle
        self._namespace = namespace
        self._patience_s = patience_s
        self._retry_s = retry_s
        self._has_answered = False
        self.created = created

    @classmethod
    async def connect(cls, config: ServiceConfig) -> SchedulerClient:
        """Find the scheduler of the namespace, or make it.

        Raises:
            VersionMismatchError: it is of another version of ftactors.
            LogRefusedError: its log is owned by another scheduler, damaged, or too new.
            ServiceUnavailableError: it does not answer.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            handle, created = await asyncio.to_thread(_find_or_make, config)
            client = cls(handle, config.namespace, created=created)
            try:
                await client._greet()
            except ServiceUnavailableError:  # found while it was dying
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_RETRY_S)
            except LogError:
                if created:  # it has never opened its log, and is of no use to anybody
                    await client.close_scheduler()
                raise
            else:
                return client

    @classmethod
    async def find(cls, config: ServiceConfig) -> SchedulerClient | None:
        """Return the scheduler of the namespace; None where none runs. Makes none, and starts nothing.

        Raises:
            VersionMismatchError: it is of another version of ftactors.
            LogRefusedError: its log is owned by another scheduler, damaged, or too new.
            ServiceUnavailableError: it does not answer.
        """
        try:
            handle = await asyncio.to_thread(ray.get_actor, NAME, config.namespace)
        except ValueError:
            return None
        client = cls(handle, config.namespace, created=False)
        await client._greet()
        return client

    @classmethod
    async def end_refusing(cls, namespace: str) -> LogError | None:
        """End the scheduler of the namespace if it can write nothing, and return why; None where it can, or none runs.

        It would refuse to be stopped as others are, and it holds the log that somebody shall mend.
        """
        try:
            handle = await asyncio.to_thread(ray.get_actor, NAME, namespace)
        except ValueError:
            return None
        client = cls(handle, namespace, created=False)
        why: LogError | None
        try:
            hello: Hello = await client.ask("hello")
            why = None if hello.refusal is None else LogRefusedError(hello.refusal)
        except LogError as error:
            why = error
        if why is not None:
            await client.close_scheduler()
        return why

    async def _greet(self) -> None:
        hello: Hello = await self.ask("hello")
        if hello.version != ftactors.__version__:
            raise VersionMismatchError(
                f"the running scheduler is ftactors {hello.version}, this driver is {ftactors.__version__}; "
                f"install {hello.version} here, or stop the service and start it with {ftactors.__version__}"
            )

    async def ask(self, method: str, *args: Any, **options: Any) -> Any:
        """Return the answer of a method of the scheduler's desk, waiting out a restart.

        Raises:
            FtactorsError: whatever the desk raises.
            ServiceUnavailableError: the scheduler is gone, or does not come back.
        """
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                answer = await self._handle.ask.remote(method, *args, **options)
            except RayTaskError as error:
                if not isinstance(error.cause, FtactorsError):
                    raise
                if not self._may_come_back(error.cause) or time.monotonic() > deadline:
                    raise error.cause from None
                await asyncio.sleep(self._retry_s)
            except ActorUnavailableError as error:
                if time.monotonic() > deadline:
                    raise ServiceUnavailableError(
                        f"the scheduler has not answered for {self._patience_s:g} s"
                    ) from error
                await asyncio.sleep(self._retry_s)
            except ActorDiedError as error:
                raise ServiceUnavailableError(
                    "the service was stopped; its jobs rest, and go on at the next start"
                ) from error
            else:
                self._has_answered = True
                return answer

    def _may_come_back(self, error: FtactorsError) -> bool:
        """Return whether a scheduler that has answered before cannot reach its log now: a server may be restarting."""
        return self._has_answered and type(error) is LogRefusedError

    async def close_scheduler(self) -> bool:
        """End the scheduler actor, unless the service was started again meanwhile; return whether it was ended.

        Its log is free, and so is its name, when this returns.
        """
        try:
            if not await self._handle.close.remote():
                return False
        except RayActorError as error:
            _LOG.info("the scheduler ended before it was closed: %s", error)
        await asyncio.to_thread(ray.kill, self._handle, no_restart=True)
        await asyncio.to_thread(_wait_until_dead, self._namespace)
        return True


def _wait_until_dead(namespace: str) -> None:
    """Return once no actor has the scheduler's name, or after a while."""
    deadline = time.monotonic() + _DEATH_S
    with contextlib.suppress(ValueError):  # there is none
        while time.monotonic() < deadline:
            ray.get_actor(NAME, namespace=namespace)
            time.sleep(_RETRY_S)


def _find_or_make(config: ServiceConfig) -> tuple[Any, bool]:
    with contextlib.suppress(ValueError):  # there is none
        return ray.get_actor(NAME, namespace=config.namespace), False
    absolute = config.model_copy(update={"state_dir": str(Path(config.state_dir).expanduser().resolve())})
    options: dict[str, Any] = {
        "name": NAME,
        "namespace": config.namespace,
        "lifetime": "detached",
        "max_restarts": -1,
        "max_task_retries": -1,
        "max_concurrency": 10_000,
        "num_cpus": 0,
        "resources": {} if is_served(config) else _HEAD,  # SQLite's file lies on the head node's disk
    }
    try:
        return ray.remote(SchedulerActor).options(**options).remote(absolute), True
    except ValueError:  # another driver was faster
        return ray.get_actor(NAME, namespace=config.namespace), False
