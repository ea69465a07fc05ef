"""The usage guide's sections 3 to 9, as one script that runs: `python examples/usage_guide.py [MODEL]`.

MODEL is a directory or a hub id; without it, SmolLM2-135M-Instruct is fetched as `ftactors demo` does. The data are the
demo's. Configuration objects are the guide's own, with the ids and paths of what is there; of the data only 32 rows are
trained on, so that it takes about three minutes on two cores without a GPU.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from ftactors import (
    DatasetSourceConfig,
    EvaluationConfig,
    FineTuningJobConfig,
    FineTuningJobStatusInfo,
    FineTuningTechniqueConfig,
    FullFineTuneParams,
    InvalidJobConfigError,
    JobStatus,
    LLMFineTuningService,
    LLMModelManager,
    LoRAParams,
    ModelNotFoundError,
    QLoRAParams,
    TrainingHyperparameters,
)
from ftactors.demo_data import write_demo_data
from ftactors.demo_model import obtain_model


async def main(workdir: Path, base_model: Path, data: Path) -> FineTuningJobStatusInfo:
    """Go through the guide, and return how its first job ended."""
    # ---------------------------------------------------------------------------------- 3. Service Initialization

    model_manager = LLMModelManager({"smollm2": base_model})
    service_config = {
        "max_concurrent_fine_tuning_jobs": 2,  # Default is 1
        "job_queue_poll_interval_seconds": 5,  # Default is 5
        "state_dir": str(workdir / "state"),
        "ray_address": "local",
    }
    fine_tuning_service = LLMFineTuningService(model_manager=model_manager, global_config=service_config)

    # Start the background job processor
    await fine_tuning_service.start()
    try:
        job_config = a_job_config(workdir, data)
        submitted_job_status = await submit(fine_tuning_service, job_config)
        await monitor(fine_tuning_service, submitted_job_status.job_id)
        await cancel(fine_tuning_service, job_config)
        await handle_errors(fine_tuning_service, job_config)
        return await look_at_output(fine_tuning_service, submitted_job_status.job_id)
    finally:
        # ---------------------------------------------------------------------------------- 9. Stopping the Service

        await fine_tuning_service.stop()
        print("Fine-tuning service stopped.")


# ---------------------------------------------------------------------------------- 4. Submitting a Fine-Tuning Job


def a_job_config(workdir: Path, data: Path) -> FineTuningJobConfig:
    """Return the job of sections 4.1 to 4.5."""
    # 4.1. Defining Dataset Configuration
    dataset_config = DatasetSourceConfig(
        source_type="file_path",  # Can be "file_path", "data_layer_id", "hf_dataset"
        path_or_id=str(data),  # E.g., "glue", "squad", or path like "/data/my_dataset.jsonl"
        format="jsonl",  # Optional if not file_path, e.g., "jsonl", "csv"
        train_split_name="train[:32]",
        validation_split_name="validation[:8]",  # Optional
        prompt_column="prompt",
        completion_column="completion",
    )

    # 4.2. Defining Fine-Tuning Technique
    lora_technique = FineTuningTechniqueConfig(
        method="lora", params=LoRAParams(r=8, lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj", "v_proj"])
    )
    full_tune_technique = FineTuningTechniqueConfig(
        method="full",
        params=FullFineTuneParams(),  # No specific params for basic full fine-tune via this model
    )
    qlora_technique = FineTuningTechniqueConfig(
        method="qlora", params=QLoRAParams(r=8, lora_alpha=16, bits=4, quant_type="nf4")
    )
    print("Techniques:", *(technique.method for technique in (lora_technique, full_tune_technique, qlora_technique)))

    # 4.3. Defining Training Hyperparameters
    hyperparams = TrainingHyperparameters(
        output_dir_base=str(workdir / "my_finetuning_runs"),  # Base directory for outputs
        num_train_epochs=1.0,  # Short epoch for example
        learning_rate=2e-5,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=2,
        weight_decay=0.01,
        lr_scheduler_type="cosine",
        warmup_ratio=0.1,
        logging_steps=10,
        save_steps=50,  # Save checkpoints every 50 steps
        save_strategy="steps",
        evaluation_strategy="steps",  # Evaluate every `eval_steps`
        eval_steps=50,
        fp16=True,  # If your hardware supports it
        max_seq_length=512,  # Important for managing memory and context
    )

    # 4.4. Defining Evaluation Configuration
    eval_config = EvaluationConfig(
        metrics=["loss", "perplexity"]  # Specify metrics for evaluation
    )

    # 4.5. Assembling the Job Configuration
    return FineTuningJobConfig(
        job_name="My First LoRA Fine-Tune",
        base_model_id="smollm2",  # Model ID from LLMModelManager
        new_model_id="smollm2-lora-docstrings-custom",  # Desired ID for the new model
        task_type="text-generation",  # Optional, helps guide data processing
        dataset_config=dataset_config,
        fine_tuning_technique=lora_technique,
        hyperparameters=hyperparams,
        evaluation_config=eval_config,  # Optional
    )


async def submit(fine_tuning_service: LLMFineTuningService, job_config: FineTuningJobConfig) -> FineTuningJobStatusInfo:
    """Return the status of the job of section 4.6."""
    try:
        submitted_job_status = await fine_tuning_service.submit_fine_tuning_job(job_config)
        print(
            f"Job submitted successfully! Job ID: {submitted_job_status.job_id}, Status: {submitted_job_status.status}"
        )
        return submitted_job_status
    except InvalidJobConfigError as e:
        print(f"Error submitting job: Invalid configuration - {e}")
        raise
    except Exception as e:
        print(f"An unexpected error occurred during job submission: {e}")
        raise


# ---------------------------------------------------------------------------------------- 5. Monitoring Job Status


async def monitor(fine_tuning_service: LLMFineTuningService, job_id_to_check: str) -> None:
    """Look at a job until it has ended, and at all jobs."""
    # 5.1. Get Job Status
    current_status_info = await fine_tuning_service.get_job_status(job_id_to_check)
    report(job_id_to_check, current_status_info)

    # Polling get_job_status would do; waiting for each change is simpler
    async for changed in fine_tuning_service.watch_job(job_id_to_check):
        print(f"  {changed.status} {changed.stage or ''} {changed.progress_percentage or 0:g}%")

    # 5.2. List Fine-Tuning Jobs
    all_jobs = await fine_tuning_service.list_fine_tuning_jobs(limit=10, offset=0)
    print(f"Found {len(all_jobs)} jobs:")
    for job_info in all_jobs:
        print(f"  - Job ID: {job_info.job_id}, Name: {job_info.job_name}, Status: {job_info.status}")

    # Filter by status:
    completed_jobs = await fine_tuning_service.list_fine_tuning_jobs(status_filter="completed")
    print(f"\nFound {len(completed_jobs)} completed jobs:")
    for job_info in completed_jobs:
        print(f"  - Job ID: {job_info.job_id}, Name: {job_info.job_name}")


# ------------------------------------------------------------------------------------ 6. Cancelling a Fine-Tuning Job


async def cancel(fine_tuning_service: LLMFineTuningService, job_config: FineTuningJobConfig) -> None:
    """Submit another job, and cancel it."""
    another_job = job_config.model_copy(update={"job_name": "To be cancelled", "new_model_id": "never-made"})
    job_to_cancel_id = (await fine_tuning_service.submit_fine_tuning_job(another_job)).job_id
    was_cancel_requested = await fine_tuning_service.cancel_fine_tuning_job(job_to_cancel_id)

    if was_cancel_requested:
        print(f"Cancellation request for job {job_to_cancel_id} processed. Monitor status for confirmation.")
        # Poll get_job_status to see it transition to "cancelled"
        cancelled = await fine_tuning_service.wait_for_job(job_to_cancel_id)
        report(job_to_cancel_id, cancelled)
    else:
        print(
            f"Could not request cancellation for job {job_to_cancel_id} "
            "(it might be completed, failed, or already cancelled)."
        )


# ------------------------------------------------------------------------------------------------ 7. Error Handling


async def handle_errors(fine_tuning_service: LLMFineTuningService, job_config: FineTuningJobConfig) -> None:
    """Submit what cannot be run."""
    for changes in ({"base_model_id": "no-such-model"}, {"new_model_id": "../elsewhere"}):
        try:
            await fine_tuning_service.submit_fine_tuning_job(job_config.model_copy(update=changes))
        except InvalidJobConfigError as e:
            print(f"InvalidJobConfigError: {e}")
        except ModelNotFoundError as e:
            print(f"ModelNotFoundError: {e}")


# ------------------------------------------------------------------------------------------ 8. Output and Artifacts


async def look_at_output(fine_tuning_service: LLMFineTuningService, job_id_to_check: str) -> FineTuningJobStatusInfo:
    """Return the last status of a job, after a look at its model."""
    done = await fine_tuning_service.wait_for_job(job_id_to_check)
    report(job_id_to_check, done)
    if done.output_model_path:
        print("Artifacts:", *artifacts(done.output_model_path))
    for model in await fine_tuning_service.model_manager.list_models():
        print(f"Model {model.model_id}: {model.kind}, in {model.path}")
    return done


def artifacts(output_path: str) -> list[str]:
    """Return the names of a model's files."""
    return sorted(path.name for path in Path(output_path).iterdir())


