"""The results file of the main job: plain data, one schema, written whole or not at all.

Schema 1 is a dictionary of

- `manifest`: command, commit, scale, seed, date, seconds, versions, machine;
- `config`: stage -> resolved configuration;
- `parameters`: total, non_embedding;
- `stages`: list of name, seconds, tokens, tokens_per_second, train_curve [step, loss, lr], validation_curve [step, kind,
  nelbo_per_token, stderr], entropy_per_token {kind: nats/token}, over_entropy {kind: bound / entropy - 1}, t_bins [t_low, t_high,
  loss, ci_low, ci_high, n];
- `tables`: list of title, model, rows [task, metric, value, ci_low, ci_high, n, chance, target, note];
- `samples`: list of model, kind, prompt, text, answer, is_correct;
- `health`: list of name, value, note, is_warning;
- `traces`: list of title, model, prompt_tokens, tokens, mask, block_length, records [step, position, token, confidence, runner_up,
  runner_up_confidence, nfe].
"""

import json
import os
from pathlib import Path
from typing import Any

SCHEMA = 1
REQUIRED = ("manifest", "config", "parameters", "stages", "tables", "samples", "health", "traces")


def write_results(path: str | Path, results: dict[str, Any]) -> Path:
    """Write results aside and rename: a reader never sees half a file.

    Raises:
        ValueError: a part of the schema is missing.
    """
    check_results(results)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    aside.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, path)
    return path


def read_results(path: str | Path) -> dict[str, Any]:
    """Read a results file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no results file of this schema.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"results = {path}; no such file; results.json of a finished `illada-lab reproduce`")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"results = {path}; not JSON (line {error.lineno}: {error.msg}); run the job again") from error
    check_results(results)
    return results


def check_results(results: Any) -> None:
    """Raise ValueError where a part of the schema is missing."""
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        found = results.get("schema") if isinstance(results, dict) else type(results).__name__
        raise ValueError(f"results.schema = {found}; this version reads another; {SCHEMA}")
    if missing := [key for key in REQUIRED if key not in results]:
        raise ValueError(f"results.{missing[0]}; missing; a results file has {', '.join(REQUIRED)}")
