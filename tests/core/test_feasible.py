"""What is refused at submit because no node could ever hold it: the field, what was asked, what would be possible."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ftactors.core.config import ResourceConfig
from ftactors.core.feasible import ClusterFacts, why_never
from ftactors.core.seen import Node, Seen

CPU_NODE = Node("c", name="c", cpus=16, mem_gib=64)
GPU_NODE = Node("g", name="g", gpus=2, cpus=8, mem_gib=32, accelerator_type="L4")
CLUSTER = ClusterFacts((CPU_NODE, GPU_NODE))


def problems(cluster: ClusterFacts = CLUSTER, **asked: object) -> list[str]:
    resources = ResourceConfig(**asked)  # type: ignore[arg-type]
    resolved = resources if resources.num_gpus is not None else resources.model_copy(update={"num_gpus": 1.0})
    return [str(problem) for problem in why_never(resources, resolved, cluster)]


@pytest.mark.parametrize(
    "asked",
    [
        {"num_gpus": 1, "num_workers": 2},
        {"num_gpus": 0.5, "num_workers": 4, "num_cpus": 2},
        {"num_gpus": 0, "num_cpus": 16, "memory_gib": 64},
        {"num_gpus": 1, "accelerator_type": "L4", "num_cpus": 8},
        {},
    ],
)
def test_what_an_idle_node_could_hold_is_accepted(asked):
    assert problems(**asked) == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"num_gpus": 0, "num_cpus": 32},
            (
                "resources.num_cpus: no node has so many: the cluster has node g with 2 GPU of type L4, 8 CPU and "
                "32 GiB, node c with 16 CPU and 64 GiB; ask for at most 16 (got 32.0)"
            ),
        ),
        (
            {"num_gpus": 0, "memory_gib": 100},
            (
                "resources.memory_gib: no node has so much: the cluster has node g with 2 GPU of type L4, 8 CPU and "
                "32 GiB, node c with 16 CPU and 64 GiB; ask for at most 64 (got 100.0)"
            ),
        ),
        (
            {"num_gpus": 1, "accelerator_type": "H100"},
            "resources.accelerator_type: cannot be had: no node has it; there are L4; leave it out (got 'H100')",
        ),
        (
            {"num_gpus": 0.5, "num_workers": 9, "num_cpus": 2},
            (
                "resources.num_workers: so many workers of 0.5 GPU and 2 CPU do not fit: the cluster has node g with 2 "
                "GPU of type L4, 8 CPU and 32 GiB, node c with 16 CPU and 64 GiB; ask for at most 4 (got 9)"
            ),
        ),
        (
            {"num_gpus": 1, "num_cpus": 12},
            (
                "resources: no node has 1 GPU and 12 CPU at once: the cluster has node g with 2 GPU of type L4, 8 CPU "
                "and 32 GiB, node c with 16 CPU and 64 GiB; ask for what one of them has "
                "(got {'num_gpus': 1.0, 'num_cpus': 12.0})"
            ),
        ),
    ],
    ids=["cpus", "memory", "type", "workers", "together"],
)
def test_what_no_node_could_ever_hold_is_refused_by_field_with_what_would_be_possible(asked, said):
    assert problems(**asked) == [said]


def test_who_did_not_ask_for_the_gpu_is_told_that_cpus_would_do():
    (said,) = problems(num_cpus=12)

    assert "or for num_gpus=0 to train on CPUs" in said


def test_a_gpu_is_refused_where_there_is_none_unless_the_autoscaler_could_bring_one():
    without = ClusterFacts((CPU_NODE,))

    assert problems(without, num_gpus=0.5) == [
        (
            "resources.num_gpus: cannot be had: the cluster has no GPUs; ask for 0, or leave it out to train on CPUs "
            "(got 0.5)"
        )
    ]
    assert problems(replace(without, could_add=(GPU_NODE,)), num_gpus=0.5) == []


def test_each_amount_that_is_too_large_by_itself_is_told():
    assert [said.partition(":")[0] for said in problems(num_gpus=0, num_cpus=99, memory_gib=99)] == [
        "resources.num_cpus",
        "resources.memory_gib",
    ]


def test_alike_nodes_are_told_together_and_the_smallest_are_only_counted():
    many = [replace(GPU_NODE, node_id=f"g{n}") for n in range(40)]
    sizes = [Node(f"c{n}", name=f"c{n}", cpus=n, mem_gib=n) for n in range(1, 9)]

    (said,) = problems(ClusterFacts((*many, *sizes)), num_gpus=0, num_cpus=50)

    assert "40 nodes each with 2 GPU of type L4" in said
    assert "node c8 with" in said
    assert "and 6 smaller nodes; ask for at most 8" in said


def test_the_facts_of_a_cluster_do_not_depend_on_what_is_free_and_leave_out_nodes_that_go():
    nodes = {"g": GPU_NODE, "c": replace(CPU_NODE, state="draining")}
    busy = {"g": replace(GPU_NODE, free_gpu_thousandths=700, free_cpus=3, free_mem_gib=1), "c": nodes["c"]}

    facts = ClusterFacts.of(Seen(complete=True, nodes=busy))

    assert facts == ClusterFacts.of(Seen(complete=True, nodes=nodes))
    assert (facts.nodes, facts.gpus, facts.cpus, facts.most_cpus) == (1, 2, 8, 8)
