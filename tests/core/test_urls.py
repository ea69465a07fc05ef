"""What of a database's URL may be told."""

import pytest

from ftactors.core.requests import start
from ftactors.core.service_config import ServiceConfig
from ftactors.core.state import State
from ftactors.core.urls import without_password
from tests.core.histories import opened


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql+psycopg://me:se:cr@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql+psycopg://me:a/b@c@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql+psycopg://me@host/db", "postgresql+psycopg://me@host/db"),
        (
            "postgresql+psycopg://host/db?user=me&password=secret&x=1",
            "postgresql+psycopg://host/db?user=me&password=***&x=1",
        ),
        ("sqlite:////var/a:b@c/events.db", "sqlite:////var/a:b@c/events.db"),
    ],
)
def test_a_password_is_not_told(url: str, told: str):
    assert without_password(url) == told


def test_the_password_of_the_database_does_not_reach_the_log():
    state = State()
    state.apply(state.recorded(opened(), 1.0))
    config = ServiceConfig(log_url="postgresql+psycopg://me:secret@host/db")
    started = start(state, config, by="someone")
    assert started is not None
    state.apply(state.recorded(started, 2.0))

    assert "secret" not in started.model_dump_json()
    assert start(state, config, by="someone") is None  # it runs by this configuration
