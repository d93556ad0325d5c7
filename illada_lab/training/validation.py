"""Validation on frozen masks: the same documents, the same masks, at every step of every run."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from illada_lab.models.protocol import HiddenPredictor
from illada_lab.objectives.autoregressive import shift_right
from illada_lab.objectives.loss import cross_entropy_at

N_BINS = 10


@dataclass(frozen=True)
class FrozenRow:
    """One document under one mask set."""

    document: int
    masked: np.ndarray


class FrozenMasks:
    """A seeded set of (document, masks), on which losses of different runs and steps can be compared.

    Of a document of L tokens exactly l are masked, l uniform on 1 ... L and evenly spread over the set; its estimate of the bound
    is (L / l) times the sum of their cross-entropies. The mean is the same bound as with independent masking at a ratio t (LLaDA's
    likelihood form), at a small part of its variance; l / L stands in for t in the bins.

    Args:
        documents: dicts with `ids` (token ids; a BOS in front is visible and not counted) and, where known, `kind`, `log_prob` (nats,
            exact, given the length), `log_prob_of_length` and `n_bytes`; rows of several documents that do not see each other have
            `segment_ids`.
        bos: id of BOS, or None.
        n_draws: mask sets per document.
        is_response_only: mask responses only (`is_prompt` of a document says where its prompt stands); documents without one are left
            out. Entropies and bytes are of whole documents, and not told then.
        seed: of the masks; kept apart from the run's seed, so that runs with different seeds validate on the same set.
        batch_tokens: positions (padding included) per forward pass.

    Attributes:
        no_context_per_token: entropy of the single tokens' frequencies in these documents, nats: no predictor that gives the same
            distribution everywhere has a lower loss on them. A loss below it has learnt to use context.

    Raises:
        ValueError: there is no document, or one is empty.

    Source: our choice; LLaDA, section 2.4, Eq. 6 for the estimator.
    """

    def __init__(
        self,
        documents: Sequence[dict[str, Any]],
        *,
        bos: int | None,
        n_draws: int = 2,
        is_response_only: bool = False,
        seed: int = 20_260_624,
        batch_tokens: int = 8192,
    ) -> None:
        if is_response_only:
            documents = [
                {**document, "log_prob": None, "n_bytes": None}
                for document in documents
                if not all(document["is_prompt"])
            ]
        self.maskable = [_maskable(document, bos, is_response_only) for document in documents]
        if not documents or any(len(positions) == 0 for positions in self.maskable):
            raise ValueError(
                f"validation documents = {len(documents)}; at least one, none of them empty; check data.n_validation"
            )
        self.documents = list(documents)
        self.batch_tokens = batch_tokens
        self.no_context_per_token = _no_context(documents, self.maskable)
        random = np.random.Generator(np.random.PCG64(seed))
        n_rows = len(self.documents) * n_draws
        # One stratum of (0, 1] per row, strata dealt out at random: l is spread evenly over the whole set.
        ratio = (random.permutation(n_rows) + random.random(n_rows)) / n_rows
        self.rows = []
        for number in range(n_rows):
            document = number // n_draws
            positions = self.maskable[document]
            n_masked = 1 + int(ratio[number] * len(positions))
            self.rows.append(FrozenRow(document, random.choice(positions, size=n_masked, replace=False)))

    def fingerprint(self) -> int:
        """Names the documents and what of them can be masked: processes that share their validation need the same."""
        numbers = [
            np.asarray(part) for d, m in zip(self.documents, self.maskable, strict=True) for part in (d["ids"], m)
        ]
        return zlib.crc32(np.concatenate(numbers).astype(np.int64).tobytes())

    def entropy_per_token(self, *, is_causal: bool = False) -> float | None:
        """Entropy of all documents, nats per token, of a causal model with their length; None where it is not known exactly."""
        entropy = _entropy(self.documents, has_length=not is_causal)
        return None if entropy is None else entropy / sum(map(len, self.maskable))

    @torch.no_grad()
    def evaluate(
        self,
        predictor: HiddenPredictor,
        *,
        share: tuple[int, int] = (0, 1),
        add_up: Callable[[Float[Tensor, " N"]], Float[Tensor, " N"]] = lambda parts: parts,
    ) -> "ValidationResult":
        """Bound of every row (of the autoregressive twin: the exact -log p of every document), in nats.

        Args:
            predictor: the model.
            share: (i, n): this is the i-th of n processes, each of which computes every n-th batch; all make as many passes.
            add_up: sums what each of them found, 0 where it was another's, over all.
        """
        device = predictor.head_weight.device
        is_causal = bool(getattr(getattr(predictor, "spec", None), "is_causal", False))
        whole = [FrozenRow(i, positions) for i, positions in enumerate(self.maskable)]
        rows = whole if is_causal else self.rows
        length = np.array([len(self.documents[row.document]["ids"]) for row in rows])
        n_maskable = np.array([len(self.maskable[row.document]) for row in rows])
        total = torch.zeros(len(rows))
        # Rows of similar length share a batch, so that little is computed on padding.
        batches = _batches(np.argsort(length, kind="stable"), length, self.batch_tokens)
        number, n = share
        for first in range(0, len(batches), n):
            # Sharded layers are gathered together: who has no batch left computes the last one once more, for nothing.
            chosen = batches[min(first + number, len(batches) - 1)]
            found = self._sums([rows[i] for i in chosen], predictor, is_causal, device).cpu()
            if first + number < len(batches):
                total[torch.from_numpy(chosen)] = found
        total = add_up(total)
        n_masked = np.array([len(row.masked) for row in rows])
        scale = np.ones(len(rows)) if is_causal else n_maskable / n_masked
        return ValidationResult(
            documents=self.documents,
            n_tokens=np.array([len(positions) for positions in self.maskable]),
            document=np.array([row.document for row in rows]),
            ratio=n_masked / n_maskable,
            nelbo=total.double().numpy() * scale,
            is_exact=is_causal,
        )

    def _sums(
        self, rows: list[FrozenRow], predictor: HiddenPredictor, is_causal: bool, device: torch.device
    ) -> Float[Tensor, " B"]:
        """Summed cross-entropy over the masked positions of each row, nats."""
        documents = [self.documents[row.document]["ids"] for row in rows]
        shape = (len(rows), max(map(len, documents)))
        x0 = torch.full(shape, predictor.tokens.filler)
        segment_ids = torch.zeros(shape, dtype=torch.long)
        is_wanted = torch.zeros(shape, dtype=torch.bool)
        for i, (row, ids) in enumerate(zip(rows, documents, strict=True)):
            x0[i, : len(ids)] = torch.as_tensor(ids)
            segment_ids[i, : len(ids)] = torch.as_tensor(self.documents[row.document].get("segment_ids", 1))
            is_wanted[i, torch.from_numpy(row.masked)] = True
        x0, segment_ids, is_wanted = x0.to(device), segment_ids.to(device), is_wanted.to(device)
        if is_causal:
            assert predictor.tokens.bos is not None, "an autoregressive objective has checked this"
            x = shift_right(x0, segment_ids, predictor.tokens.bos)
        else:
            x = torch.where(is_wanted, predictor.tokens.mask, x0)
        ce = cross_entropy_at(predictor, x, x0, is_wanted, segment_ids)
        row_of = is_wanted.nonzero()[:, 0]
        return torch.zeros(len(rows), device=device).index_add(0, row_of, ce.float())


def _batches(order: np.ndarray, length: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Numbers of rows, in this order, as many to a batch as fit it, padding included; one at least."""
    found, start = [], 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * length[order[end]] <= batch_tokens:
            end += 1
        found.append(order[start:end])
        start = end
    return found


