"""Scores and answers from text, as harnesses ask for them; lm-eval itself where it is installed."""

import importlib
import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import ANY

import pytest
import torch

from illada_lab.data.build_tokenizer import byte_tokenizer, word_tokenizer
from illada_lab.data.chat import ChatTemplate
from illada_lab.evaluation import chain_rule_log_likelihoods, confidence_score, monte_carlo_log_likelihoods
from illada_lab.evaluation.answerer import Answerer
from illada_lab.evaluation.generation import seed_of
from illada_lab.evaluation.journal import Notes
from illada_lab.processes import join
from illada_lab.training.checkpoint import LoadedRun, load_run
from tests.processes import together
from tests.small import small_predictor

TOKENIZER = byte_tokenizer()
UPSTREAM = "illada_lab.evaluation.upstream"


def answerer(**settings) -> Answerer:
    sizes = {"vocab_size": TOKENIZER.vocab_size, **settings.pop("sizes", {})}
    return Answerer(predictor=small_predictor(**sizes), tokenizer=TOKENIZER, **settings)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def test_scores_are_those_of_the_rules():
    requests = [("two is", " 2"), ("one is ", "1"), ("", "x")]
    pairs = [([0, *ids("two is")], ids(" 2")), ([0, *ids("one is")], ids(" 1")), ([0], ids("x"))]
    one = answerer(scoring="confidence")
    for (value, is_greedy), (prompt, response) in zip(one.log_likelihoods(requests), pairs, strict=True):
        alone = confidence_score(one.predictor, torch.tensor(prompt), torch.tensor(response), append=torch.tensor([2]))
        assert value == pytest.approx(alone[0], abs=1e-4) and is_greedy is False
    many = answerer(scoring="monte_carlo", n_samples=5, seed=4)
    own = [torch.Generator().manual_seed(seed_of(many.seed, pair)) for pair in pairs]
    expected = monte_carlo_log_likelihoods(many.predictor, pairs, 5, generator=own, append=[2])
    # What a request draws depends on the seed and itself, not on what else is asked.
    assert many.log_likelihoods(requests[1:])[0][0] == pytest.approx(expected[1][0], abs=1e-4)
    others = [answerer(scoring="monte_carlo", n_samples=5, seed=n).log_likelihoods(requests) for n in range(6)]
    assert len({str(found) for found in others}) > 1
    assert [v for v, _ in many.log_likelihoods(requests)] == pytest.approx([v for v, _ in expected], abs=1e-4)
    bare = answerer(scoring="monte_carlo", n_samples=5, seed=4, has_eos=False).log_likelihoods(requests)
    assert [v for v, _ in bare] != pytest.approx([v for v, _ in expected], abs=1e-3)
    twin = answerer(scoring="chain_rule", sizes={"is_causal": True})
    assert twin.has_eos is None
    exact = chain_rule_log_likelihoods(twin.predictor, pairs)
    assert [v for v, _ in twin.log_likelihoods(requests)] == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("gap", [" ", "\n", " \n\t", "\u00a0"])
def test_white_space_at_the_end_of_a_context_is_scored(gap):
    """As lm-eval splits."""
    assert answerer().pair(f"A:{gap}", "Yes") == ([0, *ids("A:")], ids(f"{gap}Yes"))


def test_guidance_is_honoured_in_scores_and_answers():
    plain, guided = answerer(), answerer(guidance_scale=2.0)
    assert plain.log_likelihoods([("ab", "cd")])[0][0] != pytest.approx(guided.log_likelihoods([("ab", "cd")])[0][0])
    options = {"until": [], "max_gen_toks": 6}
    assert plain.answers([("ab", options)]) != guided.answers([("ab", options)])


@pytest.mark.parametrize("scoring", ["confidence", "chain_rule"])
def test_the_greedy_answer_is_greedy(scoring):
    own = {"sizes": {"is_causal": True}} if scoring == "chain_rule" else {"block_length": 4}
    one = answerer(scoring=scoring, has_greedy=True, **own)
    contexts = ["ab", "one", "two", "x", "what is it ?"]
    said = one.answers([(context, {"max_gen_toks": 4}) for context in contexts])
    # Bytes that make no character are not read back as they were written.
    context, text = next(pair for pair in zip(contexts, said, strict=True) if len(ids(pair[1])) == 4)
    assert one.log_likelihoods([(context, text), (context, "zzzz")]) == [(ANY, True), (ANY, False)]


@pytest.mark.parametrize(
    ("kind", "metrics", "is_counted"),
    [
        ("loglikelihood", ["perplexity", "acc"], True),
        ("loglikelihood", ["perplexity"], False),
        ("multiple_choice", ["acc", "acc_norm"], False),
        ("multiple_choice", ["exact_match"], True),
        ("generate_until", ["exact_match"], False),
    ],
)
def test_greedy_answers_are_found_out_where_a_metric_counts_them(kind, metrics, is_counted):
    """Otherwise a model that says exactly the candidate would score 0."""
    one = answerer(scoring="monte_carlo", n_samples=1, block_length=4)
    contexts = ["ab", "one", "two", "x", "what is it ?"]
    said = one.answers([(context, {"max_gen_toks": 4}) for context in contexts])
    request = next(pair for pair in zip(contexts, said, strict=True) if len(ids(pair[1])) == 4)
    one.expect("a", kind, metrics)
    one.expect("another", "multiple_choice", ["acc"])  # asked of the same model, in the same call
    assert one.has_greedy is is_counted and one.log_likelihoods([request]) == [(ANY, is_counted)]


