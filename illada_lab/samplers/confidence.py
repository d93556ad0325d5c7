"""How sure a prediction is: the number that decides what is revealed next."""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from illada_lab.samplers.noise import Noise

# What the numbers of a rule are, where they are more than an order.
PROBABILITY, NATS = "probability", "nats"


@runtime_checkable
class Confidence(Protocol):
    """Scores predictions at M masked positions; higher is revealed sooner.

    Any function or object that is called like this can stand where the name of a rule stands. Each prediction is scored for itself: the
    M are of all rows of a batch, and of a large one they come in parts. A rule may say more of itself in three attributes:

    - `unit`: what its numbers are: "probability", which thresholds are compared with and of which 0 is the least, or "nats", minus an
      entropy. Left out: an order and nothing else.
    - `is_random`: whether it draws from `noise`, so that samples differ at temperature 0 too. Left out: it does not.
    - `wants_mask`: whether it is to be told the id of [MASK], as a further argument `mask`. Left out: it is not.
    """

    def __call__(
        self,
        logits: Float[Tensor, "M V"],
        tokens: Int[Tensor, " M"],
        positions: Int[Tensor, " M"],
        noise: Noise,
    ) -> Float[Tensor, " M"]:
        """Confidence of every prediction.

        Args:
            logits: of the predictions.
            tokens: what was drawn from them.
            positions: column of the canvas each stands in.
            noise: randomness of the M predictions.
        """
        ...


_Rule = TypeVar("_Rule", bound=Callable[..., Any])


def _says(unit: str | None = None, *, is_random: bool = False, wants_mask: bool = False) -> Callable[[_Rule], _Rule]:
    """What a function says of itself, see `Confidence`."""

    def mark(rule: _Rule) -> _Rule:
        vars(rule).update(unit=unit, is_random=is_random, wants_mask=wants_mask)
        return rule

    return mark


@_says(PROBABILITY)
def low_confidence(logits: Tensor, tokens: Tensor, positions: Tensor, noise: Noise) -> Tensor:
    """Probability of the predicted token; the least confident go back to mask.

    Source: LLaDA, low-confidence remasking; iLLaDA uses it throughout.
    """
    # The softmax itself, as published: exp(logit - logsumexp) differs from it in the last digits, and near 1 those decide the order. In
    # float32 (our choice): the published code takes the model's own dtype, and in bf16 probabilities near 1 are ties. In float32 those
    # above about 1 - 6e-8 are (all are 1.0, and `topk` decides); Fast-dLLM takes float64, which tells them apart.
    return logits.float().softmax(1).gather(1, tokens[:, None])[:, 0]


@_says(PROBABILITY, wants_mask=True)
def margin(logits: Tensor, tokens: Tensor, positions: Tensor, noise: Noise, mask: int | None = None) -> Tensor:
    """Probability of the likeliest token less that of the second: low where two answers compete.

    [MASK] is no answer and none of the two; its probability counts in theirs.

    Source: Dream's `topk_margin`; Kim et al. 2025 (arXiv 2502.06768).
    """
    p = logits.float().softmax(1)
    if mask is not None:
        p[:, mask] = 0.0
    top = p.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


@_says(NATS)
def entropy(logits: Tensor, tokens: Tensor, positions: Tensor, noise: Noise) -> Tensor:
    """Minus the entropy of the prediction in nats, 0 at most.

    Source: Dream's `entropy`; EB-sampling (arXiv 2505.24857).
    """
    log_p = logits.float().log_softmax(1)
    return torch.special.entr(log_p.exp()).sum(1).neg()


@_says(is_random=True)
def random(logits: Tensor, tokens: Tensor, positions: Tensor, noise: Noise) -> Tensor:
    """Uniform numbers: positions are revealed in a random order, as the forward process masks them.

    Source: LLaDA, random remasking.
    """
    return noise(1)[:, 0].float()


