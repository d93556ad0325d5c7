"""Samples during training begin as documents do, each step has one."""

from unittest.mock import Mock

import lightning.pytorch as pl
import pytest

from illada_lab.config import to_plain
from illada_lab.data.tokenizer import Tokenizer
from illada_lab.tokens import has_bos_of
from illada_lab.training.assemble import build_module, build_trainer
from illada_lab.training.callbacks.samples import Samples
from illada_lab.training.module import DiffusionModule
from tests.training.small_runs import parts


def test_samples_of_fine_tuning_begin_as_conversations_do(tmp_path):
    config, data, settings, here = parts(tmp_path, "experiment=sft", "init_from=null")
    module = build_module(config, data, settings, here, None)
    trainer, _ = build_trainer(config, data, settings, here, module)
    (samples,) = (callback for callback in trainer.callbacks if isinstance(callback, Samples))  # type: ignore[attr-defined]
    assert not data.adds_bos and {d["ids"][0] for d in data.validation_documents()} == {samples.opening}


@pytest.mark.parametrize(("has_bos", "has_eos"), [(True, True), (False, True), (False, False)])
def test_samples_of_pretraining_begin_as_those_of_the_command_do(has_bos, has_eos, tmp_path):
    """Where documents have neither BOS nor EOS in front, a sample must not begin with the EOS that the model has never seen."""
    config, data, settings, here = parts(tmp_path, f"data.adds_bos={has_bos}", f"data.adds_eos={has_eos}")
    trainer, _ = build_trainer(config, data, settings, here, build_module(config, data, settings, here, None))
    (samples,) = (callback for callback in trainer.callbacks if isinstance(callback, Samples))  # type: ignore[attr-defined]
    tokens = data.tokenizer.tokens
    assert [samples.opening] == tokens.opened([], has_bos_of(to_plain(config.data)))
    assert samples.opening == (tokens.eos if has_eos and not has_bos else tokens.bos)


def test_samples_behind_the_step_that_a_run_goes_on_from_are_void(tmp_path):
    file = tmp_path / "samples.jsonl"
    kept = ['{"step": 10, "text": "a\u2028b"}', '{"step": 20, "text": "c"}']
    file.write_bytes("\n".join([*kept, '{"step": 30, "text": "d"}', '{"step": 40, "te']).encode() + b"\xe2\x80")
    samples = Samples(path=file, tokenizer=Mock(spec=Tokenizer), length=4, opening=0, every=10)
    samples.on_train_start(Mock(spec=pl.Trainer, global_step=20), Mock(spec=DiffusionModule))
    for step in (30, 40):
        samples._write(f'{{"step": {step}, "text": "e"}}\n')
    assert file.read_text().split("\n") == [*kept, '{"step": 30, "text": "e"}', '{"step": 40, "text": "e"}', ""]
    assert list(tmp_path.iterdir()) == [file]
