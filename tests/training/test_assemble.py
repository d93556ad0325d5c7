"""A run put together from its configuration."""

from dataclasses import replace

from illada_lab.training.assemble import build_module
from tests.training.small_runs import parts


def test_an_eos_that_is_bos_as_well_is_validated(tmp_path):
    config, data, settings, here = parts(tmp_path)
    plain = build_module(config, data, settings, here, None).validation
    tokens = data.tokenizer.tokens
    data.tokenizer.tokens = replace(tokens, bos=tokens.eos)
    both = build_module(config, data, settings, here, None).validation
    assert plain is not None and both is not None
    # The documents still begin with the old BOS, which is now a token like any other.
    assert [len(positions) + 1 for positions in plain.maskable] == [len(positions) for positions in both.maskable]


def test_dropout_of_adapters_is_told_to_layers_that_are_computed_again(tmp_path):
    for dropout, expected in (("0.05", True), ("0.0", False)):
        overrides = ["lora=linear", f"lora.dropout={dropout}", "trainer.activation_checkpointing=1"]
        config, data, settings, here = parts(tmp_path, *overrides)
        assert build_module(config, data, settings, here, None)._placement.has_dropout is expected  # type: ignore[union-attr]