@pytest.mark.parametrize("metric", ["perplexity", "word_perplexity", "bits_per_byte"])
def test_perplexities_are_made_of_likelihoods(metric):
    with pytest.raises(
        ValueError, match=f"scoring = confidence; no likelihood, so no {metric}, which lambada asks for"
    ):
        answerer(scoring="confidence").expect("lambada", "loglikelihood", ["acc", metric])
    answerer(scoring="monte_carlo").expect("lambada", "loglikelihood", ["acc", metric])
    for has_eos in (True, False):
        one = answerer(scoring="monte_carlo", has_eos=has_eos)
        one.expect("pile", "loglikelihood_rolling", [metric])
        one.expect("another", "multiple_choice", ["acc"])
        assert one.ends_texts == has_eos
    answerer(scoring="chain_rule", sizes={"is_causal": True}).expect("lambada", "loglikelihood", ["acc", metric])


def test_budgets_that_the_context_cuts():
    """A context of 64, half of it at least for the prompt: 40 tokens of an answer are had behind 24, 32 behind more."""
    one = answerer(block_length=8)
    options = {"max_gen_toks": 40}
    assert one.cut_budgets([("a" * n, options) for n in (23, 24, 31, 60)]) == [32, 32, 32]
    assert one.cut_budgets([("a" * 60, {"max_gen_toks": 32})]) == []


@pytest.mark.parametrize("scoring", ["monte_carlo", "chain_rule"])
def test_rolling_adds_up_windows(scoring, capsys):
    """65 bytes in a context of 64: windows of 32, 32 and 1; that a window has only the end of the text behind it is no news."""
    one = answerer(scoring="monte_carlo", n_samples=2)
    if scoring == "chain_rule":
        one = answerer(scoring=scoring, sizes={"is_causal": True})
    text = "a" * 30 + "b" * 35
    (value,) = one.rolling_log_likelihoods([text])
    x = ids(text)
    pairs = [([0], x[:32]), ([0, *x[1:32]], x[32:64]), ([0, *x[2:64]], x[64:])]
    assert value == pytest.approx(sum(answerer_scores(scoring, one, pairs)), abs=1e-3)
    assert capsys.readouterr().err == ""
    if scoring == "monte_carlo":  # the end of the text, and of nothing else
        one.expect("text", "loglikelihood_rolling", ())
        inner, last = one._scores(pairs[:2], []), one._scores([([0, *x[3:64]], x[64:])], [one.predictor.tokens.eos])
        assert one.rolling_log_likelihoods([text])[0] == pytest.approx(sum(inner) + last[0], abs=1e-3) != value
    with pytest.raises(ValueError, match="text 1 = ''"):
        one.rolling_log_likelihoods(["a", ""])
    with pytest.raises(ValueError, match="scoring = confidence; no likelihood"):
        answerer().rolling_log_likelihoods(["a"])


def answerer_scores(scoring, one, pairs):
    if scoring == "chain_rule":
        return chain_rule_log_likelihoods(one.predictor, pairs)
    own = [torch.Generator().manual_seed(seed_of(one.seed, pair)) for pair in pairs]
    found = monte_carlo_log_likelihoods(one.predictor, pairs, 2, generator=own)
    return [value for value, _ in found]


def test_answers_stop_at_strings_and_do_not_depend_on_their_batch():
    one = answerer(block_length=4)
    options = {"until": [], "max_gen_toks": 12}
    contexts = ["ab", "what is it ?", "x"]
    together = one.answers([(context, options) for context in contexts])
    assert together == [answerer(block_length=4).answers([(context, options)])[0] for context in contexts]
    stop = next(said for said in together if len(said) > 3)[2]
    cut = one.answers([(context, {**options, "until": [stop]}) for context in contexts])
    assert [said.split(stop)[0] for said in together] == cut


def test_options_of_harnesses():
    one = answerer(block_length=4)
    assert one._sampler({"until": "x", "max_gen_toks": 9}).stop_strings == ["x"]
    assert one._sampler({"max_gen_toks": 3}).block_length == 3
    for name in ("max_new_tokens", "max_tokens", "max_completion_tokens"):  # as lm-eval's own models take them
        assert one._sampler({name: 9, "num_beams": 1}).max_length == 9
        assert one._sampler({name: 9, "max_gen_toks": 5}).max_length == 5
    assert one._sampler({}).end_of_thinking is None
    push = answerer(thinking_power=3.0)._sampler({}).end_of_thinking
    assert (push.sequence, push.power, push.amount) == (ids("</think>"), 3.0, 100.0)
    assert one._sampler({"do_sample": False, "temperature": 0.7}).temperature == 0.0
    hot = one._sampler({"do_sample": True, "temperature": 0.7, "top_p": 0.9})
    assert (hot.temperature, hot.top_p) == (0.7, 0.9)
    # A temperature says by itself that an answer is drawn.
    assert one._sampler({"temperature": 0.7, "top_k": 3}).temperature == 0.7
    for quiet in ({"do_sample": False}, {"temperature": 0.0}, {"do_sample": False, "temperature": 0}, {"top_p": None}):
        assert one._sampler({"until": ["x"], **quiet}).temperature == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 4}, "num_beams = 4; not an option"),
        ({"max_new_tokens": 0}, "max_gen_toks = 0; no room for an answer; 1 or more"),
        ({"do_sample": True}, "temperature = null; do_sample = true draws at none; above 0, or do_sample=false"),
        ({"do_sample": True, "temperature": 0.0}, "temperature = 0.0; do_sample = true draws at none; above 0"),
        ({"temperature": -1.0}, "temperature = -1.0; .*; above 0"),
        ({"top_p": 0.9}, "top_p = 0.9; has no effect on the likeliest token; null, or a temperature above 0"),
        ({"do_sample": False, "temperature": 0.7, "top_k": 5}, "top_k = 5; has no effect on the likeliest token; null"),
        ({"max_gen_toks": 0}, "max_gen_toks = 0; no room for an answer; 1 or more"),
    ],
)
def test_options_of_harnesses_without_effect_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        answerer(block_length=4).answers([("a", options)])


