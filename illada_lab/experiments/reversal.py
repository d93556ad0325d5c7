"""Reversal: what is stated in one direction, asked for in the other, by infilling and by scoring."""

from collections.abc import Sequence
from typing import ClassVar

import torch

from illada_lab.data.worlds import facts
from illada_lab.data.worlds.lexicon import Person
from illada_lab.evaluation.choice import ChoiceItem, choose
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.study import Outcome
from illada_lab.samplers import Infill
from illada_lab.training.checkpoint import LoadedRun

HOLE = "___"
SOURCE = "LLaDA (arXiv 2502.09992), reversal experiment"


class Reversal:
    """Books of one-way people (no text ever names the book first) and of two-way people, under the pre-trained model.

    Args:
        n_candidates: names to choose from in scored questions.
    """

    title: ClassVar[str] = "Reversal: facts asked for against the direction in which they are told"
    trains_many: ClassVar[bool] = False
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="infill", sentence="A mask predictor recalls the first half of a fact as well as the second.", source=SOURCE,
              paper="51.8 forward, 45.6 backward (LLaDA 8B Instruct); GPT-4o 82.7 and 34.3",
              metric="one-way facts in the sentences they were told in: exact match, name infilled less book infilled",
              unit="points", threshold=-0.1),
        Claim(id="choice", sentence="In a direction never told, a mask predictor picks the author more often than chance.",
              source=SOURCE, paper="not reported", metric="one-way books, reversed sentence, author among candidates: accuracy less chance",
              unit="points", smallest=0.05),
    )  # fmt: skip

    def __init__(self, *, n_candidates: int = 4) -> None:
        if n_candidates < 2:
            raise ValueError(f"n_candidates = {n_candidates}; a choice needs two; 2 or more")
        self.n_candidates = n_candidates

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        model = lab.pretrained.model
        people = {"one-way": [p for p in lab.world.lexicon.people if p.is_one_way],
                  "two-way": [p for p in lab.world.lexicon.people if not p.is_one_way]}  # fmt: skip
        rows = []
        for group, listed in people.items():
            for direction, forms in (
                ("told forwards", facts.STATEMENTS["book"]),
                ("told backwards", facts.REVERSE_STATEMENTS),
            ):
                for hole in ("book", "name"):
                    share, n = infilled(model, listed, forms, hole)
                    rows.append(
                        {"people": group, "sentence": direction, "infilled": hole, "exact match": share, "n": n}
                    )
        chosen = [
            {"people": group, "accuracy": self._chosen(lab, model, listed), "chance": 1 / self.n_candidates,
             "n": len(listed) * len(facts.REVERSE_STATEMENTS)}
            for group, listed in people.items()
        ]  # fmt: skip
        share = {(row["people"], row["sentence"], row["infilled"]): row["exact match"] for row in rows}
        return Outcome(
            tables={"infilling": rows, "choice": chosen},
            effects={
                "infill": share["one-way", "told forwards", "name"] - share["one-way", "told forwards", "book"],
                "choice": chosen[0]["accuracy"] - 1 / self.n_candidates,
            },
        )

    def _chosen(self, lab: Lab, model: LoadedRun, people: Sequence[Person]) -> float:
        """Accuracy of choosing the author of a book in a reversed sentence."""
        tokens, encode = model.predictor.tokens, model.tokenizer.encode_known
        assert tokens.bos is not None, "our own tokenizers have a BOS"
        generator = torch.Generator().manual_seed(lab.seed)
        names, items = [p.name for p in lab.world.lexicon.people], []
        for person in people:
            others = [name for name in names if name != person.name]
            for form in facts.REVERSE_STATEMENTS:
                drawn = torch.randperm(len(others), generator=generator)[: self.n_candidates - 1].tolist()
                head = form.format(book=person.book, name=HOLE).removesuffix(f" {HOLE} .")
                # The right one stands first; ties would favour it, but scores of different names are never equal.
                listed = [person.name, *(others[i] for i in drawn)]
                items.append(
                    ChoiceItem([tokens.bos, *encode(head)], [[*encode(f"{name} ."), tokens.eos] for name in listed], 0)
                )
        return sum(best == 0 for best in choose(model.predictor, items, "confidence")) / len(items)


def infilled(model: LoadedRun, people: Sequence[Person], forms: Sequence[str], hole: str) -> tuple[float, int]:
    """Share of statements whose masked slot a model fills with the right word, among all words.

    Args:
        model: with its tokenizer.
        people: whose books.
        forms: sentences with {name} and {book}.
        hole: the slot that is masked, "name" or "book".

    Returns:
        (share, number of statements).
    """
    tokens = model.predictor.tokens
    n_right = n = 0
    for form in forms:
        texts, answers = [], []
        for person in people:
            words = {"name": person.name, "book": person.book}
            answers.append(words[hole])
            parts = form.format(**{**words, hole: HOLE}).split()
            ids = [tokens.mask if word == HOLE else model.tokenizer.encode_known(word)[0] for word in parts]
            texts.append([tokens.bos, *ids, tokens.eos])
        x = torch.tensor(texts)
        out = Infill().sample(model.predictor, x)
        filled = [
            model.tokenizer.decode(row[x_row == tokens.mask].tolist()) for row, x_row in zip(out.tokens, x, strict=True)
        ]
        n_right += sum(a == b for a, b in zip(filled, answers, strict=True))
        n += len(answers)
    return n_right / n, n
