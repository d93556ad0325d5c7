"""Initial weights."""

import math

import torch
from torch import Tensor, nn

from illada_lab.models.spec import ModelSpec

# Ends of the names of all that is drawn from a normal distribution.
MATRICES = ("_proj.weight", "embed_tokens.weight", "lm_head.weight")


@torch.no_grad()
def initialise(model: nn.Module, spec: ModelSpec, generator: torch.Generator | None = None) -> None:
    """Draw the weights of a mask predictor in place.

    Matrices and the embedding from normal(0, init_std); the two matrices that write into the residual stream scaled by
    1/sqrt(2 n_layers), so that its variance does not grow with depth; norms at one.

    Args:
        model: a MaskPredictor with real (not meta) parameters.
        spec: its sizes.
        generator: source of randomness; None: torch's global one.

    Source: iLLaDA's released model code (normal(initializer_range), o_proj and down_proj by 1/sqrt(2 layers)), but for the embedding:
        by notes of a third party on that code it has sqrt(1 / (2 d_model)), 0.011 at 8B. Ours has init_std, as its other matrices.
    """
    for name, parameter in model.named_parameters():
        draw(name, parameter, spec, generator)


@torch.no_grad()
def draw(name: str, parameter: Tensor, spec: ModelSpec, generator: torch.Generator | None = None) -> None:
    """Draw one parameter of a mask predictor in place, by the rule of `initialise`; whole, or the draws come out otherwise.

    Raises:
        ValueError: there is no rule for it.
    """
    if "norm" in name and parameter.ndim == 1:
        parameter.fill_(1.0)
        return
    if not name.endswith(MATRICES):
        raise ValueError(
            f"model = {name}; a parameter without initial values; the class's draw_weight(name, weight, generator) gives it some"
        )
    writes_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
    scale = 1 / math.sqrt(2 * spec.n_layers) if writes_residual else 1.0
    parameter.normal_(0.0, spec.init_std * scale, generator=generator)
