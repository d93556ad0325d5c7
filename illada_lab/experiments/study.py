"""What an experiment of the paper is here: claims, and a run that measures them for one seed."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab

Rows = list[dict[str, Any]]


@dataclass
class Outcome:
    """What one seed measured.

    Attributes:
        tables: tidy tables by name, one dict per row (`pandas.DataFrame(rows)` reads them).
        effects: claim id -> effect, in the claim's unit.
        rooms: claim id -> largest effect that could have shown, where there is a limit.
    """

    tables: dict[str, Rows] = field(default_factory=dict)
    effects: dict[str, float] = field(default_factory=dict)
    rooms: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class Study(Protocol):
    """An experiment of the paper: one file here, one YAML in conf/study, one paragraph of a notebook."""

    title: ClassVar[str]
    """What it is about, in a line."""
    claims: ClassVar[tuple[Claim, ...]]
    """What it tests."""
    trains_many: ClassVar[bool]
    """Whether it trains several models from nothing for each seed."""

    def run(self, lab: Lab) -> Outcome:
        """Measure everything for the lab's seed; `effects` has an entry for each claim."""
        ...
