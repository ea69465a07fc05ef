"""Which names are modules of a model: as PEFT matches them, on files that may be those of the bare model."""

import pytest

from ftactors.core.model_facts import facts_of
from ftactors.core.targets import find_targets
from tests.model_dirs import GPT2_CONFIG, GPT2_SHAPES, LLAMA_CONFIG, LLAMA_SHAPES, header

GPT2 = facts_of(GPT2_CONFIG, header(GPT2_SHAPES))
LLAMA = facts_of(LLAMA_CONFIG, header(LLAMA_SHAPES))


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (GPT2, "c_attn"),
        (GPT2, "attn.c_attn"),
        (GPT2, "h.0.attn.c_attn"),
        (GPT2, "transformer.h.0.attn.c_attn"),
        (GPT2, "lm_head"),
        (LLAMA, "q_proj"),
        (LLAMA, "layers.0.self_attn.q_proj"),
        (LLAMA, "model.layers.0.self_attn.q_proj"),
        (LLAMA, "lm_head"),
    ],
)
def test_a_path_or_the_end_of_one_is_a_module(facts, name):
    assert find_targets([name], facts).names == (name,)


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (GPT2, "nonsense.lm_head"),
        (GPT2, "transformer.lm_head"),
        (GPT2, "nonsense.h.0.attn.c_attn"),
        (GPT2, "model.h.0.attn.c_attn"),
        (GPT2, "transformer.attn.c_attn"),
        (GPT2, "attn"),
        (LLAMA, "model.lm_head"),
        (LLAMA, "model.model.layers.0.self_attn.q_proj"),
        (LLAMA, "transformer.model.layers.0.self_attn.q_proj"),
    ],
)
def test_a_name_with_a_part_that_the_model_lacks_is_no_module(facts, name):
    assert find_targets([name], facts).unknown == (name,)
