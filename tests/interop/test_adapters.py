"""Adapters in peft's files, put on the exported base by peft itself."""

import importlib.util
import re

import pytest
import torch
from safetensors.torch import load_file

from illada_lab.interop import export_adapters, export_published
from illada_lab.models.lora import Lora
from tests.small import small_predictor

missing = [name for name in ("peft", "transformers") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")
X = torch.tensor([[0, 9, 5, 11, 5, 13, 2], [0, 5, 5, 5, 20, 21, 22]])


def adapted(lora, **changes):
    """A predictor whose adapters do something."""
    predictor = lora.add_to(small_predictor(**changes))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in predictor.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(0.0, 0.2, generator=generator)
    return predictor.eval()


@torch.no_grad()
@pytest.mark.parametrize("layout", ["llama", "qwen3"])
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["o_proj", "down_proj", "gate_proj"]])
def test_peft_puts_them_on_the_exported_base(tmp_path, layout, targets):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    has_qk_norm = layout == "qwen3"
    base = export_published(small_predictor(has_qk_norm=has_qk_norm), tmp_path / "base", layout)
    lora = Lora(rank=3, alpha=5.0, targets=targets)
    predictor = adapted(lora, has_qk_norm=has_qk_norm)
    folder = export_adapters(predictor, lora, tmp_path / "adapters", layout, str(base))
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    full = torch.zeros(len(X), 1, X.shape[1], X.shape[1])
    learnt = predictor(X)
    assert (learnt - small_predictor(has_qk_norm=has_qk_norm)(X)).abs().max() > 0.1
    torch.testing.assert_close(theirs(X, attention_mask=full).logits, learnt, atol=1e-5, rtol=0)


def test_names_of_llada_reach_its_blocks_and_not_its_head(tmp_path):
    lora = Lora(rank=3)
    folder = export_adapters(adapted(lora), lora, tmp_path / "adapters", "llada", "GSAI-ML/LLaDA-8B-Base")
    names = set(load_file(folder / "adapter_model.safetensors"))
    assert len(names) == 2 * 7 * 2
    assert "base_model.model.model.transformer.blocks.1.ff_proj.lora_A.weight" in names
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(folder))
    assert config.base_model_name_or_path == "GSAI-ML/LLaDA-8B-Base"
    pattern = re.compile(config.target_modules)
    modules = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in names}
    assert all(pattern.fullmatch(module) for module in modules)
    assert not pattern.fullmatch("model.transformer.ff_out") and not pattern.fullmatch("model.transformer.wte")


def test_a_predictor_without_adapters_has_none_to_write(tmp_path):
    with pytest.raises(ValueError, match="it has no adapters"):
        export_adapters(small_predictor(), Lora(), tmp_path / "adapters")
    assert not (tmp_path / "adapters").exists()
