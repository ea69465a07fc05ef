"""Models, tokenizers and data small enough to be made in seconds, and real enough to be trained.

The language has one kind of sentence, `the red fox sees the old owl .`; the records to tune on ask for facts about it
that a pretrained model knows nothing of: `what does the fox see ?`, `the fox sees the owl .`
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

ADJECTIVES = ("red", "old", "small", "quiet", "clever", "green")
NOUNS = ("fox", "owl", "bear", "frog", "goat", "wolf", "crow", "mouse", "horse", "snake", "duck", "seal")
VERBS = ("see", "hear", "follow", "like")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
VOCABULARY = 400


def sentences(count: int, seed: int = 0) -> list[str]:
    """Return `count` random sentences of the language."""
    draw = random.Random(seed)
    return [
        f"the {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)} {draw.choice(VERBS)}s"
        f" the {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)} ."
        for _ in range(count)
    ]


def records(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return `count` rows of `prompt` and `completion`: facts, the same for every seed, drawn in another order."""
    draw = random.Random(seed)
    facts = [(adjective, noun, verb) for adjective in ADJECTIVES for noun in NOUNS for verb in VERBS]
    return [_record(*draw.choice(facts)) for _ in range(count)]


def messages(count: int, seed: int = 0) -> list[dict[str, list[dict[str, str]]]]:
    """Return the same rows as `records`, as conversations."""
    return [
        {
            "messages": [
                {"role": "user", "content": record["prompt"]},
                {"role": "assistant", "content": record["completion"]},
            ]
        }
        for record in records(count, seed)
    ]


def make_tokenizer(*, chat_template: bool = True) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on the language: 400 tokens; `<s>`, `</s>` and `<pad>` are special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = sentences(300) + [text for record in records(300) for text in record.values()]
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=256
    )
    if chat_template:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model_dir(
    path: Path,
    arch: Literal["llama", "gpt2"] = "llama",
    *,
    chat_template: bool = True,
    dtype: torch.dtype = torch.float32,
    context: int = 256,
    seed: int = 0,
) -> Path:
    """Write a random model of two layers and 64 dimensions with its tokenizer, and return `path`."""
    tokenizer = make_tokenizer(chat_template=chat_template)
    tokens: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(seed)
    model: PreTrainedModel
    if arch == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=context, **tokens))
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=context,
                **tokens,
            )
        )
    model.to(dtype).save_pretrained(path)  # type: ignore[arg-type]  # the stub of Module.to has no plain dtype
    tokenizer.save_pretrained(path)
    return path


def pretrain(path: Path, steps: int = 150, seed: int = 0) -> Path:
    """Train the model in `path` on the language, in place, and return `path`: an adapter needs something to adapt."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    texts = [f"{tokenizer.bos_token}{text}{tokenizer.eos_token}" for text in sentences(512, seed)]
    batch = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(texts), (16,), generator=generator)
        loss = model(
            input_ids=batch["input_ids"][rows], attention_mask=batch["attention_mask"][rows], labels=labels[rows]
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(path)
    return path


def _record(adjective: str, noun: str, verb: str) -> dict[str, str]:
    """Return what an animal sees, hears, follows or likes: another one, by a rule that has to be learned."""
    other = NOUNS[(NOUNS.index(noun) + 1 + VERBS.index(verb)) % len(NOUNS)]
    return {
        "prompt": f"what does the {adjective} {noun} {verb} ?",
        "completion": f"the {adjective} {noun} {verb}s the {other} .",
    }
