# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation.jupytext_version,-jupytext.text_representation.format_version
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 09 · The tables: iLLaDA's recipe, LLaDA's recipe, and the autoregressive twin
#
# **Paper:** iLLaDA, Tables 2 and 3. **Studies:** `conf/study/base_table.yaml`, `conf/study/instruct_table.yaml`
#
# > **Time:** about a minute on two CPU cores once the models of this scale are there: they answer the toy benchmarks here, the comparison of the three recipes is read from committed results. If they are not, this
# > notebook trains them first: seconds at `scale = "smoke"`, four to nine minutes with bf16 units and about a quarter of an hour without at `scale = "toy"`; all notebooks share them. **Memory:** under 1 GB.
# > **Elsewhere:** on Colab, Kaggle or your own GPU open this notebook in a clone of the repository: the first cell installs what is missing, the second picks the scale.
# > **Words** (*scale, bound, twin, ledger, replicated*): explained in notebook [00](00_tour.ipynb).

# %%
# On Colab, Kaggle or a machine of your own, in a clone of the repository: installs the package if it is not there.
try:
    import illada_lab  # before torch, whose waiting threads then sleep
except ImportError:
    import subprocess
    import sys

    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", ".."], check=True)
    import illada_lab
print("illada_lab", illada_lab.__version__)

# %% tags=["parameters"]
scale = "toy"  # smoke: in seconds, to see that all runs; small and larger: with a GPU
seed = 1  # of the models
runs_dir = "../runs"

# %%
import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from illada_lab.evaluation.intervals import wilson
from illada_lab.evaluation.world_suite import evaluate_base, evaluate_instruct
from illada_lab.experiments import base_table, instruct_table
from illada_lab.experiments.lab import Lab
from illada_lab.report.plots import COLOURS, LIMIT, MARKERS, looks, use_style

use_style()
pd.set_option("display.max_colwidth", None)
lab = Lab(scale=scale, seed=seed, runs_dir=runs_dir)

# %% [markdown]
# ## The idea
#
# The paper compares models that differ in everything: architecture, recipe, data, tokens (12T, 2.3T, 18T). The tables answer *which model is better*, not *why*. Here three models share data, steps, optimiser and non-embedding size,
# and differ in the recipe alone (`illada_lab/experiments/recipes.py`):
#
# | | iLLaDA's recipe | LLaDA's recipe | autoregressive twin |
# |---|---|---|---|
# | attention, feed-forward | grouped queries, wide | a key/value head per query head, narrower | as iLLaDA, backwards only |
# | embedding and head | tied | untied | tied |
# | learning rate | constant, cosine | constant, linear | constant, cosine |
# | short rows in pre-training | none here (the paper cuts 30 % of the rows) | 1 % at a random length | none |
# | fine-tuning | whole sequence | response only, padded with EOS | response only |
# | answers | variable length | fixed length | greedy |
# | multiple choice | confidence score | Monte-Carlo likelihood | exact likelihood |
#
# Each cell of a table is a share of right answers, and the share of a few hundred questions is uncertain. Wilson's interval, from scratch:
#
# $$\frac{\hat p + \frac{z^2}{2n} \pm z\sqrt{\frac{\hat p(1-\hat p)}{n} + \frac{z^2}{4n^2}}}{1 + \frac{z^2}{n}}, \qquad z = 1.96$$


# %%
def interval(n_right, n, z=1.959964):
    p = n_right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


for n_right, n in ((0, 20), (13, 20), (130, 200), (200, 200)):
    assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(interval(n_right, n), wilson(n_right, n), strict=True))
    print(f"{n_right} of {n}: {interval(n_right, n)[0]:.1%} to {interval(n_right, n)[1]:.1%}")

# %% [markdown]
# ## The run: the two models of this scale on the toy benchmarks
#
# iLLaDA's recipe, before and after fine-tuning, at most 40 questions per task (some tasks have fewer). *stands for* says which of the paper's benchmarks a task is the toy of. Intervals are the suite's: by bootstrap, and Wilson's where all answers or
# none are right. The scores of one small model also depend on the machine and its precision, some of them more than on the seed, so the README's table has other numbers for the same seed.

# %%
n = 40 if scale != "smoke" else 4
base, tuned = lab.pretrained.model, lab.tuned.model
results = {
    "base": evaluate_base(base.predictor, base.tokenizer, lab.world, n_questions=n, n_mc_samples=1, seed=seed),
    "instruct": evaluate_instruct(tuned.predictor, tuned.tokenizer, lab.world, n_questions=n, seed=seed),
}
stands_for = {**base_table.STANDS_FOR, **instruct_table.STANDS_FOR}
rows = [
    {"model": name, "task": row["task"], "stands for": stands_for.get(row["task"], ""), "right": row["value"], "ci_low": row["ci_low"],
     "ci_high": row["ci_high"], "n": row["n"], "chance": row["chance"]}
    for name, result in results.items() for row in result.rows if not row["metric"].startswith("Monte-Carlo")
]  # fmt: skip
pd.DataFrame(rows).round(3)