def _no_context(documents: Sequence[dict[str, Any]], maskable: Sequence[np.ndarray]) -> float:
    """Entropy of the frequencies of the tokens that may be masked, nats."""
    ids = np.concatenate([np.asarray(d["ids"])[places] for d, places in zip(documents, maskable, strict=True)])
    share = np.unique(ids, return_counts=True)[1] / len(ids)
    return float(-(share * np.log(share)).sum())


def _maskable(document: dict[str, Any], bos: int | None, is_response_only: bool) -> np.ndarray:
    """Positions that may be masked."""
    is_maskable = np.asarray(document["ids"]) != bos
    return np.flatnonzero(is_maskable & ~np.asarray(document["is_prompt"]) if is_response_only else is_maskable)


@dataclass
class ValidationResult:
    """Bounds on frozen masks and what can be said of them.

    Attributes:
        documents: the documents.
        n_tokens: tokens of each document, BOS not among them.
        document: number of the document of each row.
        ratio: masked share of each row.
        nelbo: estimate of each row's bound, nats per document.
        is_exact: the values are exact -log p, not bounds (autoregressive twin).
    """

    documents: list[dict[str, Any]]
    n_tokens: np.ndarray
    document: np.ndarray
    ratio: np.ndarray
    nelbo: np.ndarray
    is_exact: bool

    def summary(self) -> dict[str, dict[str, float]]:
        """One entry per kind of document and `all`: bound, its standard error, the entropy and the gap where it is known.

        Returns:
            kind -> {nelbo_per_token, stderr (nats/token), bits_per_token, n_documents, n_tokens} and, where the documents' exact
            log-probability is known, entropy_per_token (of these very documents; given their length, which the autoregressive twin has
            to predict as well) and over_entropy (bound / entropy - 1), and bits_per_byte where bytes are known. Standard errors are
            over documents.
        """
        per_document = np.bincount(self.document, self.nelbo) / np.bincount(self.document)
        kinds = [document.get("kind") or "text" for document in self.documents]
        table = {}
        for kind in ["all", *sorted(set(kinds))] if len(set(kinds)) > 1 else [kinds[0], "all"]:
            chosen = [i for i, k in enumerate(kinds) if kind in ("all", k)]
            documents = [self.documents[i] for i in chosen]
            table[kind] = _row(documents, self.n_tokens[chosen], per_document[chosen], has_length=not self.is_exact)
        return table

    def bins(self, kind: str | None = None) -> list[dict[str, float]]:
        """Bound in nats per token by masked share: where in t the loss sits. 95 % intervals, normal approximation.

        As in the summary nats and tokens are summed before they are divided: the bound is the mean of the bins by their tokens, but for
        the draws that hide nothing.
        """
        if self.is_exact:
            return []
        is_kind = np.array([kind in (None, d.get("kind") or "text") for d in self.documents])[self.document]
        lengths = self.n_tokens[self.document]
        table = []
        for b in range(N_BINS):
            low, high = b / N_BINS, (b + 1) / N_BINS
            chosen = is_kind & (self.ratio > low) & (self.ratio <= high)
            if (n := int(chosen.sum())) < 2:
                continue
            mean, stderr = _per_token(self.nelbo[chosen], lengths[chosen])
            half = 1.96 * stderr
            table.append(
                {
                    "t_low": low,
                    "t_high": high,
                    "loss": mean,
                    "ci_low": mean - half,
                    "ci_high": mean + half,
                    "n": n,
                    "n_tokens": int(lengths[chosen].sum()),
                }
            )
        return table


