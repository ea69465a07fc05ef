"""The LoRA training that everybody writes: TRL on a local model and a JSONL file. What ftactors is compared with.

`python benchmarks/trl_script.py MODEL DATA OUTPUT --steps 20 --rows 8`; prints when each step ended.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any


def train(model: str, data: str, output: str, *, steps: int, rows: int, save: bool = True) -> list[float]:
    """Train an adapter, and return when training began and when each of its steps ended, in seconds since 1970."""
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.time())

    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        processing_class=AutoTokenizer.from_pretrained(model),
        train_dataset=load_dataset("json", data_files=data, split="train", cache_dir=f"{output}/cache"),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear"),
        args=SFTConfig(
            output_dir=output,
            max_steps=steps,
            per_device_train_batch_size=rows,
            learning_rate=2e-4,
            max_length=256,
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            activation_checkpointing=False,  # as a job does without a GPU
            report_to="none",
            logging_steps=10,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        callbacks=[Clock()],
    )
    trainer.train()
    if save:
        trainer.save_model(f"{output}/model")
    return times


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print the times as a list in JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("output")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=8)
    chosen = parser.parse_args(arguments)
    print(json.dumps(train(chosen.model, chosen.data, chosen.output, steps=chosen.steps, rows=chosen.rows)))


if __name__ == "__main__":
    main()
