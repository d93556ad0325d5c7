"""The objective: is it a bound, which normalisations are one, and how noisy are they?"""

from typing import ClassVar

import torch

from illada_lab.experiments.claims import Claim
from illada_lab.experiments.exact import Enumeration, enumerate_masks, estimator_variances, weightings
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.study import Outcome
from illada_lab.objectives.loss import cross_entropy_at, spread
from illada_lab.training.checkpoint import LoadedRun

# Each loss of one masked sequence as a multiple of its summed cross-entropy, from (t, masked, length).
WEIGHTS = {
    "1/t, over the length": lambda t, n, length: 1 / (t * length),
    "mean over the masked": lambda t, n, length: 1 / n,
    "no weight, over the length": lambda t, n, length: torch.ones_like(t) / length,
    "1/t, over the masked": lambda t, n, length: 1 / (t * n),
}


class ObjectiveStudy:
    """Facts and sums short enough to enumerate every set of masks, under the pre-trained model.

    Args:
        n_documents: held-out statements.
        n_gradients: gradients drawn to measure the noise of each weighting, 2 or more.

    Raises:
        ValueError: too few gradients.
    """

    title: ClassVar[str] = "The objective: a bound, its weightings and their noise"
    trains_many: ClassVar[bool] = False
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="bound", sentence="The loss is an upper bound on -log p of the text.", source="iLLaDA, objective",
              paper="an equation", metric="share of documents whose bound is not below -log p, both exact, less 1", unit="points",
              threshold=-1e-9),
        Claim(id="weight", sentence="Without the weight 1/t the loss is no bound.", source="iLLaDA, objective; LLaDA, section 2",
              paper="an equation", metric="-log p less the unweighted loss, mean over documents", unit="nats/token"),
        Claim(id="fixed_count", sentence="A fixed number of masks gives a steadier estimate than independent masks.",
              source="LLaDA, Appendix A.2", paper="128 samples against more than 1000",
              metric="samples needed for the same error, median document: "
              "variance with independent masks (t above 0.001) over that with a fixed number",
              unit="times", threshold=1.0),
    )  # fmt: skip

    def __init__(self, *, n_documents: int, n_gradients: int) -> None:
        if n_gradients < 2:
            raise ValueError(f"n_gradients = {n_gradients}; noise is the difference of draws; 2 or more")
        self.n_documents, self.n_gradients = n_documents, n_gradients

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        model = lab.pretrained.model
        texts = self._texts(lab, model)
        bos = model.predictor.tokens.bos
        assert bos is not None, "our own tokenizers have a BOS"
        rows, found = [], []
        for text, ids in texts:
            e = enumerate_masks(model.predictor, [bos], ids)
            found.append(_Document(e))
            rows.append({"text": text, "tokens": len(ids), "-log p": found[-1].surprise, "bound": found[-1].bound,
                         **found[-1].variances})  # fmt: skip
        weights = [
            {"weighting": name, "value": _mean([d.losses[name] / d.e.length for d in found]),
             "-log p": _mean([d.surprise / d.e.length for d in found]),
             "is a bound": all(d.losses[name] >= d.surprise - 1e-6 for d in found)}
            for name in found[0].losses
        ]  # fmt: skip
        noise = gradient_noise(model, [ids for _, ids in texts], bos, self.n_gradients, lab.seed)
        unweighted = [(d.surprise - d.losses["no weight, over the length"]) / d.e.length for d in found]
        ratios = [d.variances["independent"] / d.variances["fixed count"] for d in found]
        return Outcome(
            tables={"documents": rows, "weightings": weights, "gradients": noise},
            effects={
                "bound": _mean([float(d.bound >= d.surprise - 1e-6) for d in found]) - 1,
                "weight": _mean(unweighted),
                "fixed_count": sorted(ratios)[len(ratios) // 2],
            },
        )

    def _texts(self, lab: Lab, model: LoadedRun) -> list[tuple[str, list[int]]]:
        """Held-out facts and sums with their EOS, as token ids."""
        documents = lab.world.documents("test", self.n_documents, mixture={"fact": 0.5, "sum": 0.5}, seed=lab.seed)
        eos = model.predictor.tokens.eos
        return [(d.text, [*model.tokenizer.encode_known(d.text), eos]) for d in documents]


class _Document:
    """One enumerated text; everything in nats of the whole text."""

    def __init__(self, e: Enumeration) -> None:
        self.e, self.surprise = e, -e.log_likelihood()
        self.losses = {name: value * e.length for name, value in weightings(e).items()}
        self.bound, self.variances = self.losses["1/t, over the length"], estimator_variances(e)


def gradient_noise(model: LoadedRun, texts: list[list[int]], bos: int, n_draws: int, seed: int) -> list[dict]:
    """Noise of the gradient of one masked text under each weighting: root of the summed variances over the norm of the mean.

    Both are estimated without bias from the same draws, one that masks nothing among them with its gradient of zero.

    Args:
        model: where the gradient is taken; its weights stay as they are.
        texts: token ids without BOS.
        bos: in front of each.
        n_draws: masked texts drawn, the same for every weighting; 2 or more.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    squares = dict.fromkeys(WEIGHTS, 0.0)
    parameters = [p for p in model.predictor.parameters() if p.requires_grad]
    means = {name: torch.zeros(sum(p.numel() for p in parameters)) for name in WEIGHTS}
    for draw in range(n_draws):
        ids = texts[draw % len(texts)]
        x0 = torch.tensor([[bos, *ids]])
        t = 1 - torch.rand((), generator=generator)
        is_masked = torch.rand(x0.shape, generator=generator) < t
        is_masked[:, 0] = False
        n_masked = is_masked.sum()
        if n_masked == 0:  # nothing to predict: a gradient of zero, and a draw like any other
            continue
        x = torch.where(is_masked, model.predictor.tokens.mask, x0)
        total = spread(cross_entropy_at(model.predictor, x, x0, is_masked), is_masked).sum()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])
        for name, weight in WEIGHTS.items():
            scaled = gradient * float(weight(t, n_masked, len(ids)))
            means[name] += scaled
            squares[name] += float(scaled.square().sum())
    found = []
    for name in WEIGHTS:
        square, of_mean = squares[name] / n_draws, float((means[name] / n_draws).square().sum())
        # The mean of n draws holds an nth of their noise: without taking it out, no noise above sqrt(n - 1) could ever be seen.
        signal = (n_draws * of_mean - square) / (n_draws - 1)
        noise = ((square - signal) / signal) ** 0.5 if signal > 0 else None  # None: more than so many draws can tell
        found.append({"weighting": name, "gradient noise": noise, "draws": n_draws})
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
