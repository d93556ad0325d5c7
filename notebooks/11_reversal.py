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
# # 11 · Reversal and infilling: facts asked for against the direction in which they are told
#
# **Paper:** LLaDA, reversal experiment; iLLaDA inherits the objective. **Studies:** `conf/study/reversal.yaml`, `conf/study/reversal_twin.yaml`
#
# > **Time:** a few seconds on two CPU cores once the pre-trained model of this scale is there; the comparison with the autoregressive twin is read from the committed result. If the model
# > is not there, this notebook trains it first: seconds at `scale = "smoke"`, four to nine minutes with bf16 units and about a quarter of an hour without at `scale = "toy"`; all notebooks share it. **Memory:** under 1 GB.
# > **Elsewhere:** on Colab, Kaggle or your own GPU open this notebook in a clone of the repository: the first cell installs what is missing, the second picks the scale.

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
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

from illada_lab.config import build, compose
from illada_lab.experiments.lab import Lab
from illada_lab.report.plots import COLOURS, LIMIT, paper_and_run, use_style
from illada_lab.samplers import Infill

use_style()
pd.set_option("display.max_colwidth", None)
lab = Lab(scale=scale, seed=seed, runs_dir=runs_dir)
model = lab.pretrained.model
predictor, tokenizer = model.predictor, model.tokenizer

# %% [markdown]
# ## The idea
#
# An autoregressive model that has read "ada wrote harvest" learns to say *harvest* after *ada wrote*. Nothing in its loss asks it for *ada* given *harvest*: the reversal curse. The masked diffusion
# objective hides either word, so it asks for both:
#
# $$-\log p_\theta(\text{harvest} \mid \text{ada wrote MASK}) \qquad\text{and}\qquad -\log p_\theta(\text{ada} \mid \text{MASK wrote harvest})$$
#
# In this world half of the people are *one-way*: their book is only ever told from the person's side. Infilling from scratch, one token per pass, surest first:


# %%
@torch.no_grad()
def fill(x):
    x, mask = x.clone(), predictor.tokens.mask
    while (x == mask).any():
        p = predictor(x[None])[0].softmax(-1)
        p[:, mask] = 0
        confidence, token = p.max(-1)
        confidence[x != mask] = -1
        best = confidence.argmax()
        x[best] = token[best]
    return x


# %%
def encode(text):
    ids = [predictor.tokens.mask if word == "___" else tokenizer.encode_known(word)[0] for word in text.split()]
    return torch.tensor([predictor.tokens.bos, *ids, predictor.tokens.eos])


person = next(p for p in lab.world.lexicon.people if p.is_one_way)
for text in (
    f"{person.name} wrote ___ .",
    f"___ wrote {person.book} .",
    f"___ lives in {person.town} .",
    f"___ ___ {person.book} .",
):
    mine, theirs = fill(encode(text)), Infill().sample(predictor, encode(text)[None]).tokens[0]
    assert torch.equal(mine, theirs)
    print(f"{text:32} -> {tokenizer.decode(mine.tolist())}")
print(f"(true: {person.name} wrote {person.book}; town {person.town})")
if scale == "toy":
    assert (person.name, person.book) == ("ada", "harvest"), "the example of this page"

# %% [markdown]
# ## The run: both directions, both groups of people

# %%
study = build(compose([f"scale={scale}", "study=reversal"]).study)
outcome = study.run(lab)
rows = outcome.tables["infilling"]
pd.DataFrame(rows).round(3)

# %%
figure, panels = plt.subplots(1, 2, figsize=(9.5, 3), sharey=True)
for axes, group in zip(panels, ("one-way", "two-way"), strict=True):
    example = next(p for p in lab.world.lexicon.people if p.is_one_way == (group == "one-way"))
    for number, hole in enumerate(("book", "name")):
        chosen = [row for row in rows if row["people"] == group and row["infilled"] == hole]
        axes.bar([i + 0.4 * number for i in range(2)], [r["exact match"] for r in chosen], 0.36, color=COLOURS[number],
                 label=f"{hole} infilled")  # fmt: skip
    axes.axhline(1 / len(lab.world.lexicon.people), color=LIMIT, ls=":", marker="")
    axes.set_xticks(
        [0.2, 1.2], [f"{example.name} wrote {example.book}", f"{example.book} was written by {example.name}"]
    )
    axes.set(title=f"{group} people", ylim=(0, 1.05))
panels[0].set_ylabel("exact match among all words")
figure.legend(*panels[0].get_legend_handles_labels(), loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.08))
plt.show()

# %% [markdown]
# Left, first pair: the same sentences, either word hidden. Left, second pair: sentences that no text of the world contains. To answer there the model has to carry what it knows to another form, which is more than not
# being cursed. The dotted line is chance.
#
# ## Beside the twin
#
# The same network with causal attention, the same data and steps. Read from the committed result, three seeds:

# %%
path = Path("../results/toy/reversal_twin.json")
result = json.loads(path.read_text())
table = pd.concat(pd.DataFrame(record["tables"]["reversal"]).assign(seed=record["seed"]) for record in result["seeds"])
shown = table.groupby(["people", "sentence", "model"])[["written", "chosen among four"]].mean().round(3)
for claim in result["claims"]:
    print(f"toy: {claim['sentence']} -> {claim['verdict']} ({claim['effect']:+.2f})")
    print(f"     measured: {claim['metric']}; the paper, 8B: {claim['paper']}")
shown

# %% [markdown]
# ## What the paper reports, what this run measured

# %%
if scale not in ("smoke", "mini"):  # these have learnt little
    forward = {
        row["infilled"]: row["exact match"]
        for row in rows
        if (row["people"], row["sentence"]) == ("one-way", "told forwards")
    }
    assert forward["name"] > 0.5 and forward["book"] > 0.5, "both halves of a told fact are known"
pd.DataFrame(paper_and_run(study.claims, outcome.effects, scale, f"../results/{scale}/reversal.json"))

# %% [markdown]
# ## Exercises
#
# 1. Infill the person instead of the book. Why can "___ lives in rome ." have no single right answer?
# 2. Hide the verb: "ada ___ harvest .". Which words fit, and with which probabilities?
# 3. The twin can fill "___ wrote harvest ." too, by scoring all names. Make it with `from illada_lab.experiments.twin import twin_of; twin = twin_of(lab)`, which trains as many steps of a network of the same size, so about as long as the first model took (at `scale = "toy"` a quarter of an hour, or four to nine minutes with bf16 units), and is kept. Score with `chain_rule_log_likelihoods` (`from illada_lab.evaluation.autoregressive import chain_rule_log_likelihoods`). Is the curse in what it knows, or in how it is asked?
#
# <details><summary>Solutions</summary>
#
# 1. Towns are shared by several people; the model spreads its probability over them.
# 2. `predictor(encode("ada ___ harvest .")[None])[0, 2].softmax(-1).topk(3)`: only *wrote* stands between a name and a book.
# 3. Given all candidates the twin ranks the right name first in the told sentence, because p(harvest | ada wrote) is high for one name only: the knowledge is there, but no left-to-right pass reaches it.
# </details>
#
# ## What was not reproduced
#
# The couplets of LLaDA's experiment and models of 8B. Names and books here are single words, so "exact match" is one token.
