"""What stands in front of a text of a published model: BOS where its tokenizer says or does so, or its family's code does."""

import json

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing

from illada_lab.commands.export_tokenizer import write_tokenizer
from illada_lab.commands.infill import text_ids
from illada_lab.commands.sample import prompt_ids
from illada_lab.config import compose
from illada_lab.data import word_tokenizer
from illada_lab.evaluation.answerer import Answerer
from illada_lab.interop import adds_bos, adds_eos, export_published, llada, scores_with_eos
from illada_lab.tokens import ILLADA, SpecialTokens, has_bos_of
from illada_lab.training.checkpoint import LoadedRun, load_run
from tests.interop.test_released import LLADA_8B
from tests.small import small_predictor

BOS = ILLADA.bos


def published(folder, layout, *, says=None, does=False):
    """A small model in a published layout; `says`: add_bos_token, `does`: the tokenizer's own encoding begins with BOS."""
    predictor, tokenizer = small_predictor(has_qk_norm=layout == "qwen3"), word_tokenizer(["ada", "lives", "in", "."])
    export_published(predictor, folder, layout)
    write_tokenizer(tokenizer, predictor.tokens, folder, max_length=64, is_chat=False, adds_bos=False, adds_eos=False)
    about = json.loads((folder / "tokenizer_config.json").read_text())
    for key in ("add_bos_token", "trained_with_bos", "trained_with_eos", "trained_on_chat"):
        del about[key]
    (folder / "tokenizer_config.json").write_text(json.dumps(about | ({} if says is None else {"add_bos_token": says})))
    if does:
        backend = Backend.from_file(str(folder / "tokenizer.json"))
        name = backend.id_to_token(BOS)
        backend.post_processor = TemplateProcessing(single=[name, "$A"], special_tokens=[(name, BOS)])
        backend.save(str(folder / "tokenizer.json"))
    return load_run(folder)


@pytest.mark.parametrize(
    ("layout", "says", "does", "has_bos"),
    [
        ("llada", None, False, False),
        ("llada", False, False, False),
        ("llada", True, False, True),
        ("llada", None, True, True),
        ("illada", None, False, True),
        ("illada", False, False, True),
        ("qwen3", None, False, False),
        ("qwen3", None, True, True),
    ],
)
def test_bos_stands_where_the_published_files_say(tmp_path, layout, says, does, has_bos):
    loaded = published(tmp_path, layout, says=says, does=does)
    head = [BOS] if has_bos else []
    ids = loaded.tokenizer.encode("ada lives")
    assert prompt_ids(compose(["prompt='ada lives'"]), loaded) == [*head, *ids]
    assert text_ids("ada lives ___", loaded) == [*head, *ids, ILLADA.mask]
    # Something must stand in front of a response.
    assert prompt_ids(compose([]), loaded) == [BOS]
    one = Answerer(
        predictor=loaded.predictor, tokenizer=loaded.tokenizer, has_bos=loaded.config["data"]["adds_bos"], has_eos=False
    )
    assert one.pair("ada lives", " in") == ([*head, *ids], loaded.tokenizer.encode("in"))
    assert one.pair("", "in") == ([BOS], loaded.tokenizer.encode("in"))


@pytest.mark.parametrize("trained", [True, False])
def test_a_model_of_ours_in_illadas_layout_says_what_it_learnt_from(tmp_path, trained):
    predictor, tokenizer = small_predictor(has_qk_norm=False), word_tokenizer(["ada", "lives", "in", "."])
    export_published(predictor, tmp_path, "illada")
    write_tokenizer(
        tokenizer, predictor.tokens, tmp_path, max_length=64, is_chat=False, adds_bos=trained, adds_eos=trained
    )
    assert adds_bos(tmp_path, tokenizer.backend) is adds_eos(tmp_path) is trained


