"""The rules of the game that are about shares: gangs, priorities, preemption, nodes that go and come, memory."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.core.histories import submitted
from tests.simulation.play import Play, picks, turns
from tests.simulation.script import failing_word, out_of_memory_word

SHAPES = [(1, 1.0), (1, 0.6), (1, 0.5), (1, 0.3), (2, 1.0), (2, 0.6), (3, 0.5), (3, 1.0), (1, 0.0)]
"""Workers, and the share of each; all fit on the two nodes that are there at first."""
_MANY_JOBS = 6
"""With more than that to look after, an example is to spend its steps on other things."""
nodes = st.sampled_from(["node-a", "node-b", "node-c"])


class PlacementRules(Play):
    """What drivers can ask for, and what can befall nodes and ranks."""

    # ------------------------------------------------------------------------------------------------------- drivers
    @rule(
        shape=st.sampled_from(SHAPES),
        priority=st.integers(0, 2),
        preemptible=st.booleans(),
        keyed=st.booleans(),
        then=turns,
    )
    def a_driver_submits(
        self, *, shape: tuple[int, float], priority: int, preemptible: bool, keyed: bool, then: int | None
    ) -> None:
        number = len(self.jobs) + 1
        job = submitted(
            f"ftjob-{number}",
            key=f"key-{number}" if keyed else None,
            new_model_id=f"model-{number}",
            resources={"num_workers": shape[0], "num_gpus": shape[1]},
            priority=priority,
            preemptible=preemptible,
            max_attempts=2,
        ).model_copy(update={"config_digest": f"digest-{number}"})
        self.jobs.append(job)
        self.submit(job)
        self.then(then)

    @precondition(lambda self: len(self.jobs) < _MANY_JOBS)
    @rule(shape=st.sampled_from([(2, 1.0), (3, 0.5), (3, 1.0)]), rounds=st.integers(4, 7))
    def a_gang_comes_to_train(self, shape: tuple[int, float], rounds: int) -> None:
        self.a_driver_submits(shape=shape, priority=1, preemptible=True, keyed=True, then=None)
        self.go_on(rounds=rounds, count=1)

    @precondition(lambda self: len(self.jobs) < _MANY_JOBS)
    @rule(
        shapes=st.lists(st.sampled_from([(2, 1.0), (1, 1.0), (1, 0.6)]), min_size=2, max_size=4),
        rounds=st.integers(4, 6),
    )
    def an_important_job_comes_when_much_is_taken(self, shapes: list[tuple[int, float]], rounds: int) -> None:
        for shape in shapes:
            self.a_driver_submits(shape=shape, priority=0, preemptible=True, keyed=False, then=None)
        self.go_on(rounds=rounds, count=1)
        self.a_driver_submits(shape=(3, 1.0), priority=9, preemptible=False, keyed=False, then=None)
        self.go_on(rounds=rounds, count=1)

    # ------------------------------------------------------------------------------------------------------ trainers
    @precondition(lambda self: self.training())
    @rule(pick=picks, then=turns)
    def a_training_runs_out_of_memory(self, pick: int, then: int | None) -> None:
        self.world.ground.say(self.pick(self.training(), pick), out_of_memory_word())
        self.then(then)

    @precondition(lambda self: self.world.ground.other_ranks())
    @rule(pick=picks, how=st.sampled_from(["broken", "for good", "out of memory"]), then=turns)
    def a_rank_that_does_not_report_fails(self, pick: int, how: str, then: int | None) -> None:
        word = out_of_memory_word() if how == "out of memory" else failing_word(retryable=how == "broken")
        self.world.ground.say(self.pick(self.world.ground.other_ranks(), pick), word)
        self.then(then)

    @precondition(lambda self: self.world.ground.other_ranks())
    @rule(pick=picks, trace=st.booleans(), then=turns)
    def a_rank_that_does_not_report_dies(self, *, pick: int, trace: bool, then: int | None) -> None:
        self.world.ground.die(self.pick(self.world.ground.other_ranks(), pick), leaves_a_trace=trace)
        self.then(then)

    # ------------------------------------------------------------------------------------------------------- cluster
    @rule(node=nodes, then=turns)
    def a_node_is_lost_or_comes_back(self, node: str, then: int | None) -> None:
        ground = self.world.ground
        (ground.bring_back if self.world.cluster.nodes[node].state == "dead" else ground.lose)(node)
        self.then(then)

    @rule(node=nodes, then=turns)
    def a_node_drains_and_then_goes(self, node: str, then: int | None) -> None:
        state = self.world.cluster.nodes[node].state
        if state == "up":
            self.world.ground.drain(node)
        elif state == "draining":
            self.world.ground.lose(node)
        self.then(then)

    @precondition(lambda self: self.training())
    @rule(pick=picks, then=turns)
    def the_node_of_a_training_drains(self, pick: int, then: int | None) -> None:
        node_id = self.node_of_a_training(pick)
        if self.world.cluster.nodes[node_id].state == "up":
            self.world.ground.drain(node_id)
        self.then(then)

    @precondition(lambda self: self.training())
    @rule(pick=picks, seconds=st.sampled_from([0.0, 2.0, 20.0]), then=turns)
    def the_node_of_a_training_is_cut_off_and_comes_back(self, pick: int, seconds: float, then: int | None) -> None:
        node_id = self.node_of_a_training(pick)
        self.world.ground.cut(node_id)
        self.then(then)
        if seconds:
            self.world.pass_time(seconds)
        self.all_speak(2)
        self.world.ground.bring_back(node_id)
        self.then(then)

    @rule(node=nodes, then=turns)
    def a_node_is_cut_off_or_comes_back(self, node: str, then: int | None) -> None:
        ground = self.world.ground
        (ground.bring_back if self.world.cluster.nodes[node].state == "dead" else ground.cut)(node)
        self.then(then)

    @rule(node=nodes, gpu_thousandths=st.sampled_from([300, 500, 1000]), then=turns)
    def others_use_a_part_of_a_node(self, node: str, gpu_thousandths: int, then: int | None) -> None:
        self.world.ground.let_others_in(node, gpu_thousandths)
        self.then(then)

    @precondition(lambda self: self.world.cluster.others)
    @rule(then=turns)
    def others_leave(self, then: int | None) -> None:
        self.world.ground.see_others_off()
        self.then(then)

    def node_of_a_training(self, pick: int) -> str:
        """Return the node of the first rank of some training."""
        trainer = self.world.cluster.trainers[self.pick(self.training(), pick)]
        return str(trainer.process.node_id)
