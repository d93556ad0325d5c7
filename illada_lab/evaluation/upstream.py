"""Tasks of lm-eval: on local data, checked before anything is asked, and divided among processes."""

import difflib
from pathlib import Path
from typing import Any

import yaml
from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

from illada_lab.evaluation.answerer import Answerer
from illada_lab.processes import n_processes

TASKS = Path(__file__).with_name("tasks")
# Fields in which a task of lm-eval says what its splits are called; of the last two it asks the questions of the first that it has.
SPLITS = ("training_split", "test_split", "validation_split")


def local_task(name: str, path: str | Path) -> dict[str, Any]:
    """A task on local data, as lm-eval's `simple_evaluate(tasks=[...])` takes it.

    Args:
        name: file in `tasks/` without its ending, or a task of lm-eval itself, which is used unchanged but for where its data is.
        path: the data: of a shipped task a file, of one of lm-eval's a folder with a JSONL file for each split that is at hand, under
            the name that lm-eval has for it (test.jsonl, validation.jsonl, train.jsonl for examples, MMLU's dev.jsonl).

    Raises:
        ValueError: there is no such task, it is a group of several data sets, or the data have no split that it asks questions of.
        FileNotFoundError: there is no such data.
    """
    path, shipped = Path(path), sorted(file.stem for file in TASKS.glob("*.yaml"))
    if name in shipped:
        if not path.is_file():
            raise FileNotFoundError(f"path = {path}; there is no such file; the data of {name}")
        task = yaml.safe_load((TASKS / f"{name}.yaml").read_text(encoding="utf-8"))
        task["dataset_kwargs"]["data_files"] = {"test": str(path.resolve())}
        return task
    manager = TaskManager()
    known = manager.all_subtasks
    if name in manager.all_groups:
        raise ValueError(
            f"task = {name}; a group of several data sets, which one path cannot hold; path=null, the data in lm-eval's cache"
        )
    if name not in known:
        near = difflib.get_close_matches(name, [*shipped, *known], n=2) or shipped
        raise ValueError(f"task = {name}; neither a task of lm-eval nor shipped here; {', '.join(near)}")
    files = {file.stem: str(file.resolve()) for file in sorted(path.glob("*.jsonl"))}
    if not files:
        raise FileNotFoundError(f"path = {path}; no test.jsonl or validation.jsonl there; the data of {name}")
    splits = {key: split for key in SPLITS if (split := (manager.task_index[name].cfg or {}).get(key)) is not None}
    # A task whose questions are made by code of its own names no split.
    asked = [split for key, split in splits.items() if key != "training_split"]
    if asked and not set(asked) & set(files):
        there, wanted = (" or ".join(f"{split}.jsonl" for split in dict.fromkeys(found)) for found in (files, asked))
        raise ValueError(f"path = {path}; nothing there that {name} asks of, only {there}; {wanted}")
    absent = {key: None for key, split in splits.items() if split not in files}
    own = {
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
        **absent,
    }
    # A group is how lm-eval lets one change a part of its own tasks.
    return {"group": f"{name}_from_files", "task": [own]}


class CheckedTasks(TaskManager):
    """lm-eval's tasks; settings that one of them would pass over in silence are refused before anything is asked.

    Args:
        n_shots: examples in front of a question.
        scoring: the rule that scores candidates; None: the tasks are to generate answers.
        answerer: the model, which is told what the tasks will make of its scores.
    """

    def __init__(self, *, n_shots: int, scoring: str | None, answerer: Answerer) -> None:
        super().__init__()
        self.n_shots, self.scoring, self.answerer = n_shots, scoring, answerer

    def load(self, task_list: Any) -> Any:
        """As lm-eval's.

        Raises:
            ValueError: an unknown task, a setting without effect on one, or a rule that gives no numbers for its metrics.
        """
        for name in _names(task_list):  # their code is loaded before they are known to be unsafe
            _check_safe(name, (getattr(self.task_index.get(name), "cfg", None) or {}).get("unsafe_code"))
        try:
            found = super().load(task_list)
        except KeyError as error:
            if "not a registered" not in str(error):
                raise ValueError(f"path; the data have no {error}, which the task asks for; a file with it") from error
            near = [n for task in task_list for n in difflib.get_close_matches(str(task), self.all_tasks, n=3)]
            hint = f"did you mean {' or '.join(near)}?" if near else "a name of lm-eval, or path= of local data"
            raise ValueError(f"task = {task_list[0]}; lm-eval has no such task; {hint}") from error
        for name, task in found["tasks"].items():
            kind = task.get_config("output_type")
            _check_safe(name, getattr(task, "UNSAFE_CODE", False))
            if (kind == "generate_until") != (self.scoring is None):
                legal = "null, with max_length and block_length" if self.scoring else "confidence or monte_carlo"
                raise ValueError(
                    f"scoring = {self.scoring or 'null'}; has no effect on {name}, which is {kind}; {legal}"
                )
            if self.n_shots and (kind == "loglikelihood_rolling" or task.get_config("num_fewshot") == 0):
                raise ValueError(f"n_shots = {self.n_shots}; has no effect on {name}, which takes no examples; 0")
            self.answerer.expect(name, kind, list(task.aggregation()))
            share(task)
        return found


def share(task: Any) -> None:
    """Let each of several processes have every n-th question of a task, asked as one process would ask it.

    lm-eval has each process draw the examples of its own questions from the beginning of one sequence, so that a question's examples, and
    with them its score, would depend on the number of processes.
    """
    if n_processes() == 1:
        return
    build = task.build_all_requests

    def built(*, rank: int = 0, world_size: int = 1, **settings: Any) -> None:
        build(rank=0, world_size=1, **settings)
        n_items = len({instance.doc_id for instance in task.instances})
        if n_items < world_size:
            raise ValueError(
                f"processes = {world_size}; more than the {n_items} questions of {task.get_config('task')}; at most {n_items}"
            )
        task._instances = [instance for instance in task.instances if instance.doc_id % world_size == rank]

    task.build_all_requests = built


def _names(task_list: Any) -> list[str]:
    """Names of lm-eval's tasks among those that are to be loaded, `local_task`s too."""
    given = task_list if isinstance(task_list, list) else [task_list]
    parts = [part for task in given for part in (task.get("task") if isinstance(task, dict) else [task]) or []]
    return [name for part in parts if isinstance(name := part.get("task") if isinstance(part, dict) else part, str)]


def _check_safe(name: str, is_unsafe: Any) -> None:
    if is_unsafe:
        raise ValueError(
            f"task = {name}; runs what a model writes, without a sandbox; tasks=humaneval or mbpp with evaluation.run_code=true"
        )