def report(job_id_to_check: str, current_status_info: FineTuningJobStatusInfo | None) -> None:
    """Print a status as section 5.1 does."""
    if current_status_info:
        print(f"Job ID: {current_status_info.job_id}")
        print(f"  Name: {current_status_info.job_name}")
        print(f"  Status: {current_status_info.status}")
        print(
            f"  Progress: {current_status_info.progress_percentage}%"
            if current_status_info.progress_percentage is not None
            else "  Progress: N/A"
        )
        print(f"  Current Step: {current_status_info.current_step}")
        print(f"  Metrics: {current_status_info.metrics}")
        print(f"  Error: {current_status_info.error_message}" if current_status_info.error_message else "  Error: None")
        print(f"  Created At: {current_status_info.created_at}")
        print(f"  Started At: {current_status_info.started_at}")
        print(f"  Completed At: {current_status_info.completed_at}")
        print(f"  Fine-tuned Model ID: {current_status_info.fine_tuned_model_id}")
        print(f"  Output Path: {current_status_info.output_model_path}")
        print(f"  Warnings: {current_status_info.warnings}")
    else:
        print(f"Job with ID {job_id_to_check} not found.")


def guide(workdir: Path, model: str | None = None) -> FineTuningJobStatusInfo:
    """Fetch the model, make the data, and go through the guide."""
    base_model = obtain_model(Path("~/.ftactors/demo/base").expanduser(), model, print)
    return asyncio.run(main(workdir, base_model, write_demo_data(workdir / "data").directory))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="usage-guide-") as directory:
        ended = guide(Path(directory), *sys.argv[1:2])
    sys.exit(0 if ended.status is JobStatus.COMPLETED else 1)
