"""Initial weights of a model that was built on the meta device: one whole matrix at a time, of which each process keeps its part."""

import copy

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from illada_lab.models.mask_predictor import MaskPredictor


def part_like(whole: Tensor, place: Tensor) -> Tensor:
    """The part of a whole tensor that a (sharded) parameter holds here, on its device; nothing is sent between processes."""
    whole = whole.to(place.device)
    if not isinstance(place, DTensor):
        return whole
    return distribute_tensor(whole, place.device_mesh, place.placements, src_data_rank=None)


@torch.no_grad()
def materialise(predictor: MaskPredictor, device: torch.device | str, seed: int) -> None:
    """Give a model on the meta device its initial weights, those that `MaskPredictor` draws in one process after `manual_seed(seed)`.

    Every process draws every matrix, in the order of the constructor, and keeps its part: the weights are the same for every world
    size, and the host holds one whole matrix at a time (at 8B the embedding, 2.4 GiB), never the model. The price is time: each
    process draws all numbers, twice, because torch's modules draw when they are built and that moves the generator on.

    Args:
        predictor: on the meta device, sharded or not; its parameters are real afterwards.
        device: where they go.
        seed: of the weights.
    """
    template = _template(predictor)
    predictor.to_empty(device=device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in template.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                copy.deepcopy(module).to_empty(device="cpu").reset_parameters()
        places = dict(predictor.named_parameters())
        for name, shape in [(name, p.shape) for name, p in template.named_parameters()]:
            # Lightning may have made the GPU the default device: its generator would draw other numbers.
            whole = torch.empty(shape, device="cpu")
            template.draw_weight(name, whole)
            places[name].copy_(part_like(whole, places[name]))


def _template(predictor: MaskPredictor) -> MaskPredictor:
    """The same model as its constructor leaves it, without weights: sharding may have changed the other's modules."""
    # Sharding puts a class of torch's in front.
    plain = next(cls for cls in type(predictor).__mro__ if not issubclass(cls, FSDPModule))
    with torch.device("meta"):
        return plain(tokens=predictor.tokens, **predictor.to_config())
