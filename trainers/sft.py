"""The methods `full`, `lora` and `qlora`: supervised fine-tuning on TRL's trainer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from datasets import Dataset, DatasetDict, disable_progress_bars
from transformers.utils import logging as transformers_logging
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ftactors.core.config import Metric
from ftactors.core.errors import DatasetLostError, DeviceError, JobExecutionError
from ftactors.core.events import Metrics, PublishedModel, Stage
from ftactors.core.session import Session, Stop
from ftactors.core.work import Evaluated, Published, Stopped, Work
from trainers.arguments import precision_of, sft_config
from trainers.base import BaseTrainer
from trainers.chat import PLAIN_CHAT_TEMPLATE
from trainers.checkpoints import Checkpoints, delete_unnamed, resumption
from trainers.continuation import ignored
from trainers.encode import load_prepared
from trainers.evaluation import Evaluation, HeldOut, finite
from trainers.loading import cast, restore
from trainers.loop import Conduct, Loop
from trainers.meet import meet
from trainers.memory import keep_to_share, peak_mem_gib, shortage_told
from trainers.publish import publish, register
from trainers.ranks import ALONE
from trainers.reporting import Reporter
from trainers.shapes import Messages
from trainers.subject import Subject, load_subject, with_adapter
from trainers.tally import Criterion, Tally


class NotSharedError(JobExecutionError):
    """A rank's node does not see what the first rank's does."""

    error_type = "not_shared"


class SftTrainer(BaseTrainer):
    """Supervised fine-tuning of all weights, or of an adapter on a base that is quantized or not."""

    def __init__(self, work: Work, session: Session) -> None:
        super().__init__(work, session)
        if work.uses_gpu and not torch.cuda.is_available():
            raise DeviceError(
                f"a GPU is set aside for this attempt, but torch {torch.__version__} sees none on this node",
                hint="install torch's CUDA build on every node with a GPU, or ask for resources.num_gpus=0",
            )
        if work.uses_gpu:
            keep_to_share(work.gpu_thousandths)
        self._config = work.config
        self._asked = work.config.hyperparameters
        self._metrics = tuple(work.config.evaluation.metrics)
        self._precision = precision_of(self._config, uses_gpu=work.uses_gpu)
        self._attempt_dir = Path(work.attempt_dir)
        self._ranks = ALONE
        self._loop: Loop | None = None

    def run(self) -> Published | Stopped:
        """Train and publish; or, at a stop order, write a checkpoint and stop.

        A rank that is not the first publishes nothing: once the first has, it has stopped clean.
        """
        transformers_logging.disable_progress_bar()
        disable_progress_bars()
        self._ranks = meet(self.work)
        with shortage_told(self.work, self._stage), self._ranks.noticing_losses():
            splits = self._ranks.in_turn(self._splits)
            self._attempt_dir.mkdir(parents=True, exist_ok=True)
            self._reporter = Reporter(self.session, self._plan(splits), self._attempt_dir, ranks=self._ranks)
            try:
                word = self._run(splits["train"], splits.get("validation"))
            except Stop:
                word = self._stopped(self._loop)
        self._ranks.leave()
        return word

    def _splits(self) -> DatasetDict:
        """Return the prepared data.

        Raises:
            DatasetLostError: it is gone.
            NotSharedError: it is not gone where the first rank is.
        """
        if self.work.dataset is None:
            raise DatasetLostError(f"attempt {self.work.attempt} of job {self.work.job_id} has no prepared data")
        try:
            return load_prepared(Path(self.work.dataset.path))
        except DatasetLostError as error:
            if self._ranks.is_first:
                raise
            raise NotSharedError(
                f"{error} on the node of rank {self._ranks.rank}, but it is on that of rank 0",
                hint="a job of several workers needs a directory that all nodes share, or num_workers on one node",
            ) from error

    def _stage(self) -> Stage:
        """Return what the attempt is doing, which it can tell once it has read its data."""
        return self._reporter.stage if hasattr(self, "_reporter") else "loading"

    def _stopped(self, loop: Loop | None) -> Stopped:
        """Return the word of an attempt that stops, after a checkpoint if the order wants one and there is none yet.

        After training the weights in memory may be the best ones, or rounded as they will be published. A checkpoint of
        them serves as well: what resumes from it loads the best, and rounds, again.
        """
        order = self._reporter.look()
        saves = order is not None and order.save
        if saves and loop is not None:
            loop.save()
        return Stopped(clean=saves and (loop is None or loop.is_saved))

    def _plan(self, splits: dict[str, Dataset]) -> list[Stage]:
        """Return the stages of this attempt."""
        plan: list[Stage] = ["loading", "training", "publishing"]
        if "validation" in splits:
            plan.insert(2, "evaluating")
            if self._config.evaluation.evaluate_base and self.work.baseline is None:
                plan.insert(1, "baseline")
        return plan

    def _run(self, rows: Dataset, held_out_rows: Dataset | None) -> Published | Stopped:
        warnings = (*self._precision.warnings, *ignored(self._config, self.work.base))
        self._reporter.begin("loading", warnings=warnings)
        subject = load_subject(
            self._config,
            self.work.base,
            self._precision,
            device=torch.device("cuda:0" if self.work.uses_gpu else "cpu"),
            merged=self._attempt_dir / "base",
            ranks=self._ranks,
        )
        if (
            self.work.dataset is not None
            and self.work.dataset.shape == Messages.name
            and subject.tokenizer.chat_template is None
        ):
            subject.tokenizer.chat_template = PLAIN_CHAT_TEMPLATE  # how the conversations were written
        held_out = None if held_out_rows is None else self._held_out(held_out_rows, subject)
        self._reporter.check_stop()
        baseline = self._measure_base(subject, held_out)
        self._loop = self._prepare(subject, rows, held_out)
        self._loop.run()
        tuned = self._measure_tuned(subject, self._loop)
        self._reporter.check_stop()
        return self._publish(subject, self._loop, _summary(self._loop.conduct.tally, baseline, tuned, self._metrics))

    def _held_out(self, rows: Dataset, subject: Subject) -> HeldOut:
        return HeldOut(
            rows=rows,
            collate=_collator(subject),
            batch_size=self._asked.per_device_eval_batch_size,
            amp_dtype=self._precision.amp_dtype,
            ranks=self._ranks,
        )

    def _measure_base(self, subject: Subject, held_out: HeldOut | None) -> Metrics:
        """Return the metrics of the base model, quantized as for training: measured now, or by an earlier attempt."""
        if held_out is None or not self._config.evaluation.evaluate_base:
            return {}
        if self.work.baseline is not None:
            return self.work.baseline
        self._reporter.begin("baseline", total_steps=held_out.batches)
        metrics = held_out.measure(subject.model, self._on_batch).metrics(self._metrics)
        self._reporter.say(Evaluated(of="base", stage="baseline", step=0, metrics=metrics))
        return metrics

    def _prepare(self, subject: Subject, rows: Dataset, held_out: HeldOut | None) -> Loop:
        """Return the training loop, at the checkpoint to resume from."""
        resume = self._ranks.share(lambda: resumption(self.work.resume_from, self.work.checkpoints))
        if resume.path is not None and self._ranks.is_first:
            delete_unnamed(self._attempt_dir.parent, self.work.checkpoints)
        directory = self._attempt_dir / "checkpoints"
        asked, uses_gpu = self._asked, self.work.uses_gpu
        checkpoints = Checkpoints(directory, self.work.checkpoints, asked.save_total_limit)
        conduct = Conduct(
            reporter=self._reporter,
            checkpoints=checkpoints,
            tally=Tally() if resume.path is None else Tally.load(resume.path),
            held_out=held_out,
            metrics=self._metrics,
            criterion=Criterion(
                metric=asked.metric_for_best_model or "loss",
                patience=asked.early_stopping_patience,
                threshold=asked.early_stopping_threshold,
            ),
            keeps_best=asked.load_best_model_at_end,
            checkpoint_every_s=asked.checkpoint_every_minutes * 60,
            resumption=resume,
            ranks=self._ranks,
        )
        arguments = sft_config(
            self._config,
            output_dir=checkpoints.staging,
            precision=self._precision,
            uses_gpu=uses_gpu,
            evaluates=held_out is not None,
            ddp_backend=self._ranks.backend,
        )
        return Loop(
            conduct,
            model=with_adapter(self._config, subject),
            args=arguments,
            train_dataset=rows,
            eval_dataset=None if held_out is None else held_out.rows,
            processing_class=subject.tokenizer,
            data_collator=_collator(subject),
        )

    def _measure_tuned(self, subject: Subject, loop: Loop) -> Evaluation | None:
        """Return what the model to publish achieves: the best one, in the type that it will be saved in."""
        is_last = not loop.load_best()
        saved_as = subject.saved_dtype
        if self._config.fine_tuning_technique.method == "full" and loop.tuned.dtype != saved_as:
            restore(loop.tuned)
            cast(loop.tuned, self._precision.weights_dtype)  # rounded, and as fast to compute with as before
            is_last = False
        held_out = loop.conduct.held_out
        if held_out is None:
            return None
        step = loop.state.global_step
        self._reporter.begin("evaluating", total_steps=held_out.batches)
        if is_last and loop.latest is not None and loop.latest[0] == step:
            evaluation = loop.latest[1]
        else:
            evaluation = held_out.measure(loop.tuned, self._on_batch)
        self._reporter.say(
            Evaluated(of="tuned", stage="evaluating", step=step, metrics=evaluation.metrics(self._metrics))
        )
        return evaluation

    def _on_batch(self, batch: int) -> None:
        self._reporter.progress(batch)
        self._reporter.check_stop()

    def _publish(self, subject: Subject, loop: Loop, metrics: Metrics) -> Published | Stopped:
        """Write the tuned model, try it, and tell the model manager of the user's own, if there is one."""
        self._reporter.begin("publishing")
        peak_gib = self._ranks.largest(peak_mem_gib())  # the next attempt's share must do for each of them
        if not self._ranks.is_first:
            return Stopped(clean=True)
        loop.optimizer = loop.lr_scheduler = None  # their memory is needed to try the model
        path = self._attempt_dir / "model"
        digest = publish(subject, loop.tuned, path)
        model = PublishedModel(
            id=self._config.new_model_id,
            path=str(path),
            digest=digest,
            kind="full" if self._config.fine_tuning_technique.method == "full" else "adapter",
            base=subject.ref,
        )
        if self.work.registrar is not None:
            register(self.work.registrar, self.work.job_id, model)
        return Published(
            path=model.path,
            digest=model.digest,
            kind=model.kind,
            base=model.base,
            metrics={**metrics, "peak_mem_gib": max(peak_gib, peak_mem_gib())},
            trained_tokens=loop.conduct.tally.train.tokens,
        )


def _summary(tally: Tally, baseline: Metrics, tuned: Evaluation | None, names: Iterable[Metric]) -> Metrics:
    """Return a job's metrics: of the tuned model under their own names, of the base with `base_` before them."""
    metrics: Metrics = {"train_loss": finite(tally.train.value)}
    if tuned is not None:
        metrics |= tuned.metrics(names)
    metrics |= {f"base_{name}": value for name, value in baseline.items()}
    before, after = baseline.get("loss"), metrics.get("loss")
    if before is not None and after is not None:
        metrics["delta_loss"] = after - before
    return metrics


def _collator(subject: Subject) -> DataCollatorForLanguageModeling:
    """Return what pads rows to a batch; padding is masked and never predicted, so that any token will do."""
    return DataCollatorForLanguageModeling(pad_token_id=subject.tokenizer.pad_token_id or 0)
