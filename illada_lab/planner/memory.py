"""Memory of a training step on each device, by part."""

from collections import Counter
from dataclasses import asdict, dataclass, replace

from illada_lab.models import ModelSpec
from illada_lab.planner.devices import Device
from illada_lab.planner.job import Job
from illada_lab.planner.ledger import FLOAT32
from illada_lab.planner.rehearsal import (
    ACTIVATIONS,
    BUFFERS,
    GRADIENTS,
    HEAD,
    OPTIMISER,
    WEIGHTS,
    Step,
    rehearse,
    rehearse_sharded_update,
)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device at the fullest moment of a step.

    Args:
        weights: parameters, and their running average where there is one.
        gradients: of all parameters, or of those that have theirs at that moment.
        optimiser: its state.
        activations: what the forward pass through the layers keeps for the backward pass, autocast's copies of the weights among it.
        head: logits and softmax of the positions that are predicted, a chunk of them at a time.
        buffers: everything else that is alive then: temporaries, recomputed activations, gathered layers.
    """

    weights: int
    gradients: int
    optimiser: int
    activations: int
    head: int
    buffers: int

    @property
    def total(self) -> int:
        """All parts."""
        return sum(asdict(self).values())


def memory_per_device(job: Job, device: Device) -> Memory:
    """Rehearse the job's step and spread it over its devices.

    One device, and each of several that hold the whole model: the rehearsal as it is. Sharded: lasting parts are divided by the
    number of devices, what passes is not (gathered layers among it), and what is outside of the layers is gathered beside it. Nor are
    the temporaries of the update divided: Muon gathers whole matrices, but one at a time, so only those of the largest count. With
    tensor parallelism what passes is counted as if it were not divided: an upper limit.
    """
    step = Step(
        spec=job.spec,
        n_rows=job.micro_batch_size,
        length=job.length,
        optim=job.optim,
        precision="bf16-mixed" if "bf16" in job.precision else "32-true",
        recomputed=job.recomputed,
        keeps_gradients=job.keeps_gradients,
        attention=job.attention,
        is_on_cpu=device.is_cpu,
        is_compiled=job.is_compiled,
        is_sharded=job.is_sharded,
        lora=job.lora,
    )
    whole = rehearse(step)
    average = FLOAT32 * job.spec.n_parameters if job.has_ema else 0
    if not job.is_sharded:
        return _memory(whole.peak + Counter({WEIGHTS: average}))
    update = rehearse_sharded_update(replace(step, n_rows=1, length=1, recomputed=None))  # once for all micro-batches
    lasting = _sharded_state(job, update)
    forward, backward = (
        # What is outside of the layers is gathered in float32 all the time; its gradient is among the rehearsal's buffers.
        Counter({**{part: passes[part] for part in (ACTIVATIONS, HEAD)}, BUFFERS: passes[BUFFERS] + _outside(job.spec)})
        for passes in (whole.forward, whole.backward)
    )
    if not job.keeps_gradients:  # they come anew, layer by layer
        missing = 1 - whole.backward[GRADIENTS] / max(1, whole.forward[GRADIENTS])
        backward[GRADIENTS] = -round(lasting[GRADIENTS] * missing)
    # Behind the backward pass: what is outside of the layers, its gradient, and the buffer that this leaves in.
    sending = Counter({BUFFERS: 3 * _outside(job.spec)})
    updating = Counter({BUFFERS: update[BUFFERS]})
    fullest = max(forward, backward, sending, updating, key=Counter.total)
    return _memory(Counter({part: lasting[part] + fullest[part] for part in {*lasting, *fullest}}))


def _memory(parts: Counter[str]) -> Memory:
    known = (WEIGHTS, GRADIENTS, OPTIMISER, ACTIVATIONS, HEAD)
    rest = sum(n for part, n in parts.items() if part not in known)
    return Memory(**{part: parts[part] for part in known}, buffers=rest)


def _sharded_state(job: Job, update: Counter[str]) -> Counter[str]:
    """Each device's part of float32 weights, gradients and the optimiser's state.

    With tensor parallelism what is outside of the layers is whole in every group, so divided by the number of groups only.
    """
    n_inside = job.spec.n_layers * job.spec.n_layer_parameters
    n_outside = job.spec.n_parameters - n_inside
    weights = FLOAT32 * (-(-n_inside // job.world_size) - (-n_outside // job.n_replicas))
    state_per_weight = update[OPTIMISER] / max(1, FLOAT32 * job.spec.n_parameters)
    return Counter({WEIGHTS: weights, GRADIENTS: weights, OPTIMISER: round(weights * state_per_weight)})


def _outside(spec: ModelSpec) -> int:
    """Bytes of what is outside of the layers, in float32."""
    return FLOAT32 * (spec.n_parameters - spec.n_layers * spec.n_layer_parameters)