def test_conversations_go_through_as_text():
    tokenizer = word_tokenizer(["what", "is", "it", "?", "this", "that"])
    one = Answerer(predictor=small_predictor(), tokenizer=tokenizer)
    messages = [
        {"role": "user", "content": "what is it ?"},
        {"role": "assistant", "content": "this"},
        {"role": "user", "content": "what ?"},
    ]
    text = one.chat(messages)
    assert one.encode(text) == ChatTemplate(tokenizer).prompt(messages)
    assert one.pair(text, "that") == (ChatTemplate(tokenizer).prompt(messages), tokenizer.encode("that"))
    assert one.encode(text + " that") == [*ChatTemplate(tokenizer).prompt(messages), *tokenizer.encode("that")]


def test_long_contexts_are_cut_and_long_candidates_refused(capsys):
    one = answerer()
    prompt, response = one.pair("a" * 100, "bc")
    assert len(prompt) + len(response) + 1 == 64 and prompt[0] == 0
    assert "cut on the left" in capsys.readouterr().err
    for continuation in ("b" * 63, ""):
        with pytest.raises(ValueError, match=f"continuation = '{continuation[:40]}'; "):
            one.pair("a", continuation)
    # Behind the candidate EOS, in front one token at least.
    for has_eos, most in ((True, 62), (False, 63)):
        one = answerer(has_eos=has_eos)
        assert one.pair("", "b" * most) == ([0], ids("b" * most))
        with pytest.raises(ValueError, match=f"{most + 1} tokens; 1 to {most}$"):
            one.pair("", "b" * (most + 1))


