import pytest

from ftactors.core.architectures import LAYER_NAMES
from ftactors.core.model_facts import facts_of
from ftactors.core.targets import find_targets
from tests.model_dirs import GPT2_CONFIG, GPT2_SHAPES, LLAMA_CONFIG, LLAMA_SHAPES, header

GPT2 = facts_of(GPT2_CONFIG, header(GPT2_SHAPES))
LLAMA = facts_of(LLAMA_CONFIG, header(LLAMA_SHAPES))


def test_facts_tell_architecture_context_and_size():
    assert (GPT2.model_type, GPT2.architecture, GPT2.context_length) == ("gpt2", "GPT2LMHeadModel", 1024)
    assert (GPT2.dtype, GPT2.num_parameters) == ("float32", 1336)


def test_modules_with_a_matrix_are_told_from_the_others():
    assert "h.0.attn.c_attn" in GPT2.modules
    assert GPT2.other_modules == {"ln_f", "h.0.ln_1"}


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({}, None),
        ({"max_position_embeddings": 512}, 512),
        ({"max_seq_len": 2048}, 2048),
        ({"seq_length": 8192}, 8192),
        ({"model_type": "bloom", "seq_length": 2048}, None),
        ({"text_config": {"max_position_embeddings": 4096}}, 4096),
        ({"max_position_embeddings": 4096, "max_sequence_length": 16384}, 16384),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        ({"max_position_embeddings": -1}, None),
    ],
)
def test_the_context_is_the_greatest_that_the_configuration_speaks_of(config, context):
    assert facts_of(config, {}).context_length == context


def test_a_name_means_every_module_whose_path_ends_with_it():
    targets = find_targets(["c_attn", "mlp.c_proj", "transformer.h.0.attn.c_proj"], GPT2)

    assert targets.names == ("c_attn", "mlp.c_proj", "transformer.h.0.attn.c_proj")
    assert (targets.renamed, targets.unknown) == ((), ())


def test_the_end_of_a_name_is_no_name():
    assert find_targets(["attn"], GPT2).unknown == ("attn",)


def test_llamas_names_mean_the_models_own_each_once():
    targets = find_targets(["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"], GPT2)

    assert targets.names == ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj")
    assert targets.renamed[0] == ("q_proj", "c_attn")


def test_a_model_that_has_the_names_keeps_them():
    targets = find_targets(["q_proj", "v_proj"], LLAMA)

    assert (targets.names, targets.renamed) == (("q_proj", "v_proj"), ())


@pytest.mark.parametrize("model_type", sorted(LAYER_NAMES))
def test_every_architecture_of_the_table_has_a_name_for_each_of_llamas_layers(model_type):
    names = {f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")}

    assert names <= LAYER_NAMES[model_type].keys()
