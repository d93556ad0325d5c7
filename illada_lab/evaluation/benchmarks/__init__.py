"""The paper's benchmarks on local files: one short file each, settings in `conf/evaluation/`."""

from illada_lab.evaluation.benchmarks.bbh import Bbh
from illada_lab.evaluation.benchmarks.benchmark import Benchmark, Item, Judged
from illada_lab.evaluation.benchmarks.gsm8k import Gsm8k
from illada_lab.evaluation.benchmarks.humaneval import HumanEval
from illada_lab.evaluation.benchmarks.mbpp import Mbpp

__all__ = ["Bbh", "Benchmark", "Gsm8k", "HumanEval", "Item", "Judged", "Mbpp"]