def test_contexts_that_lose_their_beginning_are_counted(capsys):
    """64 tokens: BOS, 61 of a context, one of a candidate and EOS; of an answer of 40 the half."""
    one = answerer(block_length=8)
    options = {"max_gen_toks": 40}
    candidates = [("a" * 61, "b"), ("a" * 62, "b"), ("a" * 62, "bb"), ("", "b")]
    assert one.n_cut(candidates) == 1, "one prompt, whatever stands behind it"
    assert one.n_cut([("a" * n, options) for n in (23, 31, 32, 60)]) == 2
    assert one.n_cut([*candidates, ("a" * 60, options)]) == 2 and one.n_cut([]) == 0
    assert capsys.readouterr().err == ""
    one.log_likelihoods(candidates)
    assert capsys.readouterr().err.count("cut on the left") == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scoring": "guess"}, "scoring = 'guess'; not a rule"),
        ({"scoring": "chain_rule"}, "scoring = chain_rule; not for this model; confidence or monte_carlo"),
        ({"scoring": "confidence", "sizes": {"is_causal": True}}, "not for this model; chain_rule"),
        ({"scoring": "chain_rule", "guidance_scale": 1.0, "sizes": {"is_causal": True}}, "guidance_scale = 1.0"),
        ({"scoring": "chain_rule", "has_eos": False, "sizes": {"is_causal": True}}, "has_eos = False; has no effect"),
        *(
            (
                {"scoring": "chain_rule", key: value, "sizes": {"is_causal": True}},
                f"{key} = {value}; has no effect on an auto",
            )
            for key, value in {"n_samples": 5, "block_length": 4, "steps_per_block": 2, "ends_texts": True}.items()
        ),
        ({"n_samples": 5}, "n_samples = 5; has no effect with scoring = confidence; null"),
        ({"ends_texts": True}, "ends_texts = True; has no effect with scoring = confidence; false"),
        ({"batch_size": 0}, "batch_size = 0; too few; 1 or more"),
        ({"max_length": 4, "block_length": 8}, "max_length = 4; less than one block of 8; 8 or more"),
        ({"block_length": 4, "steps_per_block": 5}, "steps_per_block = 5; more than a block has tokens; 1 to 4"),
        ({"max_length": 4, "steps_per_block": 5}, "steps_per_block = 5; more than a block has tokens; 1 to 4"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        answerer(**settings)


def test_settings_that_are_left_out_are_the_papers_where_they_play_a_part():
    told = {
        scoring: (one.n_samples, one.block_length, one.has_eos)
        for scoring in ("confidence", "monte_carlo", "chain_rule")
        for one in [answerer(scoring=scoring, sizes={"is_causal": scoring == "chain_rule"})]
    }
    assert told == {
        "confidence": (None, 32, True), "monte_carlo": (128, 32, True), "chain_rule": (None, None, None),
    }  # fmt: skip
    short = answerer(max_length=8)
    assert short.block_length == 8 == short._sampler({}).block_length
    assert answerer(block_length=8, steps_per_block=8)._sampler({"max_gen_toks": 3}).steps_per_block == 3


@pytest.fixture
def harness():
    """`illada_lab.evaluation.harness`; where lm-eval is not installed, on as much of it as the module names."""
    own = "illada_lab.evaluation.harness"
    if importlib.util.find_spec("lm_eval") is not None:
        yield importlib.import_module(own)
        return
    names = {
        "lm_eval": {},
        "lm_eval.api": {},
        "lm_eval.api.model": {"LM": object},
        "lm_eval.api.registry": {"register_model": lambda name: lambda model: model},
        "lm_eval.tasks": {"TaskManager": type("TaskManager", (), {})},
    }
    for name, content in names.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(content)
    try:
        yield importlib.import_module(own)
    finally:  # other tests ask whether there is an lm-eval
        for name in (*names, own, UPSTREAM):
            sys.modules.pop(name, None)


@pytest.fixture
def upstream(harness):
    """`illada_lab.evaluation.upstream`, in the same way."""
    return importlib.import_module(UPSTREAM)


@pytest.mark.parametrize(("batch_size", "size"), [(4, 4), ("4", 4), ("auto", 8), ("auto:4", 8)])
def test_batch_sizes_of_lm_eval(harness, batch_size, size):
    assert model_of(harness, batch_size).answerer.batch_size == size


@pytest.mark.parametrize("batch_size", [0, -1, "0", "1.5", "auto:", "auto:x", "automatic"])
def test_batch_sizes_that_are_none_are_refused(harness, batch_size):
    with pytest.raises(ValueError, match=f"batch_size = {batch_size}; not a number of answers; a whole number from 1"):
        model_of(harness, batch_size)


def loaded_model(tokenizer=TOKENIZER):
    predictor = small_predictor(vocab_size=tokenizer.vocab_size)
    return LoadedRun(predictor, tokenizer, {"data": {}, "scale": {"name": "toy"}}, step=1, path=Path("a"))


def model_of(harness, batch_size=8, **settings):
    model = harness.IlladaLab(
        "a", loaded=settings.pop("loaded", None) or loaded_model(), batch_size=batch_size, **settings
    )
    model.cache_hook = SimpleNamespace(add_partial=lambda *_: None)
    return model


@pytest.mark.parametrize(("family", "has_eos"), [(False, False), (True, True), (None, True)])
def test_eos_behind_candidates_is_the_familys_where_nothing_is_said(harness, monkeypatch, family, has_eos):
    monkeypatch.setattr(harness, "is_published", lambda path: True)
    monkeypatch.setattr(harness, "scores_with_eos", lambda path: family)
    assert model_of(harness).answerer.has_eos is has_eos
    assert model_of(harness, has_eos=not has_eos).answerer.has_eos is not has_eos


def test_tasks_that_run_what_a_model_writes_are_left_to_the_sandbox(upstream, monkeypatch):
    task = SimpleNamespace(UNSAFE_CODE=True, get_config={"output_type": "generate_until"}.get, aggregation=dict)
    monkeypatch.setattr(upstream.TaskManager, "__init__", lambda self: None)
    monkeypatch.setattr(upstream.TaskManager, "load", lambda self, tasks: {"tasks": {"mbpp": task}}, raising=False)
    index = {"humaneval": SimpleNamespace(cfg={"unsafe_code": True})}
    monkeypatch.setattr(upstream.TaskManager, "task_index", index, raising=False)
    checked = upstream.CheckedTasks(n_shots=0, scoring=None, answerer=answerer())
    local = {"group": "humaneval_from_files", "task": [{"task": "humaneval", "dataset_path": "json"}]}
    for name, given in (("mbpp", "mbpp"), ("humaneval", "humaneval"), ("humaneval", local)):
        with pytest.raises(
            ValueError, match=f"task = {name}; runs what a model writes, without a sandbox; tasks=human"
        ):
            checked.load([given])
    task.UNSAFE_CODE = False
    assert checked.load(["mbpp"])


def test_a_model_says_where_it_computed(harness):
    assert model_of(harness).get_model_info()["device"] == "cpu"


def asked(*args, idx=0, task_name="a", doc_id=0):
    return SimpleNamespace(args=args, idx=idx, task_name=task_name, doc_id=doc_id)


def test_answers_are_told_with_what_they_took(harness):
    model, told = model_of(harness, block_length=4), []
    model.on_answers = lambda records, seconds: told.extend([*records, seconds])
    requests = [asked("ab", {"max_gen_toks": 4}), asked("x", {"max_gen_toks": 8}, task_name="b/c", doc_id=3)]
    texts = model.generate_until([*requests, requests[0]])
    *records, seconds = told
    assert [r["key"] for r in records] == ["a/0/0/0", "b/c/3/0/0", "a/0/0/1"] and seconds > 0
    assert [r["text"] for r in records] == texts and [r["nfe"] for r in records] == [4, 8, 4]
    assert {r["stop_reason"] for r in records} <= {"eos", "length"} and all(r["n_tokens"] <= 8 for r in records)


def test_answers_of_lm_eval_tasks_have_items_and_a_panel(tmp_path):
    from illada_lab.evaluation.harness_task import _health, _judged

    notes = Notes(tmp_path / "items.jsonl")
    answer = {"text": "so", "stop_reason": "eos", "n_tokens": 2, "nfe": 4}
    notes.add([{"key": f"b/c/{n}/0/0", **answer, "n_tokens": 2 * n} for n in range(2)], 0.5)
    sample = {"doc_id": 1, "target": "42", "filter": "strict", "metrics": ["exact_match"], "exact_match": 1.0}
    _judged(notes, {"samples": {"b/c": [sample, {**sample, "filter": "flexible", "exact_match": 0.0}]}})
    told = [json.loads(line) for line in notes.file.read_text().splitlines()]
    judged = {"target": "42", "exact_match, strict": 1.0, "exact_match, flexible": 0.0}
    assert told == [{"key": "b/c/0/0/0", **answer, "n_tokens": 0}, {"key": "b/c/1/0/0", **answer, **judged}]
    panel = {row["name"]: row["value"] for row in _health(notes, TOKENIZER.tokens)}
    assert (panel["empty answers"], panel["stop reasons"], panel["tokens per second"]) == ("50.0%", "eos 100.0%", "4")
    assert "EOS by step" not in panel
    resumed = {row["name"] for row in _health(Notes(notes.file), TOKENIZER.tokens)}
    assert resumed == set(panel) - {"tokens per second"} and _health(Notes(tmp_path / "none"), TOKENIZER.tokens) == []


def test_local_data_that_have_changed_are_other_data(tmp_path):
    (tmp_path / "test.jsonl").write_text("1")
    whole, of_file = harness_task(tmp_path)._digests(), harness_task(tmp_path / "test.jsonl")._digests()
    assert whole == of_file and set(whole) == {"test.jsonl"}
    (tmp_path / "test.jsonl").write_text("2")
    assert harness_task(tmp_path)._digests() != whole
    (tmp_path / "train.jsonl").write_text("2")
    assert set(harness_task(tmp_path)._digests()) == {"test.jsonl", "train.jsonl"}
    assert harness_task(tmp_path / "none")._digests() == {}


def test_greedy_answers_are_found_out_where_nobody_said_what_the_metrics_are(harness, capsys):
    """lm-eval called directly: a candidate that stands alone (LAMBADA) is right if the model writes it."""
    model = model_of(harness, scoring="monte_carlo", n_samples=1, block_length=4)
    contexts = ["ab", "one", "two", "x", "what is it ?"]
    said = model.answerer.answers([(context, {"max_gen_toks": 4}) for context in contexts])
    own = next(pair for pair in zip(contexts, said, strict=True) if len(ids(pair[1])) == 4)
    alone, among = asked(*own), [asked(*own, task_name="b"), asked(own[0], "zzzz", idx=1, task_name="b")]
    assert model.loglikelihood([alone, *among]) == [(ANY, True), (ANY, False), (ANY, False)]
    model.answerer.expect("a", "loglikelihood", ["perplexity"])  # it was said
    assert model.loglikelihood([alone]) == [(ANY, False)] and capsys.readouterr().err == ""
    model_of(harness, scoring="confidence").loglikelihood([asked("ab", "c")])
    assert "scoring = confidence; no likelihood, so no perplexity can be made of it" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "seed"), [({}, 7), ({"seed": 3}, 3)])