# %%
figure, axes = plt.subplots(figsize=(8.5, 4.2))
own_look = {"base": (COLOURS[3], MARKERS[3]), "instruct": (COLOURS[5], MARKERS[5])}  # the others are the recipes' below
for number, row in enumerate(reversed(rows)):
    colour, marker = own_look[row["model"]]
    axes.plot([row["ci_low"], row["ci_high"]], [number, number], color=colour, marker="", lw=2)
    axes.plot(row["right"], number, color=colour, marker=marker)
    axes.plot(row["chance"], number, color=LIMIT, marker="|", ms=10)
for name, (colour, marker) in own_look.items():
    axes.plot([], [], color=colour, marker=marker, lw=2, label={"base": "pre-trained", "instruct": "fine-tuned"}[name])
axes.plot([], [], color=LIMIT, marker="|", ms=10, ls="", label="chance")
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
axes.set_yticks(range(len(rows)), [f"{row['model']}: {row['task']}" for row in reversed(rows)])
axes.set(xlim=(-0.02, 1.02), xlabel="share of right answers, 95 % interval")
plt.show()

# %% [markdown]
# ## Three recipes
#
# Committed results of two scales: `mini`, half trained, where there is room to be better, and `toy`, which has learnt its world. Bars are means over the seeds, dots are seeds. Hatched bars do not count in the mean that the claims are about: they are shown beside it.


# %%
def committed(name, at):
    return json.loads(Path(f"../results/{at}/{name}.json").read_text())


def bars(axes, result, title):
    table = pd.concat(pd.DataFrame(record["tables"]["tasks"]).assign(seed=record["seed"]) for record in result["seeds"])
    tasks, recipes = list(dict.fromkeys(table["task"])), list(dict.fromkeys(table["recipe"]))
    for number, (recipe, look) in enumerate(looks(recipes).items()):
        colour = look["color"]
        own = table[table["recipe"] == recipe]
        places = [tasks.index(task) + 0.27 * (number - 1) for task in own["task"]]
        means = own.groupby("task", sort=False)["right"].mean()
        counts = own.groupby("task", sort=False)["stands for"].first() != ""
        drawn = axes.bar(
            [tasks.index(t) + 0.27 * (number - 1) for t in means.index],
            means,
            0.25,
            color=colour,
            alpha=0.7,
            label=recipe,
        )
        for bar, is_counted in zip(drawn, counts, strict=True):
            if not is_counted:
                bar.set(hatch="///", edgecolor="white", alpha=0.5)
        axes.plot(places, own["right"], color=colour, marker=".", ls="", mec="black", mew=0.4)
    beside = set(table[table["stands for"] == ""]["task"])
    axes.set_xticks(range(len(tasks)), [f"({t})" if t in beside else t for t in tasks], rotation=25, ha="right")
    axes.set(title=title, ylim=(0, 1.05), ylabel="share of right answers")


tables = {(name, at): committed(name, at) for name in ("base_table", "instruct_table") for at in ("mini", "toy")}
for name in ("base_table", "instruct_table"):
    figure, panels = plt.subplots(1, 2, figsize=(13, 3.8), sharey=True)
    for axes, at in zip(panels, ("mini", "toy"), strict=True):
        bars(axes, tables[name, at], f"{name.replace('_', ' ')}, scale {at}")
    figure.legend(*panels[0].get_legend_handles_labels(), ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.08))
    plt.show()

