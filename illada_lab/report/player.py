"""What the denoising player is given: traces as frames, and the colour scale of confidence."""

import json
from typing import Any

# Pale: unsure; dark blue: sure. Brightness falls all the way: the order holds for every colour vision and in grey.
# Source: our choice, after ColorBrewer's YlGnBu, which its authors list as safe for colour-blind readers.
SCALE = ("#fff7bc", "#a6dbb5", "#41b0c0", "#2f78b4", "#22327f")


def frames(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Group the records of a trace by step.

    Args:
        records: see `report.schema`; in any order.

    Returns:
        One frame a step, in order: step, nfe (passes so far; null where the trace does not tell), set: [position,
        token, confidence, runner-up, its confidence] of what changed.
    """
    steps: dict[int, list[dict[str, Any]]] = {}
    for record in records:
        steps.setdefault(record["step"], []).append(record)
    made, nfe = [], None
    for step in sorted(steps):
        counted = [r["nfe"] for r in steps[step] if r.get("nfe") is not None]
        nfe = max([nfe or 0, *counted]) if counted else nfe
        changed = [
            [
                r["position"],
                r.get("token"),
                _rounded(r.get("confidence")),
                r.get("runner_up"),
                _rounded(r.get("runner_up_confidence")),
            ]
            for r in steps[step]
        ]
        made.append({"step": step, "nfe": nfe, "set": changed})
    return made


def payload(traces: list[dict[str, Any]]) -> str:
    """Traces as JSON that may stand inside a script element.

    Args:
        traces: see `report.schema`.
    """
    data = {
        "scale": SCALE,
        "traces": [
            {
                "title": trace["title"],
                "model": trace["model"],
                "sampler": trace.get("sampler") or "",
                "prompt": trace["prompt_tokens"],
                "n": len(trace["tokens"]),
                "mask": trace.get("mask") or "▢",
                "block": trace.get("block_length") or 0,
                "grows": bool(trace.get("is_growing")),
                "given": [[one["position"], one["token"]] for one in trace.get("given") or []],
                "frames": frames(trace["records"]),
            }
            for trace in traces
        ],
    }
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # "</script" ends the element and "<!--" changes how it ends, whatever string they stand in; U+2028 and U+2029 end a
    # line of JavaScript in old browsers. In JSON all of them can be written as escapes.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _rounded(value: int | float | None) -> int | float | None:
    return None if value is None else round(value, 4)