def test_lm_evals_command_line_tells_the_model_of_its_tasks_and_its_seed(harness, monkeypatch, given, seed):
    monkeypatch.setattr(harness, "load_run", lambda checkpoint: loaded_model())
    settings = {"torch_random_seed": 7, "batch_size": "auto", "device": None, "limit": 1}
    task = SimpleNamespace(get_config={"output_type": "loglikelihood"}.get, aggregation=lambda: {"acc": None})

    def evaluate(*, model, task_manager, **others):
        assert model.answerer.has_greedy is None and others == {**settings, "model_args": {"checkpoint": "a", **given}}
        task_manager.load(["lambada"])
        return model

    manager = SimpleNamespace(load=lambda tasks: {"tasks": dict.fromkeys(tasks, task)})
    words = {"model": "illada_lab", "model_args": {"checkpoint": "a", **given}, "task_manager": manager, **settings}
    model = harness.telling(evaluate)(**words)
    assert (model.answerer.seed, model.answerer.has_greedy) == (seed, True)
    assert not model.answerer.ends_texts
    task.get_config = {"output_type": "loglikelihood_rolling"}.get
    assert harness.telling(evaluate)(**words).answerer.ends_texts, "as where the package calls lm-eval itself"
    task.aggregation = lambda: {"perplexity": None}
    with pytest.raises(
        ValueError, match="scoring = confidence; no likelihood, so no perplexity, which lambada asks for"
    ):
        harness.telling(evaluate)(**words)
    assert harness.telling(lambda **given: given)(**{**words, "model": "hf"})["model"] == "hf"


@pytest.mark.parametrize("has_eos", [True, False])
def test_whole_texts_have_one_score_whoever_asks(harness, has_eos):
    """lm-eval called directly, and told of the task before."""
    settings = {"scoring": "monte_carlo", "n_samples": 2, "has_eos": has_eos, "has_bos": True}
    direct, told = model_of(harness, **settings), model_of(harness, **settings)
    told.answerer.expect("text", "loglikelihood_rolling", ["bits_per_byte"])
    found = [model.loglikelihood_rolling([asked("so it is")]) for model in (direct, told)]
    assert found[0] == found[1] and direct.answerer.has_greedy is None
    bare = answerer(**settings).rolling_log_likelihoods(["so it is"])
    assert (found[0] == bare) is not has_eos


def test_answers_that_are_drawn_several_times_differ(harness):
    """A task's `repeats`: lm-eval puts a request several times into one call."""
    model, options = model_of(harness, block_length=4), {"max_gen_toks": 4, "do_sample": True, "temperature": 2.0}
    request, other = asked("ab", options), asked("cd", options)
    found = model.generate_until([request, request, other, request])
    assert len({found[0], found[1], found[3]}) == 3
    assert model.generate_until([other, request, request]) == [found[2], found[0], found[1]]
    assert model.answerer.answers([("ab", options)]) == found[:1]


def test_an_answer_can_begin_with_words_that_a_task_gives(harness):
    """lm-eval's `gen_prefix`: the last turn is the assistant's, and is gone on from."""
    tokenizer = word_tokenizer(["what", "is", "it", "?", "the", "answer"])
    model, history = model_of(harness, loaded=loaded_model(tokenizer)), [{"role": "user", "content": "what is it ?"}]
    begun = [*history, {"role": "assistant", "content": "the answer is"}]
    text = model.apply_chat_template(begun, add_generation_prompt=False)
    prompt = ChatTemplate(tokenizer).prompt(history)
    assert model.answerer.encode(text) == [*prompt, *tokenizer.encode("the answer is")]
    assert model.answerer.encode(model.apply_chat_template(history)) == prompt
    for wrong in ([], history):
        with pytest.raises(ValueError, match="add_generation_prompt = false; the last turn is not the beginning"):
            model.apply_chat_template(wrong, add_generation_prompt=False)


