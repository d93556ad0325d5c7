"""The paper's task types in miniature, on the world's own questions.

| here | there |
|---|---|
| facts and sums, completed or chosen | MMLU, ARC-C: knowledge |
| endings of stories, chosen | HellaSwag, PIQA: sentence completion |
| word sums | GSM8K, MATH: several steps |
| who wrote a book that was only told from its author's side | the reversal experiment |
| equations with a hole (`world_tasks`) | BBH: symbolic reasoning |
| word sums in letters, answered by programs that are run (`world_functions`) | HumanEval, MBPP: function synthesis |

The autoregressive twin answers the same questions: greedily where a mask predictor samples, by the chain rule where it is scored.
"""

import random
from collections.abc import Sequence
from dataclasses import fields

from illada_lab.data.chat import ChatTemplate
from illada_lab.data.tokenizer import Tokenizer
from illada_lab.data.worlds import World, facts, sums
from illada_lab.data.worlds import lexicon as lx
from illada_lab.evaluation import world_functions as functions
from illada_lab.evaluation import world_tasks as tasks
from illada_lab.evaluation.autoregressive import Greedy
from illada_lab.evaluation.examiner import Asked, Examiner, SuiteResult, record, shares
from illada_lab.evaluation.generation import Generated, Sampler, is_right, steps_told
from illada_lab.evaluation.journal import Journal, Records
from illada_lab.evaluation.masked import looks_back
from illada_lab.evaluation.sandbox import run_programs
from illada_lab.evaluation.world_choices import Frame, ending_choices, fact_choice
from illada_lab.models.protocol import Predictor
from illada_lab.samplers import FixedLength, Rules, VariableLength

__all__ = ["BLOCK_LENGTH", "BUDGET", "TARGET", "SuiteResult", "evaluate_base", "evaluate_instruct"]

TARGET = 0.95
# How instruct models answer: tokens of a block and of an answer at most.
BLOCK_LENGTH, BUDGET = 8, 32


