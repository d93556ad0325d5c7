"""What a plan knows of a device: how fast it multiplies, and how much it holds."""

from typing import Any

from illada_lab.manifest import memory_bytes
from illada_lab.training.machine import best_precision, matmul_rate

GIB = 2**30
Number = int | float
TERA = 10**12


class Device:
    """A kind of device; what is None is measured on this machine's CPU when it is first asked for.

    Args:
        name: as tables show it.
        bf16_tflops: 10^12 operations per second of a dense bf16 matrix product, the yardstick of MFU.
        float32_tflops: the same in float32.
        memory_gib: memory as the driver reports it.
        has_bf16: whether `precision=auto` takes bf16.

    Raises:
        ValueError: a number that is not positive.

    Source: the files in conf/device/ name the data sheets.
    """

    def __init__(
        self,
        *,
        name: str,
        bf16_tflops: Number | None = None,
        float32_tflops: Number | None = None,
        memory_gib: Number | None = None,
        has_bf16: bool | None = None,
    ) -> None:
        if problems := self.check_config(bf16_tflops=bf16_tflops, float32_tflops=float32_tflops, memory_gib=memory_gib):
            raise ValueError("; ".join(problems))
        self.name = name
        self._tflops = {"bf16": bf16_tflops, "float32": float32_tflops}
        self._memory_gib, self._has_bf16 = memory_gib, has_bf16

    @staticmethod
    def check_config(**values: Any) -> list[str]:
        """Problems of a set of arguments, for `illada_lab.config.check`."""
        keys = ("bf16_tflops", "float32_tflops", "memory_gib")
        wrong = [key for key in keys if (value := values.get(key)) is not None and value <= 0]
        return [f"{key} = {values[key]}; must be positive; the data sheet's number, or null" for key in wrong]

    @property
    def is_cpu(self) -> bool:
        """Whether this is the processor at hand: its memory is shared by all processes of a node."""
        return self._memory_gib is None

    @property
    def memory_bytes(self) -> int:
        """Memory of the device; of a CPU: of the machine."""
        return memory_bytes() if self._memory_gib is None else round(self._memory_gib * GIB)

    def peak_flops(self, precision: str) -> float:
        """Operations per second of a large matrix product.

        Args:
            precision: Lightning's name of the precision a run trains in.
        """
        kind = "bf16" if "bf16" in precision else "float32"
        rate = self._tflops[kind]
        return matmul_rate("cpu", kind) if rate is None else rate * TERA

    def resolve_precision(self, precision: str) -> str:
        """What "auto" comes to on this device."""
        if precision != "auto":
            return precision
        if self._has_bf16 is None:
            return best_precision("cpu")
        return "bf16-mixed" if self._has_bf16 else "32-true"
