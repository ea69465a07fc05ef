"""Let a model answer prompts: `python -m trainers.generate < ask.json`.

A process of its own, for it loads torch. It reads a JSON object from stdin, and writes `{"answers": [...]}` to stdout:

    {"model": "/models/tuned", "kind": "adapter", "base": "/models/base", "prompts": ["Who?"], "max_new_tokens": 64}
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ftactors.core.events import ModelKind, ModelRef
from trainers.chat import prompt_text
from trainers.tokenizer import leading_tokens, load_tokenizer


class Ask(BaseModel):
    """What is read from stdin."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    """A directory or a hub id."""
    kind: ModelKind = "full"
    base: str | None = None
    """The directory or hub id of the model that an adapter belongs on."""
    prompts: list[str] = Field(min_length=1)
    max_new_tokens: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _an_adapter_has_a_base(self) -> Ask:
        if (self.kind == "adapter") != (self.base is not None):
            raise ValueError("an adapter needs a base, and a full model has none")
        return self


class Answers(BaseModel):
    """What is written to stdout."""

    answers: list[str]


def answer(ask: Ask) -> Answers:
    """Return the most likely answer to each prompt, written as prompts are for training; computed on the CPU."""
    below = None if ask.base is None else _ref(ask.base)
    ref = _ref(ask.model).model_copy(update={"kind": ask.kind, "base": below})
    tokenizer = load_tokenizer(ref)
    model: Any = AutoModelForCausalLM.from_pretrained(ask.base or ask.model, dtype=torch.float32)
    if ask.kind == "adapter":
        model = PeftModel.from_pretrained(model, ask.model)
    model.eval()
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=ask.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )
    answers = []
    for prompt in ask.prompts:
        tokens = torch.tensor([_tokens(tokenizer, prompt)])
        written = model.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), generation_config=greedy)
        answers.append(str(tokenizer.decode(written[0, tokens.shape[1] :], skip_special_tokens=True)).strip())
    return Answers(answers=answers)


def _ref(path: str) -> ModelRef:
    return ModelRef(model_id=path, path=path, source="directory")


def _tokens(tokenizer: PreTrainedTokenizerBase, prompt: str) -> Sequence[int]:
    """Return a prompt's tokens, as they were when it was trained on."""
    leading = [] if tokenizer.chat_template is not None else leading_tokens(tokenizer)
    return [*leading, *tokenizer(prompt_text(tokenizer, prompt), add_special_tokens=False)["input_ids"]]


def main() -> None:
    """Answer what stdin asks."""
    transformers_logging.disable_progress_bar()
    sys.stdout.write(answer(Ask.model_validate_json(sys.stdin.buffer.read())).model_dump_json() + "\n")


if __name__ == "__main__":
    main()