# %% [markdown]
# **Base models, `mini`.** iLLaDA's recipe is 9 points behind LLaDA's, and in the mean over the seeds all of it is one task, the endings of stories: by the confidence score 17 % are right, below chance, by LLaDA's Monte-Carlo likelihood 31, 56 and 99 %. Each recipe is asked by its own rule, but the rule is the smaller part of it:
# iLLaDA's model of this size asked by the likelihood has 25 to 31 % of such endings right (notebook 08, table of `mini`, *last sentence*, 32 mask sets and equal passes), LLaDA's 62 % in the mean. (Why the confidence score falls below chance on what a model has not learnt, notebook 08 could not tell.) Where an operand is infilled, the
# diffusion models write any word of the vocabulary, and the twin, which cannot infill, picks the likeliest number.
#
# The twin is far ahead of both. At this scale it has long learnt what the diffusion models are still learning: a mask predictor is asked more different questions by the same text, and answers fewer of them per step.
#
# **Base models, `toy`.** At the end of training all three know what the mean asks for, so there is no room for a difference. (The reversed books, outside of the mean, the twin does not know.)
#
# **Fine-tuned models, `mini`.** The two diffusion models answer little but some sums and, in LLaDA's recipe, a fifth of the word sums and a tenth of the choices. The twin, ahead before fine-tuning, stays ahead: it has most sums right and half of the choices, and is behind LLaDA's recipe at word sums alone, by less than 3 points. Its seeds differ a great deal (dots).
#
# **Fine-tuned models, `toy`.** Now the order depends on the task.
#
# - *Word sums* are the twin's only strength: it works them out step by step, left to right, as its answers are written (0.975 against 0.852 for LLaDA's recipe and 0.233 for iLLaDA's).
# - It is the worst at all questions about facts, asked in fine-tuning or not, and at sums that were not asked for (0.34 against 0.89 for LLaDA's recipe and 0.86 for iLLaDA's).
# - At *reversal*, which is not in the mean, only iLLaDA's recipe answers.
# - In the mean iLLaDA's recipe is ahead of the twin with every seed, and behind LLaDA's with every seed. Word sums decide the latter. Perhaps its whole-sequence format spends itself on operands that nobody can predict: a guess, which `sft_format` does not settle.

# %% [markdown]
# ## What the paper reports
#
# Scores of the paper, 8B parameters, its benchmarks (Tables 2 and 3); nothing of this was measured here:

# %%
columns = {
    "base": ["tokens", "MMLU", "BBH", "ARC-C", "HellaSwag", "GSM8K", "MATH", "HumanEval", "MBPP", "mean"],
    "instruct": ["MMLU", "MMLU-Pro", "MMLU-Redux", "GSM8K", "MATH", "HumanEval", "MBPP", "mean"],
}
scores = {
    ("base", "iLLaDA 8B"): ["12T", 74.8, 71.3, 60.8, 76.6, 81.9, 38.4, 50.0, 57.8, 63.9],
    ("base", "LLaDA 8B"): ["2.3T", 65.9, 49.7, 45.9, 70.5, 70.3, 31.4, 35.4, 40.0, 51.1],
    ("base", "Dream 7B"): ["18T + 0.6T", 69.5, 57.9, 59.8, 73.3, 77.2, 39.6, 57.9, 56.2, 61.4],
    ("base", "Qwen2.5 7B (autoregressive)"): ["18T", 71.9, 63.9, 51.5, 79.0, 78.9, 41.1, 56.7, 63.6, 63.3],
    ("instruct", "iLLaDA 8B"): [71.6, 52.3, 76.4, 89.0, 56.7, 65.9, 58.0, 67.1],
    ("instruct", "LLaDA 8B"): [65.5, 37.0, 68.9, 77.5, 42.2, 49.4, 41.0, 54.5],
    ("instruct", "Dream 7B"): [67.0, 43.3, 76.3, 81.0, 39.2, 55.5, 58.8, 60.2],
    ("instruct", "Qwen2.5 7B (autoregressive)"): [76.6, 56.3, 75.7, 91.6, 75.5, 84.8, 79.2, 77.1],
}
for row in scores.values():
    numbers = [score for score in row if not isinstance(score, str)]
    assert abs(sum(numbers[:-1]) / len(numbers[:-1]) - numbers[-1]) < 0.06, "the mean is that of its row"
paper = pd.DataFrame(
    [
        {"table": kind, "model": model, **dict(zip(columns[kind], row, strict=True))}
        for (kind, model), row in scores.items()
    ]
)
paper = paper[["table", "model", "tokens", "MMLU", "MMLU-Pro", "MMLU-Redux", "BBH", "ARC-C", "HellaSwag", "GSM8K", "MATH",
               "HumanEval", "MBPP", "mean"]].astype(object).fillna("")  # fmt: skip
paper

# %% [markdown]
# **What these runs measured**, with verdicts over seeds:

# %%
found = []
for (_, at), result in tables.items():
    found += [
        {"claim": claim["sentence"], "paper reports (8B)": claim["paper"], "what is measured here": claim["metric"],
         "scale": at, "effect, points": round(100 * claim["effect"], 1), "verdict": claim["verdict"], "why": claim["reason"]}
        for claim in result["claims"]
    ]  # fmt: skip
pd.DataFrame(found)