def _per_token(nats: np.ndarray, lengths: np.ndarray) -> tuple[float, float]:
    """Nats per token of some documents and its standard error, as a ratio: documents are drawn, tokens follow."""
    n, n_tokens = len(nats), int(lengths.sum())
    per_token = float(nats.sum() / n_tokens)
    residual = nats - per_token * lengths
    return per_token, float(residual.std(ddof=1) * np.sqrt(n) / n_tokens) if n > 1 else float("nan")


def _entropy(documents: Sequence[dict[str, Any]], *, has_length: bool) -> float | None:
    """Nats of documents whose exact log-probability is known; None: it is not of all.

    Args:
        documents: see `FrozenMasks`.
        has_length: a predictor is told the length, as a mask predictor is; it is counted otherwise.
    """
    parts = ("log_prob",) if has_length else ("log_prob", "log_prob_of_length")
    if any(document.get(part) is None for document in documents for part in parts):
        return None
    return -sum(float(document[part]) for document in documents for part in parts)


def _row(
    documents: list[dict[str, Any]], lengths: np.ndarray, nelbo: np.ndarray, *, has_length: bool
) -> dict[str, float]:
    n, n_tokens = len(documents), int(lengths.sum())
    per_token, stderr = _per_token(nelbo, lengths)
    row = {
        "nelbo_per_token": per_token,
        "stderr": stderr,
        "bits_per_token": float(per_token / np.log(2)),
        "n_documents": n,
        "n_tokens": n_tokens,
    }
    if (entropy := _entropy(documents, has_length=has_length)) is not None:
        row["entropy_per_token"] = entropy / n_tokens
        row["over_entropy"] = float(nelbo.sum() / entropy - 1) if entropy > 0 else float("nan")
    if all(document.get("n_bytes") for document in documents):
        row["bits_per_byte"] = float(nelbo.sum() / np.log(2) / sum(document["n_bytes"] for document in documents))
    return row