def left_to_right(logits: Tensor, tokens: Tensor, positions: Tensor, noise: Noise) -> Tensor:
    """The order of reading, as the autoregressive twin writes.

    Source: LLaDA, Appendix B.4, autoregressive sampling from the diffusion model.
    """
    return -positions.float()


RULES: dict[str, Confidence] = {
    "low_confidence": low_confidence,
    "margin": margin,
    "entropy": entropy,
    "random": random,
    "left_to_right": left_to_right,
}
# Confidence of what is put off to the end, whatever the rule: below everything but -inf, which means "not eligible".
LAST = -1e30


def check_rule(remasking: Any) -> None:
    """Raise ValueError for what is neither the name of a rule nor a rule (`Confidence`)."""
    known = ", ".join(RULES)
    if isinstance(remasking, str):
        if remasking not in RULES:
            near = difflib.get_close_matches(remasking, RULES)
            raise ValueError(f"remasking = {remasking!r}; not a rule; {', '.join(near) or known}")
        return
    if isinstance(remasking, type):
        raise ValueError(f"remasking = {_path(remasking)}; a class, not a rule made of it; {remasking.__name__}(...)")
    if not callable(remasking):
        raise ValueError(f"remasking = {remasking!r}; not a rule; {known}, or what is called as Confidence says")
    more = {"mask": 0} if is_told_mask(remasking) else {}
    try:
        inspect.signature(remasking).bind(*range(4), **more)
    except TypeError as error:
        legal = ", ".join(("logits", "tokens", "positions", "noise", *more))
        raise ValueError(
            f"remasking = {name_of(remasking)}; is not called as a rule is ({error}); ({legal})"
        ) from error
    except ValueError:  # of what is not written in Python nothing is known
        return


def rule_of(remasking: str | Confidence) -> Confidence:
    """The rule that a name stands for; a rule as it is."""
    return RULES[remasking] if isinstance(remasking, str) else remasking


def unit_of(remasking: str | Confidence) -> str | None:
    """What the numbers of a rule are, see `Confidence`."""
    return getattr(rule_of(remasking), "unit", None)


def is_drawn(remasking: str | Confidence) -> bool:
    """Whether a rule draws from the noise, see `Confidence`."""
    return bool(getattr(rule_of(remasking), "is_random", False))


def is_told_mask(remasking: str | Callable[..., Any]) -> bool:
    """Whether a rule is to be told the id of [MASK], see `Confidence`."""
    rule = RULES[remasking] if isinstance(remasking, str) else remasking
    return bool(getattr(rule, "wants_mask", False))


def name_of(remasking: str | Callable[..., Any]) -> str:
    """How messages call a rule: its name, or its dotted path."""
    found = rule_told(remasking)
    return found if isinstance(found, str) else found["_target_"]


def rule_told(remasking: str | Callable[..., Any]) -> str | dict[str, Any]:
    """What results say of a rule, plain data: its name, or the dotted path and the settings (public attributes) of one's own."""
    if isinstance(remasking, str):
        return remasking
    if named := [name for name, rule in RULES.items() if rule is remasking]:
        return named[0]
    if isinstance(remasking, functools.partial):
        given = {"_args_": list(remasking.args)} if remasking.args else {}
        settings = {"_partial_": True, **given, **remasking.keywords}
        return {"_target_": _path(remasking.func), **{key: _plain(value) for key, value in settings.items()}}
    settings = {} if inspect.isroutine(remasking) else getattr(remasking, "__dict__", {})
    if dataclasses.is_dataclass(remasking):
        settings = {field.name: getattr(remasking, field.name) for field in dataclasses.fields(remasking)}
    return {"_target_": _path(remasking), **{k: _plain(v) for k, v in settings.items() if not k.startswith("_")}}


def _plain(value: Any) -> Any:
    """A setting as plain data; a rule among them as `rule_told` has it, of anything else its class."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    return rule_told(value) if callable(value) and not isinstance(value, type) else _path(value)


def _path(value: Any) -> str:
    """Dotted path of a class or function; of another object that of its class."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
