"""What a run takes, before it runs."""

from illada_lab.planner.compute import Flops, flops_per_token, paper_budget
from illada_lab.planner.devices import Device
from illada_lab.planner.job import Job, job
from illada_lab.planner.ladder import Rung, in_proportion, ladder
from illada_lab.planner.memory import Memory, memory_per_device
from illada_lab.planner.nearest import nearest_that_fit
from illada_lab.planner.plan import Plan, largest_micro_batch, plan, refusal
from illada_lab.planner.rehearsal import Step, rehearse
from illada_lab.planner.settings import PlanSettings

__all__ = [
    "Device",
    "Flops",
    "Job",
    "Memory",
    "Plan",
    "PlanSettings",
    "Rung",
    "Step",
    "flops_per_token",
    "in_proportion",
    "job",
    "ladder",
    "largest_micro_batch",
    "memory_per_device",
    "nearest_that_fit",
    "paper_budget",
    "plan",
    "refusal",
    "rehearse",
]
