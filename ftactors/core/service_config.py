"""How the service itself runs."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from ftactors.core.config import Config, Text
from ftactors.core.errors import ConfigurationError, InvalidServiceConfigError
from ftactors.core.urls import without_password


class ServiceConfig(Config):
    """The service's configuration; the running scheduler's rules for all its drivers."""

    error: ClassVar[type[ConfigurationError]] = InvalidServiceConfigError

    max_concurrent_fine_tuning_jobs: int = Field(default=1, ge=1)
    job_queue_poll_interval_seconds: float = Field(default=5.0, gt=0)
    max_concurrent_preparations: int = Field(default=2, ge=1)
    preparation_num_cpus: float = Field(default=1.0, ge=0)
    state_dir: Text = "~/.ftactors"
    """The event log's directory, on a local disk of the scheduler's node."""
    runs_dir: Text | None = None
    """Where jobs without `output_dir_base` write; None: `<state_dir>/runs`."""
    log_url: Text | None = None
    """The event log's database: `sqlite:////` and the rest of an absolute path as it is, or
    `postgresql+psycopg://user:password@host/database`; None: an SQLite file in `state_dir`."""
    ray_address: str | None = None
    """`local`: an own Ray; `auto` or an address: that cluster; None: the running one if there is one, else an own."""
    namespace: str = Field(default="ftactors", min_length=1)
    base_models: dict[str, str] = Field(default_factory=dict)
    """Ids of base models: local directories or hub ids."""
    allowed_roots: list[str] | None = None
    """Where set, data files and output directories must lie under one of these."""
    cancel_grace_seconds: float = Field(default=30.0, ge=0)
    stop_grace_seconds: float = Field(default=60.0, ge=0)
    kill_margin_seconds: float = Field(default=5.0, ge=0)
    """After a grace is over, the trainer may tell how it stopped; then it is killed."""
    max_wait_seconds: float = Field(default=600.0, ge=0)
    """So long a job that needs more than is free lets smaller ones of its priority go ahead."""
    start_timeout_seconds: float = Field(default=300.0, gt=0)
    stall_timeout_seconds: float = Field(default=1800.0, gt=0)
    orphan_timeout_seconds: float = Field(default=3600.0, ge=60)
    """A trainer that no scheduler asks for so long checkpoints and exits."""
    retry_backoff_seconds: float = Field(default=5.0, ge=0)
    """The wait before the second attempt; doubled with each one after."""
    retry_backoff_max_seconds: float = Field(default=600.0, ge=0)

    @field_validator("log_url")
    @classmethod
    def _a_database_we_have(cls, value: str | None) -> str | None:
        if value is None or value.startswith("postgresql+psycopg://"):
            return value
        if not value.startswith("sqlite:////") or value.endswith("/"):
            raise ValueError(
                "must be sqlite:// and the absolute path of a file (sqlite:////var/lib/ftactors/events.db), or a "
                "PostgreSQL database (postgresql+psycopg://user:password@host/database)"
            )
        return value

    def told(self) -> ServiceConfig:
        """Return the configuration as it may be stored and shown: without the password of its database."""
        return self.model_copy(update={"log_url": self.log_url and without_password(self.log_url)})