def evaluate_base(
    predictor: Predictor,
    tokenizer: Tokenizer,
    world: World,
    *,
    n_questions: int,
    n_mc_samples: int,
    has_bos: bool | None = True,
    has_eos: bool = True,
    sampler: Sampler | None = None,
    seed: int = 0,
    journal: Journal | None = None,
) -> SuiteResult:
    """A pre-trained model: completions of statements, and both scoring rules of multiple choice.

    Args:
        predictor: the model.
        tokenizer: its tokenizer.
        world: the world it was trained on.
        n_questions: items per task, at most.
        n_mc_samples: mask sets per candidate.
        has_bos: what stood in front of the documents that it was trained on, see `tokens.has_bos_of`.
        has_eos: whether EOS stood behind them.
        sampler: how statements are completed (`completing`); None: the surest first, one token per step; the twin greedily.
        seed: of items, masks and intervals.
        journal: keeps the items as they are answered; None: in memory only.
    """
    result, draw = SuiteResult(seed=seed), random.Random(seed)
    frame = Frame(predictor.tokens, has_bos, has_eos)
    examiner = Examiner(predictor, tokenizer, seed, journal or Journal(), result)
    encode = tokenizer.encode_known
    # The answer, the full stop and EOS: a statement's length is part of what the model is given.
    is_twin, n = looks_back(predictor), 2 + has_eos
    sampler = Greedy(max_length=n) if is_twin else completing(sampler, n)
    length, is_quota = getattr(sampler, "response_length", None), getattr(sampler, "transfer", None) is None
    result.settings = {
        "response_length": length, "block_length": getattr(sampler, "block_length", None) or length,
        "steps": (getattr(sampler, "n_steps", None) or length) if is_quota else None,
        "temperature": getattr(sampler, "temperature", 0.0), "n_mc_samples": n_mc_samples,
    }  # fmt: skip
    if is_twin:  # it writes until it ends, token by token, and its likelihood is exact
        result.settings = {"max_length": n, **dict.fromkeys(result.settings), "temperature": 0.0}

    def complete(task: str, asked: Sequence[tuple[str, str]], chance: float, target: float | None, note: str) -> None:
        found = examiner.write(
            task, [Asked(frame.front(encode(text)), text, answer) for text, answer in asked], sampler, _is_completed
        )
        result.add(task, "exact match", shares(found), chance=chance, target=target, note=note)

    statements = {
        "facts": [(fact.statements()[0], fact.answer) for fact in facts.all_facts(world.lexicon)],
        "sums": [(item.statements()[0], item.answer) for item in sums.all_sums()],
    }
    for task, listed in statements.items():
        chosen = draw.sample(listed, min(n_questions, len(listed)))
        asked = [(text.removesuffix(f" {answer} ."), answer) for text, answer in chosen]
        chance = 1 / len(lx.NUMBERS) if task == "sums" else chance_of_facts(world, [answer for _, answer in chosen])
        complete(f"{task}, completed", asked, chance, TARGET, "stated in pre-training, completed")

    facts_asked = [fact_choice(t, a, world, draw, encode, frame) for t, a in statements["facts"]][:n_questions]
    endings = ending_choices(world, n_questions, draw, encode, frame)
    rules = {"monte_carlo": f"Monte-Carlo likelihood, {n_mc_samples} samples", "confidence": "confidence score"}
    for task, items in (("facts, four candidates", facts_asked), ("story endings, four candidates", endings)):
        for rule, metric in ({"chain_rule": "likelihood, exact"} if is_twin else rules).items():
            n_samples = n_mc_samples if rule == "monte_carlo" else None
            result.add(task, metric, shares(examiner.choose(task, items, rule, n_samples)), chance=0.25)

    one_in = 1 / len(world.lexicon.people)
    told, reverse = tasks.told_statements(world, n_questions), tasks.reversed_statements(world, n_questions)
    complete("one-way books, as told", told, one_in, None, "told in this direction only")
    complete("one-way books, reversed", reverse, one_in, None, "told in the other direction only")

    def fill(task: str, part: Sequence[tasks.Hole]) -> Records:
        filled = zip(part, tasks.fill(predictor, tokenizer, part, frame), strict=True)
        return [_filled(task, hole, *found) for hole, found in filled]

    metric = "likeliest word of its kind" if is_twin else "exact match"
    for task, holes, note in (
        (
            "one-way books, author infilled",
            tasks.told_holes(world, n_questions),
            "a hole in the sentence that was told",
        ),
        ("equations, operand infilled", tasks.equations(n_questions, draw), "symbolic: the sum read backwards"),
    ):
        found = examiner.ask(task, holes, fill)
        result.add(task, metric, shares(found), chance=1 / len(holes[0].pool), note=note)
    return result