class Tasks:
    """Splits of some of lm-eval's tasks, as its index tells of them."""

    all_groups = ()
    task_index = {
        name: SimpleNamespace(cfg=dict(zip(("training_split", "validation_split", "test_split"), splits, strict=True)))
        for name, splits in {
            "gsm8k": ("train", None, "test"),
            "hellaswag": ("train", "validation", None),
            "gpqa": ("train", "train", None),
            "flores": (None, "dev", "devtest"),
        }.items()
    }
    all_subtasks = tuple(task_index)


@pytest.mark.parametrize(
    ("name", "files", "absent"),
    [
        ("gsm8k", ["test"], {"training_split"}),
        ("gsm8k", ["test", "train"], set()),
        ("hellaswag", ["validation"], {"training_split"}),
        ("gpqa", ["train"], set()),
        ("flores", ["dev", "devtest"], set()),
        ("flores", ["dev"], {"test_split"}),
    ],
)
def test_splits_that_are_at_hand_are_used_whatever_a_task_calls_them(
    upstream, monkeypatch, tmp_path, name, files, absent
):
    monkeypatch.setattr(upstream, "TaskManager", Tasks)
    for file in files:
        (tmp_path / f"{file}.jsonl").write_text("{}\n")
    (told,) = upstream.local_task(name, tmp_path)["task"]
    assert {key for key in told if key.endswith("_split")} == absent and all(told[key] is None for key in absent)
    assert set(told["dataset_kwargs"]["data_files"]) == set(files)


@pytest.mark.parametrize(
    ("name", "message"),
    [("gsm8k", "test.jsonl"), ("hellaswag", "validation.jsonl"), ("flores", "devtest.jsonl or dev.jsonl")],
)
def test_data_without_a_split_to_ask_of_are_refused(upstream, monkeypatch, tmp_path, name, message):
    monkeypatch.setattr(upstream, "TaskManager", Tasks)
    (tmp_path / "train.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=f"path = .*; nothing there that {name} asks of, only train.jsonl; {message}"):
        upstream.local_task(name, tmp_path)


def test_answers_are_told_from_other_requests():
    """Whole texts come alone, candidates with text, questions with options."""
    from illada_lab.evaluation.harness_task import _asked, _generated, _temperature

    arguments = [
        ("a whole text",),
        ("a question", " A"),
        ("a question", {"until": []}),
        ("an image", {"until": []}, []),
    ]
    found = {"samples": {"a": [{"arguments": [one]} for one in arguments], "b": []}}
    assert list(_generated(found)) == [("a question", {"until": []})]
    assert list(_asked(found)) == [("a question", " A"), ("a question", {"until": []})]
    assert _temperature(found) == 0.0
    found["samples"]["b"] = [{"arguments": [("a question", {"until": [], "do_sample": True, "temperature": 0.2})]}]
    assert _temperature(found) == [0.0, 0.2], "what a result says is what was drawn"


@pytest.fixture
def run(tmp_path):
    """A run's folder of a model that writes bytes."""
    from illada_lab.config import compose_and_check
    from illada_lab.training.run import train

    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"{i} and {i} is {2 * i} ." for i in range(400)))
    words = ["scale=smoke", "data=text", f"data.path={text}", "tokenizer=byte", "scale.n_steps=3"]
    train(
        compose_and_check([*words, "trainer.precision=32-true", "trainer.accelerator=cpu", f"run_dir={tmp_path}/run"])
    )
    return tmp_path / "run"


def test_lm_eval_runs_the_shipped_tasks_on_local_files(run, tmp_path):
    lm_eval = pytest.importorskip("lm_eval")
    from illada_lab.evaluation.harness import IlladaLab
    from illada_lab.evaluation.upstream import local_task

    files = {
        "gsm8k_local": [{"question": "one and one?", "answer": "1 + 1 = 2\n#### 2"}] * 3,
        "text_local": [{"text": "one and one"}, {"text": "two"}],
    }
    kinds = {"bbh_local": {"input": "not True is", "target": "False"}, "yes_no_local": {"input": "so?", "target": "No"}}
    for name, rows in files.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, example in kinds.items():
        (tmp_path / name).write_text(json.dumps({"canary": "", "examples": [example] * 2}))
    model = IlladaLab(str(run), scoring="monte_carlo", n_samples=2, block_length=4, max_length=8)
    tasks = [local_task(name, tmp_path / name) for name in (*files, *kinds)]
    for task in tasks:
        task.get("generation_kwargs", {}).update(max_gen_toks=8) if "generation_kwargs" in task else None
    found = lm_eval.simple_evaluate(model=model, tasks=tasks, bootstrap_iters=0)
    assert set(found["results"]) == {*files, *kinds}
    assert found["results"]["text_local"]["bits_per_byte,none"] > 0
    assert 0 <= found["results"]["yes_no_local"]["acc,none"] <= 1
    with pytest.raises(ValueError, match="task = mmlu; a group of several data sets"):
        local_task("mmlu", tmp_path)
    for name, path in (("gsm8k_local", tmp_path / "nowhere"), ("gsm8k", tmp_path / "nowhere")):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            local_task(name, path)


def problems(n: int) -> str:
    return "".join(json.dumps({"question": f"{i} and {i}?", "answer": f"So\n#### {2 * i}"}) + "\n" for i in range(n))


def harness_task(folder, **changes):
    from illada_lab.evaluation.harness_task import HarnessTask

    settings = {"name": "gsm8k", "task": "gsm8k", "path": str(folder), "n_shots": 2, "max_length": 8, "block_length": 4}
    return HarnessTask(**{**settings, **changes})