def test_a_base_model_with_a_chat_template_is_not_taken_for_one_that_answers(tmp_path, capsys):
    """What our export says goes before the template, by which models of others are judged."""
    predictor, tokenizer = small_predictor(has_qk_norm=False), word_tokenizer(["ada", "lives", "in", "."])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    about = tmp_path / "tokenizer_config.json"
    export_published(predictor, tmp_path, "illada")
    for is_told, stage in ((False, "pretrain"), (True, "sft"), (None, "sft")):
        write_tokenizer(
            tokenizer, predictor.tokens, tmp_path, max_length=64, is_chat=bool(is_told), adds_bos=True, adds_eos=True
        )
        if is_told is None:
            told = json.loads(about.read_text())
            del told["trained_on_chat"]
            about.write_text(json.dumps(told))
        loaded = load_run(tmp_path)
        assert loaded.config["data"]["source"]["stage"] == stage and loaded.tokenizer.chat_template
        said = capsys.readouterr().err
        assert ("; taken for a chat model: only its chat template says so; is_chat=false" in said) is (is_told is None)
    # What a released one is called says it, wherever its files lie.
    for name, stage in (("LLaDA-8B-Base", "pretrain"), ("LLaDA-8B-Base/", "pretrain"), ("LLaDA-8B-Instruct", "sft")):
        (tmp_path.parent / name.rstrip("/")).unlink(missing_ok=True)
        (tmp_path.parent / name.rstrip("/")).symlink_to(tmp_path)
        assert load_run(f"{tmp_path.parent}/{name}").config["data"]["source"]["stage"] == stage
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("data", "front"),
    [
        ({"adds_bos": True, "adds_eos": True}, [ILLADA.bos]),
        ({"adds_bos": False, "adds_eos": True}, [ILLADA.eos]),
        ({"adds_bos": False, "adds_eos": False}, []),
        ({"adds_bos": True, "adds_eos": False}, [ILLADA.bos]),
    ],
)
def test_a_run_is_asked_behind_what_it_has_seen_in_front_of_a_text(tmp_path, data, front):
    """The run itself, and its export."""
    predictor, tokenizer = small_predictor(has_qk_norm=False), word_tokenizer(["ada", "lives", "in", "."])
    export_published(predictor, tmp_path, "illada")
    write_tokenizer(tokenizer, predictor.tokens, tmp_path, max_length=64, is_chat=False, **data)
    own = LoadedRun(predictor, tokenizer, {"data": {**data, "source": {}}}, step=1, path=tmp_path)
    ids = tokenizer.encode("ada lives")
    for loaded in (own, load_run(tmp_path)):
        assert prompt_ids(compose(["prompt='ada lives'"]), loaded) == [*front, *ids]
        behind = [ILLADA.eos] if data["adds_eos"] else []
        assert text_ids("ada lives ___", loaded) == [*front, *ids, ILLADA.mask, *behind]
        assert len(prompt_ids(compose([]), loaded)) == 1  # something must stand in front of a response
        one = Answerer(predictor=predictor, tokenizer=tokenizer, has_bos=has_bos_of(loaded.config["data"]))
        assert one.pair("ada lives", " in")[0] == [*front, *ids]


def test_llada_8b_has_none(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLADA_8B))
    assert not adds_bos(tmp_path, word_tokenizer(["ada"]).backend)


@pytest.mark.parametrize(
    ("layout", "is_ours", "has_eos"), [("illada", False, True), ("llada", False, False), ("llada", True, None)]
)
def test_eos_stands_behind_candidates_where_the_familys_code_puts_it(tmp_path, layout, is_ours, has_eos):
    loaded = published(tmp_path, layout)
    if is_ours:
        write_tokenizer(
            loaded.tokenizer,
            loaded.tokenizer.tokens,
            tmp_path,
            max_length=64,
            is_chat=False,
            adds_bos=True,
            adds_eos=False,
        )
    assert scores_with_eos(tmp_path) is has_eos


@pytest.mark.parametrize(("n_tokens", "named", "eot"), [(8, {}, None), (10, {}, 9), (8, {"eot_token_id": 7}, 7)])
def test_an_end_of_turn_that_the_tokenizer_lacks_is_left_out(tmp_path, monkeypatch, n_tokens, named, eot):
    """As of LLaDA's base model: its config.json names none, and its tokenizer ends before the id that the family has."""
    monkeypatch.setattr(llada, "LLADA", SpecialTokens(mask=5, eos=2, bos=0, eot=9))
    predictor = small_predictor(has_qk_norm=False)
    export_published(predictor, tmp_path, "llada")
    backend = Backend(WordLevel({f"<{i}>": i for i in range(n_tokens)}, unk_token="<3>"))
    backend.add_special_tokens([f"<{i}>" for i in range(6)])
    backend.save(str(tmp_path / "tokenizer.json"))
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("eot_token_id", None)
    (tmp_path / "config.json").write_text(json.dumps({**config, **named}))
    assert load_run(tmp_path).tokenizer.tokens.eot == eot
    if named:
        (tmp_path / "config.json").write_text(json.dumps({**config, "eot_token_id": 9}))
        with pytest.raises(ValueError, match="tokens.eot = 9; outside of the vocabulary; 0 to 7"):
            load_run(tmp_path)
