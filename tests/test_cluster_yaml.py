from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def test_ray_accepts_the_cluster_file(cluster):
    prepared = prepare_config(cluster)

    validate_config(prepared)
    assert prepared["available_node_types"]["head"]["max_workers"] == 0
    assert prepared["available_node_types"]["gpu_worker"]["min_workers"] == 1


def test_the_images_carry_the_ray_of_the_constraints(cluster):
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    ray = re.search(r"^ray==(\S+)$", constraints, re.MULTILINE)

    assert ray
    assert cluster["docker"]["image"] == f"rayproject/ray:{ray[1]}-py311"
    assert cluster["docker"]["worker_image"] == f"rayproject/ray:{ray[1]}-py311-gpu"


def test_every_node_installs_the_pinned_environment(cluster):
    prepared = prepare_config(cluster)

    for commands in ("head_setup_commands", "worker_setup_commands"):
        assert any("-c /home/ray/ftactors-src/constraints.txt" in command for command in prepared[commands])


def test_the_log_is_on_the_heads_disk_and_the_runs_on_every_node(cluster):
    docker = cluster["docker"]

    assert "-v /mnt/runs:/mnt/runs" in docker["run_options"]
    assert docker["head_run_options"] == ["-v /var/lib/ftactors:/home/ray/.ftactors"]