def test_tasks_of_lm_eval_run_unchanged_on_local_files(run, tmp_path, monkeypatch):
    """Upstream GSM8K with two examples from train.jsonl; the budget of the paper replaces the task's own."""
    pytest.importorskip("lm_eval")
    from illada_lab.evaluation import harness

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").write_text(problems(3))
    (tmp_path / "data" / "train.jsonl").write_text(problems(5).replace("and", "plus"))
    asked = []
    written = Answerer.written
    monkeypatch.setattr(Answerer, "written", lambda self, r, *more: asked.extend(r) or written(self, r, *more))
    monkeypatch.setattr(harness, "N_ANSWERED", 2)
    found = harness_task(tmp_path / "data").run(str(run), load_run(run), tmp_path / "out", seed=0, about={})
    assert found["manifest"]["n_items"] == 3 and {row["task"] for row in found["rows"]} == {"gsm8k"}
    told = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()]
    assert len(told) == 3 and all(r["nfe"] and r["target"] and "exact_match, strict-match" in r for r in told)
    assert {row["name"] for row in found["health"]} >= {"stop reasons", "empty answers", "tokens per second"}
    assert found["manifest"]["task_versions"]["gsm8k"] and len(found["manifest"]["sha256"]) == 2
    assert len(asked) == 3 and all(options["max_gen_toks"] == 8 for _, options in asked)
    assert all(text.count("Question:") == 3 and text.count("plus") == 2 for text, _ in asked)
    assert all(row["n"] == 3 and row["ci_low"] <= row["value"] <= row["ci_high"] for row in found["rows"])
    # Another call asks nothing again, and the model is read once: it may be large, and stand on a GPU.
    monkeypatch.setattr(harness, "load_run", interrupt)
    again = harness_task(tmp_path / "data").run(str(run), load_run(run), tmp_path / "out", seed=0, about={})
    assert len(asked) == 3 and again["rows"] == found["rows"]
    # Broken off between two batches: what was answered is kept, and comes out the same.
    for file in (tmp_path / "out").glob("asked*"):
        file.unlink()
    monkeypatch.setattr(Answerer, "written", lambda self, r, n: written(self, r, n) if len(r) == 2 else interrupt())
    with pytest.raises(KeyboardInterrupt):
        harness_task(tmp_path / "data").run(str(run), load_run(run), tmp_path / "out", seed=0, about={})
    monkeypatch.setattr(Answerer, "written", lambda self, r, *more: asked.extend(r) or written(self, r, *more))
    resumed = harness_task(tmp_path / "data").run(str(run), load_run(run), tmp_path / "out", seed=0, about={})
    assert len(asked) == 4 and resumed["rows"] == found["rows"]
    assert [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()] == told
    (tmp_path / "data" / "test.jsonl").write_text(problems(4))
    with pytest.raises(ValueError, match="holds a run with sha256 = "):
        harness_task(tmp_path / "data").run(str(run), load_run(run), tmp_path / "out", seed=0, about={})


def interrupt():
    raise KeyboardInterrupt


SCORED = {"max_length": None, "block_length": None}


def scored_together(run, data, out, **changes):
    """A process of several that share lm-eval's questions."""
    torch.set_num_threads(1)
    join()
    asked, written = [], Answerer.written
    Answerer.written = lambda self, r, *more: asked.extend(text for text, _ in r) or written(self, r, *more)  # type: ignore
    try:
        found = harness_task(data, **changes).run(str(run), load_run(run), out, seed=0, about={})
    finally:
        Answerer.written = written
    return found["rows"], found["manifest"].get("n_processes"), asked


@pytest.mark.parametrize("kind", ["written", "scored"])
def test_processes_share_the_questions_of_lm_eval(run, tmp_path, kind):
    """Two come to what one does, with examples that are drawn question by question; more than there are questions are refused."""
    pytest.importorskip("lm_eval")
    changes, data = {}, tmp_path / "data"
    data.mkdir()
    (data / "test.jsonl").write_text(problems(5))
    (data / "train.jsonl").write_text(problems(9).replace("and", "plus"))
    if kind == "scored":
        data = tmp_path / "text.jsonl"
        data.write_text("".join(json.dumps({"text": f"{n} and {n}"}) + "\n" for n in range(5)))
        changes = {
            "task": "text_local",
            "n_shots": 0,
            "scoring": "monte_carlo",
            "n_samples": 2,
            "has_eos": False,
            **SCORED,
        }
    found, items = {}, {}
    for n in (1, 2):
        out = tmp_path / str(n)
        found[n] = together(n, partial(scored_together, **changes), run, data, out)
        lines = (out / "items.jsonl").read_text().splitlines() if kind == "written" else []
        items[n] = {line["key"]: line for line in map(json.loads, lines)}
        assert not list(out.glob("items-*"))
    ((alone, _, asked),) = found[1]
    (first, n, own), (second, _, others) = found[2]
    assert n == 2 and second == [] and items[1] == items[2] and len(items[1]) == (5 if kind == "written" else 0)
    # Examples in front included, which are drawn.
    assert sorted(own + others) == sorted(asked) and len(asked) == len(items[1])
    assert kind == "scored" or (own and others and len({text.rpartition("Question")[0] for text in asked}) > 1)
    assert [(r["task"], r["metric"], r["n"]) for r in first] == [(r["task"], r["metric"], r["n"]) for r in alone]
    assert [r["value"] for r in first] == pytest.approx([r["value"] for r in alone], rel=1e-6)
    changes["n_items"] = 1
    with pytest.raises(AssertionError, match="processes = 2; more than the 1 questions of"):
        together(2, partial(scored_together, **changes), run, data, tmp_path / "few")


