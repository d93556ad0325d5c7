"""Choices the paper makes without an ablation: grouped queries, a wide feed-forward part, tied embeddings, the random cut."""

from typing import ClassVar

from illada_lab.config import build
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab, Trained
from illada_lab.experiments.recipes import multi_head_ffn
from illada_lab.experiments.study import Outcome
from illada_lab.training.validation import FrozenMasks

PAPER = "iLLaDA, Table 1"
BYTES = 2  # bf16


class Architecture:
    """The scale's own model beside variants that differ in one setting: same data, masks and steps.

    Args:
        n_documents: held-out documents whose first halves are the short inputs.
        n_steps: optimiser steps of each model, the decay included.
        cut_probability: of the variant with random cuts (the paper: 0.3).
    """

    title: ClassVar[str] = "Architecture: grouped queries, feed-forward width, tied embeddings, random cuts"
    trains_many: ClassVar[bool] = True
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="gqa", sentence="Grouped queries cost nothing in the loss against one key/value head per query head.",
              source=f"{PAPER} (not ablated)", paper="not reported", metric="bound at the end, multi-head less grouped",
              unit="nats/token", threshold=-0.02),
        Claim(id="cache", sentence="Grouped queries make the cache smaller by the ratio of the heads.", source=PAPER,
              paper="4 times (8 instead of 32 key/value heads)", metric="cache bytes per token, multi-head over grouped",
              unit="times", threshold=1.0),
        Claim(id="ffn", sentence="At equal size, grouped queries with a wider feed-forward part cost nothing in the loss.",
              source=f"{PAPER} (not ablated)",
              paper="14,336 instead of LLaDA's 12,288, both with 6.98 B without embeddings",
              metric="bound at the end, equal non-embedding size, multi-head with a narrow less grouped with a wide part",
              unit="nats/token", threshold=-0.02),
        Claim(id="tied", sentence="A tied head costs nothing in the loss.", source=f"{PAPER} (not ablated)", paper="not reported",
              metric="bound at the end, untied less tied, equal non-embedding size", unit="nats/token", threshold=-0.02),
        Claim(id="cut", sentence="Cutting sequences at random in training helps on texts that break off.",
              source="iLLaDA, pre-training recipe (not ablated)", paper="not reported",
              metric="bound on first halves of held-out documents, without EOS, never cut less cut with 0.3", unit="nats/token"),
    )  # fmt: skip

    def __init__(self, *, n_documents: int, n_steps: int, cut_probability: float = 0.3) -> None:
        self.n_documents, self.n_steps, self.cut_probability = n_documents, n_steps, cut_probability

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        multi_head = "model.n_kv_heads=${model.n_heads}"
        variants = {
            "grouped queries, tied, never cut": (),
            "multi-head": (multi_head,),
            "multi-head, narrow": (multi_head, f"model.d_ffn={multi_head_ffn(lab.config().model)}"),
            "untied": ("model.is_tied=false",),
        }
        runs = {name: self._train(lab, name, 0.0, *settings) for name, settings in variants.items()}
        runs["cut"] = self._train(lab, "cut", self.cut_probability)
        halves = self._halves(lab, next(iter(runs.values())))
        rows = [{"variant": name, **_row(run, halves)} for name, run in runs.items()]
        base, heads, narrow, untied, cut = rows
        return Outcome(
            tables={"variants": rows},
            effects={
                "gqa": heads["bound"] - base["bound"],
                "cache": heads["cache bytes per token"] / base["cache bytes per token"],
                "ffn": narrow["bound"] - base["bound"],
                "tied": untied["bound"] - base["bound"],
                "cut": base["bound on halves"] - cut["bound on halves"],
            },
        )

    def _train(self, lab: Lab, name: str, cut_probability: float, *settings: str) -> Trained:
        """A variant for `n_steps`, validated at its end; the main job's model where it is the same."""
        own = lab.config()
        if not settings and (cut_probability, self.n_steps) == (own.scale.cut_probability, own.trainer.max_steps):
            return lab.pretrained
        always = (
            f"scale.cut_probability={cut_probability}",
            f"scale.n_steps={self.n_steps}",
            "trainer.validate_every=null",
            "trainer.keeps_before_decay=false",
        )
        return lab.train(f"architecture-{name.replace(', ', '-').replace(' ', '-')}", *settings, *always)

    def _halves(self, lab: Lab, known: Trained) -> FrozenMasks:
        """First halves of held-out documents under one set of masks for all variants."""
        # Of the training documents nothing is needed here but that there are some.
        module = build(lab.config("data.source.n_documents=1").data)
        module.prepare(known.model.tokenizer)
        halves = [
            {"ids": d["ids"][: max(3, len(d["ids"]) // 2)], "kind": d["kind"]}
            for d in module.validation_documents()[: self.n_documents]
        ]
        return FrozenMasks(halves, bos=known.model.predictor.tokens.anchor)


def _row(run: Trained, halves: FrozenMasks) -> dict:
    """Bound on whole documents and on first halves, sizes."""
    predictor = run.model.predictor
    spec = predictor.spec
    return {
        "bound": run.history["validation"][-1]["kinds"]["all"]["nelbo_per_token"],
        "bound on halves": halves.evaluate(predictor).summary()["all"]["nelbo_per_token"],
        "parameters": spec.n_parameters,
        "without embeddings": spec.n_non_embedding_parameters,
        "cache bytes per token": BYTES * spec.cache_values_per_token,
    }