def evaluate_instruct(
    predictor: Predictor,
    tokenizer: Tokenizer,
    world: World,
    *,
    n_questions: int,
    sampler: Sampler | None = None,
    run_code: bool = False,
    seed: int = 0,
    journal: Journal | None = None,
) -> SuiteResult:
    """A fine-tuned model: questions that fine-tuning never asked, answered in words of its own.

    Args:
        predictor: the model.
        tokenizer: its tokenizer.
        world: the world it was trained on.
        n_questions: items per task, at most.
        sampler: how it answers; None: variable length, blocks of 8, one token per step, budget 32; the twin greedily.
        run_code: also ask for functions, and run what the model writes in the sandbox.
        seed: of the items and the intervals.
        journal: keeps the items as they are answered; None: in memory only.
    """
    result, chat = SuiteResult(seed=seed), ChatTemplate(tokenizer)
    usual = VariableLength(max_length=BUDGET, block_length=BLOCK_LENGTH)
    sampler = sampler or (Greedy(max_length=BUDGET) if looks_back(predictor) else usual)
    examiner = Examiner(predictor, tokenizer, seed, journal or Journal(), result)
    result.settings = {
        "max_length": getattr(sampler, "max_length", None), "block_length": getattr(sampler, "block_length", None),
        "steps_per_block": steps_told(sampler), "temperature": getattr(sampler, "temperature", 0.0),
    }  # fmt: skip

    def asked(prompt: str, answer: str) -> Asked:
        return Asked(chat.prompt([{"role": "user", "content": prompt}]), prompt, answer)

    notes = {
        "fact": ("asked in other words in fine-tuning", TARGET, None),
        "sum": ("asked in other words in fine-tuning", TARGET, 1 / len(lx.NUMBERS)),
        "fact_unasked": ("stated in pre-training, never asked for", None, None),
        "sum_unasked": (
            "stated in pre-training, never asked for; some are steps of worked word sums",
            None,
            1 / len(lx.NUMBERS),
        ),
        "word_sum": ("two steps, worked", None, 1 / 27),
        "choice": ("four candidates, the right word", None, 0.25),
        "reversal": ("told in the other direction only", None, 1 / len(world.lexicon.people)),
    }
    for kind, (note, target, chance) in notes.items():
        drawn = world.questions("test", kind, n_questions, seed=seed)
        questions = [asked(q.prompt, q.response) for q in drawn]
        if chance is None:
            chance = chance_of_facts(world, [q.answer for q in drawn])
        found = examiner.write(kind, questions, sampler, _is_answered)
        name = kind.replace("_", " ")
        result.add(name, "exact match", shares(found), chance=chance, target=target, note=note)
        if kind == "word_sum" and run_code:
            note = "worked sums read as functions of their numbers, run on other numbers"
            found = examiner.ask("functions, from worked sums", found, _generalised)
            result.add("functions, from worked sums", "tests passed", shares(found), chance=0.0, note=note)
    if run_code:
        problems = functions.function_tasks(n_questions, random.Random(seed))
        known = {problem.prompt: problem for problem in problems}

        def judge(part: Sequence[Asked], texts: list[str]) -> Records:
            outcomes = functions.run_functions([known[a.text] for a in part], texts)
            return [{"is_correct": o.has_passed, "program": program, "why": o.reason} for program, o in outcomes]

        found = examiner.write("functions", [asked(p.prompt, p.program) for p in problems], sampler, judge)
        note = "word sums in letters, never seen in training, answered by a program that is run on hidden numbers"
        result.add("functions", "tests passed", shares(found), chance=functions.chance(problems), note=note)
    result.health = examiner.health()
    return result


def completing(sampler: Sampler | None, n: int) -> Sampler:
    """How a base model completes a statement.

    Args:
        sampler: of iLLaDA's the rules only, since the length of a statement is given; another one as it is; None: the usual rules.
        n: tokens that are wanted.
    """
    if sampler is not None and type(sampler) is not VariableLength:
        return sampler
    rules = {} if sampler is None else {field.name: getattr(sampler, field.name) for field in fields(Rules)}
    return FixedLength(response_length=n, n_steps=n if rules.get("transfer") is None else None, **rules)


def chance_of_facts(world: World, answers: Sequence[str]) -> float:
    """Share of right answers of someone who knows which words could answer a question, and guesses among them."""
    return sum(1 / len(world.lexicon.alternatives(answer)) for answer in answers) / len(answers)


def _is_completed(part: Sequence[Asked], texts: list[str]) -> Records:
    return [{"is_correct": text == f"{asked.answer} ."} for asked, text in zip(part, texts, strict=True)]


def _is_answered(part: Sequence[Asked], texts: list[str]) -> Records:
    """The short answer is the last word of the response to learn."""
    answers = [asked.answer.split()[-1] for asked in part]
    return [{"is_correct": is_right(text, answer)} for text, answer in zip(texts, answers, strict=True)]


def _generalised(task: str, part: Sequence[dict]) -> Records:
    """Worked sums that were written before, as functions that are run."""
    programs = [tasks.function_of(item["prompt"], item["text"]) for item in part]
    outcomes = run_programs([tasks.tested(program) for program in programs])
    return [
        {
            **item,
            "task": task,
            "text": program or "",
            "trace": [],
            "is_correct": outcome.has_passed,
            "why": outcome.reason,
        }
        for item, program, outcome in zip(part, programs, outcomes, strict=True)
    ]


def _filled(task: str, hole: tasks.Hole, is_correct: bool, written: Generated | None, word: str) -> dict:
    """A filled hole as it reads; the whole sentence was written, the word is what counts."""
    shown = Generated(word, "chosen", len(hole.pool), 1, [])
    if written is not None:
        shown = Generated(word, written.stop_reason, written.nfe, written.n_tokens, [])
    return record(task, hole.text, hole.answer, shown, is_correct)
