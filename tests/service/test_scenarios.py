"""The usage guide's scenarios, as the example acts them out, on the real service."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.scenarios import SCENARIOS
from ftactors import LLMFineTuningService

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all scenarios keep their model and data."""
    return tmp_path_factory.mktemp("scenarios")


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_scenario_goes_as_the_guide_says(service: LLMFineTuningService, workdir: Path, name: str):
    await SCENARIOS[name](service, workdir)


def test_all_scenarios_of_the_guide_are_there():
    assert set(SCENARIOS) == {
        "valid_job",
        "unknown_base_model",
        "invalid_configuration",
        "cancel_while_queued",
        "cancel_while_preparing",
        "cancel_while_training",
        "failure_while_preparing",
        "failure_while_training",
        "listing",
    }
