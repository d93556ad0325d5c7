"""Sharded training: fully sharded parameters (FSDP2), tensor parallelism, and layers that are computed again in the backward pass."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from illada_lab.models.kernels.say import say_once
from illada_lab.models.mask_predictor import MaskPredictor

Recomputed = int | Literal["ops"] | None
# What callers use of a predictor beside `forward`: FSDP gathers parameters before these. The head comes after one of them and finds its
# weight still gathered (see `shard`); were it a call of its own, its gradient would be sent apart from the embedding's.
CALLS = ("hidden", "hidden_packed", "hidden_window")
# In the names of operations: attention kernels (aten's, torch_attn's, flash-attn's, FlexAttention), and matrix products.
ATTENTION = ("attention", "attn")
PRODUCTS = ("aten.mm", "aten.addmm", "mkldnn._linear_pointwise", "illada_lab.onednn_product")
HEADS_AXIS = 1  # of queries and keys [B, heads, L, E]


def shard(predictor: MaskPredictor, mesh: DeviceMesh, *, is_bf16: bool) -> None:
    """Spread a model's parameters over the devices of a mesh; do it on the meta device, before there are weights.

    Each layer is a unit that is gathered when it is needed; what is outside of the layers (embedding, last norm, head) is one more.
    Parameters, gradients and the optimiser's state stay in float32. With `is_bf16` a layer's parameters travel and compute in bf16
    (half the traffic); the rest is gathered in float32, because under autocast the residual stream starts there in float32.

    Args:
        predictor: on the meta device.
        mesh: its axes are called data_parallel and tensor_parallel; the second may be 1.
        is_bf16: see above.

    Source: our choice, after the order of torchtitan: tensor parallelism first, then sharding over what is left.
    """
    if mesh["tensor_parallel"].size() > 1:
        _split_layers(predictor, mesh["tensor_parallel"])
    data = mesh["data_parallel"]
    # Casting inputs would round the rotary table to bf16; autocast knows what to cast.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if is_bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for layer in predictor.layers:
        fully_shard(layer, mesh=data, mp_policy=policy)
    # Kept gathered between `hidden` and the loss, which needs the head outside of `forward`, and until the backward pass.
    fully_shard(predictor, mesh=data, reshard_after_forward=False)
    for name in CALLS:
        register_fsdp_forward_method(predictor, name)


def is_sharded(predictor: nn.Module) -> bool:
    """Whether a model is spread over devices."""
    return isinstance(predictor, FSDPModule)


def reshard(predictor: nn.Module) -> None:
    """Let go of what a pass without a backward pass has left gathered."""
    if isinstance(predictor, FSDPModule):
        predictor.reshard()


def _split_layers(predictor: MaskPredictor, mesh: DeviceMesh) -> None:
    """Each device holds some heads and some of the inner width of SwiGLU; embedding, norms and head are whole on each."""
    plan: dict[str, Any] = {
        "self_attn.q_proj": ColwiseParallel(),
        "self_attn.k_proj": ColwiseParallel(),
        "self_attn.v_proj": ColwiseParallel(),
        "self_attn.o_proj": RowwiseParallel(),
        "mlp.gate_proj": ColwiseParallel(),
        "mlp.up_proj": ColwiseParallel(),
        "mlp.down_proj": RowwiseParallel(),
    }
    if predictor.spec.has_qk_norm:
        # One weight for all heads: its gradient is the sum over the devices that hold them.
        norm = SequenceParallel(sequence_dim=HEADS_AXIS, use_local_output=True)
        plan |= {"self_attn.q_norm": norm, "self_attn.k_norm": norm}
    for layer in predictor.layers:
        parallelize_module(layer, mesh, plan)


def recompute(
    predictor: MaskPredictor, which: Recomputed, *, has_dropout: bool = False, is_sharded: bool = False
) -> None:
    """Trade arithmetic for memory: activations of layers are dropped and computed again in the backward pass.

    Compiled layers stay compiled, with one exception: what stands outside of a trace (torch's variable-length kernel, flash-attn's) keeps
    a layer from being compiled with "ops", because the checkpoint is traced with it there.

    Args:
        predictor: before sharding; compiled before, or later (to be sharded: before).
        which: None: nothing; k: all inside every k-th layer (1: every layer); "ops": in every layer all but the outcome of attention
            and of every second matrix product.
        has_dropout: the layers draw random numbers (adapters' dropout), which must be the same ones the second time.
        is_sharded: it will be, by hooks that must not run a second time: the checkpoint stands inside of them, what is compiled inside of
            that (a trace of the checkpoint would have to keep sharded weights, which torch 2.13 refuses with tensor parallelism).

    Source: selective recomputation as in Korthikanti et al. 2022; "every second product" is torchtitan's choice.
    """
    if which is None:
        return
    # Keeping the generators' state costs a copy per layer, and most layers draw nothing.
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": has_dropout}
    if which == "ops":
        options["context_fn"] = lambda: create_selective_checkpoint_contexts(_Keep())
    for number, layer in enumerate(predictor.layers):
        if which != "ops" and number % which:
            continue
        compiled = layer._compiled_call_impl
        if compiled is None:
            layer.forward = partial(_again, layer.forward, options)
        elif which == "ops":
            layer.forward = partial(_again, partial(_watched, layer.forward, which), options)
        elif is_sharded:
            # A copy would call this layer, but averages of sharded weights are refused.
            layer._compiled_call_impl = None
            inner = torch.compile(layer.forward, dynamic=predictor.has_dynamic_layers)
            layer.forward = partial(_again, inner, options)
        else:
            layer._compiled_call_impl = partial(checkpoint, compiled, **options)


def _again(forward: Callable[..., Any], options: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    """A checkpoint that a trace goes into: what is `checkpoint` itself, or a partial of it, is left out without a word.

    A partial of this function, and no closure: copies of a model (averages of its weights) must call their own layers.
    """
    return checkpoint(forward, *args, **options, **kwargs)


def _watched(forward: Callable[..., Any], which: Recomputed, *args: Any, **kwargs: Any) -> Any:
    """The inside of such a checkpoint; a trace leaves the message out, so only Python says it."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        say_once(
            f"trainer.activation_checkpointing = {which}; such layers run uncompiled, as they do with a variable-length attention kernel, "
            "into which no trace goes; trainer.attention=sdpa has them compiled (elsewhere TORCH_LOGS=graph_breaks tells why)"
        )
    return forward(*args, **kwargs)


class _Keep:
    """Which outcomes are kept, in the forward pass and, counted alike, in its repetition."""

    def __init__(self) -> None:
        self.n_products = {False: 0, True: 0}

    def __call__(self, context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        if any(word in str(op) for word in ATTENTION):
            return CheckpointPolicy.MUST_SAVE
        if str(op).removesuffix(".default") in PRODUCTS:
            self.n_products[context.is_recompute] += 1
            if self.n_products[context.is_recompute] % 2:
                return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE
