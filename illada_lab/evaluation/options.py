"""What a harness asks of an answer: its budget, where it ends, how it is drawn."""

from typing import Any

KNOWN_OPTIONS = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}
# Other names of the budget; of several the first counts. Source: lm-eval, `normalize_gen_kwargs`.
BUDGETS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")

# Temperature, and what cuts the distribution.
Drawing = tuple[float, dict[str, Any]]


def asked_of(options: dict[str, Any], *, usual_budget: int) -> tuple[int, list[str], Drawing]:
    """Budget in tokens, texts that end an answer, and how it is drawn (see `drawing`).

    Args:
        options: of a harness.
        usual_budget: where it names none.

    Raises:
        ValueError: an option that is not known here, a budget below 1, or as `drawing`.
    """
    budgets = [options[key] for key in BUDGETS if options.get(key) is not None]
    options = {key: value for key, value in options.items() if key not in BUDGETS}
    if options.get("num_beams") == 1:  # no search: what is done here
        del options["num_beams"]
    if unknown := sorted(set(options) - KNOWN_OPTIONS):
        raise ValueError(
            f"{unknown[0]} = {options[unknown[0]]}; not an option of generation here; {', '.join(sorted(KNOWN_OPTIONS))}"
        )
    until = options.get("until") or []
    stops = [text for text in ([until] if isinstance(until, str) else until) if text]
    budget = int(budgets[0]) if budgets else usual_budget
    if budget < 1:
        raise ValueError(f"max_gen_toks = {budget}; no room for an answer; 1 or more")
    return budget, stops, drawing(options)


def drawing(options: dict[str, Any]) -> Drawing:
    """Temperature of an answer, 0.0 for the likeliest token, and what cuts the distribution, top_p and top_k.

    Source: lm-eval, `normalize_gen_kwargs`; what it warns of or passes over is refused, but for a temperature with do_sample=false, which
    many of its tasks name.
    """
    temperature = float(options.get("temperature") or 0.0)
    is_drawn = bool(temperature) if options.get("do_sample") is None else bool(options["do_sample"])
    if is_drawn and temperature <= 0:
        given = "null" if options.get("temperature") is None else options["temperature"]
        raise ValueError(f"temperature = {given}; do_sample = true draws at none; above 0, or do_sample=false")
    cuts = {key: options[key] for key in ("top_p", "top_k") if options.get(key) is not None}
    if cuts and not is_drawn:
        key, value = next(iter(cuts.items()))
        raise ValueError(f"{key} = {value}; has no effect on the likeliest token; null, or a temperature above 0")
    return temperature if is_drawn else 0.0, cuts