def test_whole_texts_are_scored_to_the_end(run, tmp_path):
    pytest.importorskip("lm_eval")
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("one and one is two .", "three")))
    settings = {
        "task": "text_local",
        "n_shots": 0,
        "scoring": "monte_carlo",
        "n_samples": 2,
        "has_eos": False,
        **SCORED,
    }
    found = harness_task(file, **settings).run(str(run), load_run(run), tmp_path / "out", seed=0, about={})
    assert found["manifest"]["n_items"] == 2 and "n_short_of_room" not in found["manifest"]
    assert {row["metric"] for row in found["rows"]} == {"bits_per_byte", "word_perplexity"}
    assert (tmp_path / "out" / "results.json").is_file()
    seen = harness_task(file, **{**settings, "has_eos": True}).run(
        str(run), load_run(run), tmp_path / "seen", seed=0, about={}
    )
    assert [result["manifest"]["ends_texts"] for result in (found, seen)] == [False, True]
    assert not any("given the length" in row["note"] for row in found["rows"])
    assert all("given the length" in row["note"] for row in seen["rows"])
    assert [row["value"] for row in seen["rows"]] != [row["value"] for row in found["rows"]]


def test_a_task_that_asks_of_its_training_split_runs_on_local_files(run, tmp_path):
    pytest.importorskip("lm_eval")
    (tmp_path / "data").mkdir()
    wrong = {f"Incorrect Answer {i}": str(i + 2) for i in (1, 2, 3)}
    row = {"Question": "one and one?", "Correct Answer": "2", **wrong}
    (tmp_path / "data" / "train.jsonl").write_text(json.dumps(row) + "\n")
    settings = {"task": "gpqa_main_zeroshot", "n_shots": 0, "scoring": "confidence", "has_eos": True, **SCORED}
    found = harness_task(tmp_path / "data", **settings).run(str(run), load_run(run), tmp_path / "out", seed=0, about={})
    assert found["manifest"]["n_items"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "gsm8l", "path": None}, "task = gsm8l; lm-eval has no such task; did you mean gsm8k"),
        ({"scoring": "confidence", "has_eos": True, **SCORED}, "scoring = confidence; has no effect on gsm8k"),
        ({"task": "yes_no_local", "n_shots": 0}, "scoring = null; has no effect on yes_no_local, which is multiple_choice"),
        ({"task": "yes_no_local", "n_shots": 0, "scoring": "confidence", "has_eos": True, **SCORED}, "an item without what"),
        (
            {"task": "text_local", "scoring": "monte_carlo", "n_samples": 1, "has_eos": False, **SCORED},
            "n_shots = 2; has no effect on text_local",
        ),
    ],
)  # fmt: skip
def test_settings_that_lm_eval_would_pass_over_are_refused(run, tmp_path, changes, message):
    pytest.importorskip("lm_eval")
    (tmp_path / "data").mkdir()
    for name in ("test", "train"):
        (tmp_path / "data" / f"{name}.jsonl").write_text(problems(2))
    if changes["task" if "task" in changes else "scoring"].endswith("_local"):
        file = tmp_path / "file"
        file.write_text(json.dumps({"text": "one"}) + "\n")
        if changes["task"] == "yes_no_local":
            asked = "question" if changes.get("scoring") else "input"
            file.write_text(json.dumps({"examples": [{asked: "so?", "target": "No"}]}))
        changes = {**changes, "path": str(file)}
    with pytest.raises(ValueError, match=message):
        harness_task(tmp_path / "data", **changes).run(str(run), load_run(run), tmp_path / "out", seed=0, about={})


LAST_WORD = {
    "task": "last_word", "dataset_path": "json", "test_split": "test", "output_type": "loglikelihood", "doc_to_text": "{{text}}",
    "doc_to_target": "{{last}}", "metric_list": [{"metric": "acc"}],
}  # fmt: skip


def test_lm_eval_counts_greedy_answers(run, tmp_path, monkeypatch):
    """A model that writes every candidate has an accuracy of 1 in a task of lm-eval's kind loglikelihood (LAMBADA)."""
    pytest.importorskip("lm_eval")
    from illada_lab.evaluation import upstream

    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "one and", "last": " two"}) + "\n")
    task = {**LAST_WORD, "dataset_kwargs": {"data_files": {"test": str(tmp_path / "test.jsonl")}}}
    monkeypatch.setattr(upstream, "local_task", lambda *_: task)
    monkeypatch.setattr(Answerer, "_greedy", lambda self, pairs: [True] * len(pairs))
    settings = {"task": "last_word", "n_shots": 0, **SCORED}
    own = {"scoring": "monte_carlo", "n_samples": 2, "has_eos": True}
    found = harness_task(tmp_path, **settings, **own).run(str(run), load_run(run), tmp_path / "out", seed=0, about={})
    assert {row["metric"]: row["value"] for row in found["rows"]}["acc"] == 1.0 and found["manifest"]["has_greedy"]
    assert found["manifest"]["max_length"] is None and "n_short_of_room" not in found["manifest"]
    assert "n_prompts_cut" not in found["manifest"]
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "one and " * 250, "last": " two"}) + "\n")
    found = harness_task(tmp_path, **settings, **own).run(str(run), load_run(run), tmp_path / "cut", seed=0, about={})
    assert found["manifest"]["n_prompts_cut"] == 1
    task["metric_list"] = [{"metric": "acc"}, {"metric": "perplexity"}]
    with pytest.raises(ValueError, match="scoring = confidence; no likelihood, so no perplexity, which last_word asks"):
        harness_task(tmp_path, **settings, scoring="confidence", has_eos=True).run(
            str(run), load_run(run), tmp_path / "other", seed=0, about={}
        )
