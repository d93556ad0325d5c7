"""Axis legend of every shape in the package.

| letter | axis |
|---|---|
| B | batch: sequences, or rows of packed sequences |
| L | length: positions of a row |
| P, R | prompt and response positions, L = P + R |
| N | positions of a packed batch, all segments one after the other |
| M | masked positions of a batch |
| S | segments of a packed batch (in samplers: steps) |
| V | vocabulary |
| D | model width |
| H, K | query heads, key/value heads |
| E | head size |

Tensor types are jaxtyping's and are checked at run time under pytest only. A leading space as in `Int[Tensor, " B"]` is how
jaxtyping tells one axis from a forward reference.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Tokens = Int[Tensor, "B L"]
"""Clean tokens x0 or masked tokens xt."""

Positions = Bool[Tensor, "B L"]
"""A choice of positions: is_masked, is_valid, is_prompt, is_maskable."""

Segments = Int[Tensor, "B L"]
"""0 where nothing is (padding); elsewhere the number of the segment inside its row, never falling along the row."""

Logits = Float[Tensor, "B L V"]
"""Unnormalised log-probabilities at every position."""
