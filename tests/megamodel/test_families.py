"""Families: the same logits as transformers, names and configurations both ways, refusals that teach."""

import pytest
import torch

from megamodel.config import ModelConfig
from megamodel.errors import ModelError
from megamodel.families import family_named, family_of
from tests.megamodel.models import CONFIGS, GPT2, SIZES, hf_model, our_model, random_weights


@pytest.mark.parametrize("name", CONFIGS)
def test_same_logits_as_transformers(name: str) -> None:
    config = CONFIGS[name]
    weights = random_weights(config)
    ids = torch.randint(config.vocab_size, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = our_model(config, weights)(ids)
        theirs = hf_model(config, weights)(ids).logits
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=2e-5 * float(theirs.abs().max()), rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_and_configuration_come_back(name: str) -> None:
    config = CONFIGS[name]
    weights = random_weights(config)
    family = family_of(config)
    again = family.weights_from_hf(config, family.weights_to_hf(config, weights))
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    read = family_named(family.config_to_hf(config)["model_type"]).config_from_hf(family.config_to_hf(config))
    # Unset sizes come back as the numbers that they stood for.
    resolved = {"num_key_value_heads": config.kv_heads, "head_dim": config.size_per_head}
    same_for_rope = {"rope_theta": read.rope_theta} if config.position_embedding == "learned" else {}
    assert read.model_copy(update=resolved) == config.model_copy(update=resolved | same_for_rope)


def test_a_gpt2_file_without_prefix_and_with_masks_is_read() -> None:
    config = CONFIGS["gpt2"]
    weights = random_weights(config)
    family = family_of(config)
    published = {k.removeprefix("transformer."): v for k, v in family.weights_to_hf(config, weights).items()}
    published["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    assert family.weights_from_hf(config, published).keys() == weights.keys()


@pytest.mark.parametrize("name", ["llama-gqa-tied", "gpt2"])
def test_a_tied_head_that_differs_is_refused(name: str) -> None:
    config = CONFIGS[name]
    theirs = family_of(config).weights_to_hf(config, random_weights(config))
    with pytest.raises(ModelError, match="tied"):
        family_of(config).weights_from_hf(config, theirs | {"lm_head.weight": torch.zeros(128, 64)})


def test_no_family_names_what_blocks_each() -> None:
    config = ModelConfig(**SIZES, position_embedding="learned")
    with pytest.raises(ModelError) as error:
        family_of(config)
    assert "to be llama, position_embedding=learned must be rope" in str(error.value)
    assert "to be gpt2, norm=rmsnorm must be layernorm, activation=swiglu must be gelu" in str(error.value)
    assert "attention_bias=false must be true" in str(error.value)


def test_gpt2_needs_whole_heads() -> None:
    config = ModelConfig(**SIZES, **GPT2, num_key_value_heads=2, head_dim=32)
    with pytest.raises(ModelError, match=r"num_key_value_heads=2.*head_dim=32"):
        family_of(config)


def test_a_llama_with_scaled_rotary_positions_is_refused() -> None:
    hf = family_named("llama").config_to_hf(CONFIGS["llama"]) | {
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}
    }
    with pytest.raises(ModelError, match="rope_type is llama3"):
        family_named("llama").config_from_hf(hf)


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ModelError, match="'bert' is not one of gpt2, llama"):
        family_named("bert")
