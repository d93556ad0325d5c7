"""Reversal, diffusion beside the autoregressive twin: the same facts, told in one direction, asked for in both."""

from collections.abc import Sequence
from typing import ClassVar

import torch

from illada_lab.data.worlds import facts
from illada_lab.data.worlds.lexicon import Person
from illada_lab.evaluation.autoregressive import Greedy
from illada_lab.evaluation.choice import ChoiceItem, choose
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.reversal import SOURCE, infilled
from illada_lab.experiments.study import Outcome
from illada_lab.experiments.twin import twin_of
from illada_lab.training.checkpoint import LoadedRun

# The last word of these sentences is the book (told forwards) or the name (told backwards): a twin can be asked for it.
DIRECTIONS = {"forwards": (facts.STATEMENTS["book"], "book"), "backwards": (facts.REVERSE_STATEMENTS, "name")}


class ReversalTwin:
    """Books of one-way people under both models: the last word of a sentence, written and chosen."""

    title: ClassVar[str] = "Reversal: diffusion beside the autoregressive twin"
    trains_many: ClassVar[bool] = False
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="forwards", sentence="Diffusion and autoregressive models both know facts in the direction they are told in.",
              source=SOURCE,
              paper="51.8 (LLaDA 8B Instruct), 75.9 (Qwen2.5 7B Instruct)",
              metric="one-way books, last word of the told sentence: exact match, the worse of the two models, less 0.8",
              unit="points"),
        Claim(id="choice", sentence="Asked backwards, diffusion picks the author more often than an autoregressive model.", source=SOURCE,
              paper="45.6 (LLaDA 8B Instruct) against 38.0 (Qwen2.5 7B Instruct)",
              metric="one-way books, reversed sentence, author among four: accuracy, diffusion less twin", unit="points",
              smallest=0.05),
        Claim(id="written", sentence="Asked backwards, diffusion writes the author more often than an autoregressive model.",
              source=SOURCE, paper="45.6 against 38.0", metric="one-way books, reversed sentence: exact match, diffusion less twin",
              unit="points", smallest=0.05),
    )  # fmt: skip

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        diffusion, twin = lab.pretrained.model, twin_of(lab).model
        people = {"one-way": [p for p in lab.world.lexicon.people if p.is_one_way],
                  "two-way": [p for p in lab.world.lexicon.people if not p.is_one_way]}  # fmt: skip
        rows = []
        for group, listed in people.items():
            for direction, (forms, hole) in DIRECTIONS.items():
                items = _items(lab, diffusion, listed, forms, hole)
                best = {
                    "diffusion": choose(diffusion.predictor, items, "confidence"),
                    "twin": choose(twin.predictor, items, "chain_rule"),
                }
                written = {
                    "diffusion": infilled(diffusion, listed, forms, hole)[0],
                    "twin": _written(twin, listed, forms, hole),
                }
                rows += [
                    {"people": group, "sentence": direction, "model": name, "written": written[name],
                     "chosen among four": sum(b == 0 for b in best[name]) / len(items), "n": len(items)}
                    for name in best
                ]  # fmt: skip
        at = {(row["people"], row["sentence"], row["model"]): row for row in rows}
        back = {name: at["one-way", "backwards", name] for name in ("diffusion", "twin")}
        forth = [at["one-way", "forwards", name]["written"] for name in ("diffusion", "twin")]
        return Outcome(
            tables={"reversal": rows},
            effects={
                "forwards": min(forth) - 0.8,
                "choice": back["diffusion"]["chosen among four"] - back["twin"]["chosen among four"],
                "written": back["diffusion"]["written"] - back["twin"]["written"],
            },
        )


def _items(lab: Lab, model: LoadedRun, people: Sequence[Person], forms: Sequence[str], hole: str) -> list[ChoiceItem]:
    """The last word among four; the right one stands first, the wrong ones follow it in the world's table."""
    encode, tokens = model.tokenizer.encode_known, model.predictor.tokens
    assert tokens.bos is not None, "our own tokenizers have a BOS"
    everyone = [getattr(person, hole) for person in lab.world.lexicon.people]
    items = []
    for person in people:
        place = everyone.index(getattr(person, hole))
        words = [everyone[(place + i) % len(everyone)] for i in range(4)]
        for form in forms:
            head = form.format(**{**vars(person), hole: "___"}).removesuffix(" ___ .")
            items.append(ChoiceItem([tokens.bos, *encode(head)], [[*encode(f"{w} ."), tokens.eos] for w in words], 0))
    return items


def _written(twin: LoadedRun, people: Sequence[Person], forms: Sequence[str], hole: str) -> float:
    """Share of sentences whose last word the twin writes rightly."""
    bos = twin.predictor.tokens.bos
    n_right = n = 0
    for person in people:
        for form in forms:
            head = form.format(**{**vars(person), hole: "___"}).removesuffix(" ___ .")
            prompt = torch.tensor([[bos, *twin.tokenizer.encode_known(head)]])
            word = twin.tokenizer.decode(Greedy(max_length=1).sample(twin.predictor, prompt).responses[0])
            n_right, n = n_right + (word == getattr(person, hole)), n + 1
    return n_right / n
