"""Packed rows: whether the documents, or examples, of a row see each other. The paper leaves it open."""

from typing import ClassVar

from illada_lab.config import build
from illada_lab.experiments.asking import STORY_TOKENS, ask, question_task
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab, Trained
from illada_lab.experiments.sampling import KINDS
from illada_lab.experiments.study import Outcome
from illada_lab.samplers import VariableLength
from illada_lab.training.validation import FrozenMasks

SOURCE = "iLLaDA, pre-training and fine-tuning recipes (not stated there, not ablated)"
APART, TOGETHER = "isolated", "visible"
VISIBLE = "data.is_isolated=false"


class Isolation:
    """The main job's two models beside twins whose rows are seen whole; data, masks' seeds, steps and rates are the same.

    A row that is seen whole is one sequence: it has one masking probability, where isolated documents have one each. In fine-tuning both
    start from the same pre-trained model, whose documents were isolated.

    Args:
        n_documents: held-out documents that the bounds are measured on.
        n_questions: all kinds together.
    """

    title: ClassVar[str] = "Packed rows: neighbours that see each other"
    trains_many: ClassVar[bool] = True
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="alone", sentence="Pre-training on documents that do not see their neighbours gives the better bound on single ones.",
              source=SOURCE, paper="not reported", metric="bound on single documents, trained on visible less on isolated ones",
              unit="nats/token", smallest=0.02),
        Claim(id="own_way",
              sentence="Documents that do not see their neighbours are learnt better where each model reads as it was trained.",
              source=SOURCE, paper="not reported",
              metric="bound, trained on visible ones on whole rows less trained on isolated ones on single documents", unit="nats/token",
              smallest=0.02),
        Claim(id="answers", sentence="Fine-tuning on examples that do not see their neighbours answers better.", source=SOURCE,
              paper="not reported", metric="questions, variable length, blocks of 8: exact match, isolated less visible", unit="points",
              smallest=0.02),
    )  # fmt: skip

    def __init__(self, *, n_documents: int, n_questions: int) -> None:
        self.n_documents, self.n_questions = n_documents, n_questions

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        base = {APART: lab.pretrained, TOGETHER: lab.train("isolation-pretrain-visible", VISIBLE)}
        single, rows = self._texts(lab)
        bounds = [
            {"trained": name, "single documents": _bound(model, single), "whole rows": _bound(model, rows)}
            for name, model in base.items()
        ]
        tuned = {
            APART: lab.tuned,
            TOGETHER: lab.train_from(lab.pretrained, "isolation-sft-visible", "experiment=sft", VISIBLE),
        }
        task = question_task(lab.world, lab.tuned.model, KINDS, self.n_questions, lab.seed)
        sampler = VariableLength(max_length=STORY_TOKENS, block_length=8)
        answers = [ask(run.model, task, sampler, lab.seed).row(trained=name) for name, run in tuned.items()]
        apart, together = bounds
        return Outcome(
            tables={"bounds": bounds, "answers": answers},
            effects={
                "alone": together["single documents"] - apart["single documents"],
                "own_way": together["whole rows"] - apart["single documents"],
                "answers": answers[0]["right"] - answers[1]["right"],
            },
            rooms={"answers": 1 - answers[1]["right"]},
        )

    def _texts(self, lab: Lab) -> tuple[FrozenMasks, FrozenMasks]:
        """Held-out documents under one set of masks for all models: one by one, and put together into rows as in training."""
        # Of the training documents nothing is needed here but that there are some.
        module = build(lab.config("data.source.n_documents=1").data)
        module.prepare(lab.pretrained.model.tokenizer)
        documents = [document["ids"] for document in module.validation_documents()[: self.n_documents]]
        rows: list[list[int]] = []
        for ids in documents:
            if rows and len(rows[-1]) + len(ids) <= module.length:
                rows[-1] = rows[-1] + ids
            else:
                rows.append(ids)
        bos = lab.pretrained.model.predictor.tokens.anchor
        single, whole = (
            FrozenMasks([{"ids": ids, "kind": "text"} for ids in texts], bos=bos) for texts in (documents, rows)
        )
        return single, whole


def _bound(run: Trained, texts: FrozenMasks) -> float:
    """Nats per token."""
    return texts.evaluate(run.model.predictor).summary()["all"]["nelbo_per_token"]
