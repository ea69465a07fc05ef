"""What a run counts, and how it judges evaluations."""

from __future__ import annotations

from pathlib import Path

from trainers.tally import Best, Criterion, Mean, Tally


def _judged(criterion: Criterion, *values: float) -> Tally:
    tally = Tally()
    for step, value in enumerate(values, start=1):
        criterion.judge(tally, step, value)
    return tally


def test_a_mean_weighs_by_tokens_and_starts_anew_once_taken():
    mean = Mean()
    mean.add(total=6.0, tokens=2)
    mean.add(total=1.0, tokens=5)

    assert (mean.take(), mean.tokens, mean.value) == (1.0, 0, 0.0)


def test_a_tally_survives_in_a_checkpoint(tmp_path: Path):
    tally = Tally(step=7, best=Best(step=5, value=1.5, path="p"), evaluations_without_improvement=2)
    tally.add(loss=3.5, tokens=9)

    tally.save(tmp_path)

    assert Tally.load(tmp_path) == tally


def test_the_best_loss_is_the_lowest_and_the_best_accuracy_the_highest():
    values = (2.0, 1.0, 3.0)

    assert _judged(Criterion("loss"), *values).best == Best(step=2, value=1.0)
    assert _judged(Criterion("token_accuracy"), *values).best == Best(step=3, value=3.0)


def test_patience_ends_after_so_many_evaluations_without_an_improvement():
    criterion = Criterion("loss", patience=2)

    assert not criterion.gives_up(_judged(criterion, 1.0, 2.0))
    assert criterion.gives_up(_judged(criterion, 1.0, 2.0, 1.0))
    assert not criterion.gives_up(_judged(criterion, 1.0, 2.0, 0.9))


def test_a_gain_below_the_threshold_makes_a_best_but_no_improvement():
    criterion = Criterion("loss", patience=1, threshold=0.5)

    tally = _judged(criterion, 2.0, 1.9)

    assert (tally.best, criterion.gives_up(tally)) == (Best(step=2, value=1.9), True)


def test_without_patience_nobody_gives_up():
    assert not Criterion().gives_up(_judged(Criterion(), *range(1, 50)))