# %% [markdown]
# ## Exercises
#
# 1. Let the fine-tuned model answer in LLaDA's way: `evaluate_instruct(..., sampler=instruct_table.SAMPLERS["LLaDA's recipe"])`. Which tasks suffer, and why? (Its fine-tuning never showed it a window of 24 with so much behind the answer.)
# 2. How many questions are needed to tell 64 % from 66 % with two intervals that do not overlap?
# 3. `illada_lab.experiments.recipes.llada_of(lab)` trains LLaDA's model of this scale. Which of its settings differ from `lab.config().model`?
#
# <details><summary>Solutions</summary>
#
# 1. Short answers: behind them stand up to 20 masks that must all become EOS. `study=sft_format` measures it for both formats.
# 2. About 8,740: `interval(0.64 * n, n)` must end below the beginning of `interval(0.66 * n, n)`. Asking both models the same questions and comparing question by question needs far fewer.
# 3. `from illada_lab.experiments import recipes`, then `recipes.llada_model(lab)`: `n_kv_heads`, `d_ffn` and `is_tied`.
# </details>
#
# ## What was not reproduced
#
# The paper's benchmarks, its models and its data. HumanEval and MBPP have a toy in `world_tasks` (worked sums run as functions) that is not part of the mean. The paper's gain over LLaDA comes with five times the tokens; whatever shows here comes from
# the recipe alone.

# %% [markdown]
# ## The numbers of this page, checked

# %%
means = {(name, at): pd.concat(pd.DataFrame(r["tables"]["means"]) for r in result["seeds"]).groupby("recipe")["mean"].mean()
         for (name, at), result in tables.items()}  # fmt: skip
assert (
    means["base_table", "mini"]["autoregressive twin"] > means["base_table", "mini"].drop("autoregressive twin").max()
)
assert means["base_table", "toy"].min() > 0.9, "at the end all three know their world"
endings = [
    (row["recipe"], round(row["right"], 2))
    for record in tables["base_table", "mini"]["seeds"]
    for row in record["tables"]["tasks"]
    if row["task"].startswith("story endings")
]
assert [right for recipe, right in endings if recipe == "LLaDA's recipe"] == [0.31, 0.56, 0.99]
assert max(right for recipe, right in endings if recipe == "iLLaDA's recipe") < 0.25
asked_otherwise = pd.concat(
    pd.DataFrame(record["tables"]["accuracy"]) for record in committed("scoring", "mini")["seeds"]
)
asked_otherwise = asked_otherwise[asked_otherwise["task"] == "last sentence"].groupby("rule")["accuracy"].mean()
assert [round(asked_otherwise[f"likelihood, {rule}"], 2) for rule in ("32", "equal passes")] == [0.25, 0.31]
tuned_toy = tables["instruct_table", "toy"]["seeds"]
for record in tuned_toy:
    own = {row["recipe"]: row["mean"] for row in record["tables"]["means"]}
    assert own["autoregressive twin"] < own["iLLaDA's recipe"] < own["LLaDA's recipe"], "with every seed"
by_task = pd.concat(pd.DataFrame(record["tables"]["tasks"]) for record in tuned_toy).pivot_table(
    index="task", columns="recipe", values="right"
)
twin, others = by_task["autoregressive twin"], by_task.drop(columns="autoregressive twin")
for task in ("fact", "fact unasked", "choice", "sum unasked"):
    assert twin[task] < others.loc[task].min(), "the twin is the worst"
assert (
    twin["word sum"] > others.loc["word sum"].max()
    and (twin.drop("word sum") <= others.drop("word sum").max(axis=1)).all()
), "its only strength"
assert [
    round(value, 3)
    for value in (
        twin["word sum"],
        by_task.loc["word sum", "LLaDA's recipe"],
        by_task.loc["word sum", "iLLaDA's recipe"],
    )
] == [0.975, 0.852, 0.233]
assert [
    round(by_task.loc["sum unasked", name], 2) for name in ("autoregressive twin", "LLaDA's recipe", "iLLaDA's recipe")
] == [0.34, 0.89, 0.86]
assert all(row["ci_low"] <= row["right"] <= row["ci_high"] for row in rows)
assert {row["task"] for row in rows if row["stands for"]} == set(stands_for), "every benchmark that counts was asked"
if scale not in ("smoke", "mini"):  # these have learnt little
    by = {(row["model"], row["task"]): row["right"] for row in rows}
    assert by["base", "facts, completed"] > 0.5 and by["instruct", "fact"] > 0.5, (
        "what was stated is known before and after"
    )
by_task_mini = pd.concat(
    pd.DataFrame(record["tables"]["tasks"]) for record in tables["instruct_table", "mini"]["seeds"]
)
by_task_mini = by_task_mini.pivot_table(index="task", columns="recipe", values="right")
ahead = by_task_mini["autoregressive twin"] - by_task_mini.drop(columns="autoregressive twin").max(axis=1)
assert set(ahead[ahead < 0].index) == {"word sum"} and round(100 * ahead["word sum"]) in (-2, -3)
assert (
    by_task_mini.loc["sum", "autoregressive twin"] > 0.7
    and round(by_task_mini.loc["choice", "autoregressive twin"], 1) == 0.5
)
assert by_task_mini.drop(columns="autoregressive twin").drop(["sum", "word sum", "choice"]).max(axis=None) < 0.1
