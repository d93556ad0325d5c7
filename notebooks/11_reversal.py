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
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

from illada_lab.config import build, compose
from illada_lab.experiments.lab import Lab
from illada_lab.report.plots import LIMIT, looks, paper_and_run, use_style
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
SAID = {"told forwards": "forwards", "told backwards": "backwards"}  # of one-way people nothing is told backwards
pd.DataFrame(rows).replace({"sentence": SAID}).round(3)

# %% [markdown]
# *Forwards*, "ada wrote harvest", the person comes first; *backwards*, "harvest was written by ada", the book does. Of one-way people only the first kind is ever told.
#
# - Forwards, either word hidden: the same told sentence asked from both ends. This is what the curse is about, and there is none.
# - One-way people, backwards: sentences that no text of the world contains. To answer there the model has to carry what it knows to another form, which is more than not being cursed.
#
# With the one model of this page all of it is right, or nearly; the next table shows where it could go wrong.
#
# ## Beside the twin
#
# The same network with causal attention, the same data and steps (notebook 00, *Words*). Read from the committed result, three seeds. *written*: the last word of the sentence, among all words:

# %%
path = Path("../results/toy/reversal_twin.json")
result = json.loads(path.read_text())
table = pd.concat(pd.DataFrame(record["tables"]["reversal"]).assign(seed=record["seed"]) for record in result["seeds"])
shown = table.groupby(["people", "sentence", "model"])[["written", "chosen among four"]].mean().round(3)
figure, panels = plt.subplots(1, 2, figsize=(9.5, 3), sharey=True)
for axes, group in zip(panels, ("one-way", "two-way"), strict=True):
    example = next(p for p in lab.world.lexicon.people if p.is_one_way == (group == "one-way"))
    for number, (name, look) in enumerate(looks(["diffusion", "autoregressive twin"]).items()):
        own = table[(table["people"] == group) & (table["model"] == name.removeprefix("autoregressive "))]
        places = own["sentence"].map({"forwards": 0, "backwards": 1}) + 0.4 * number
        axes.bar([0.4 * number, 1 + 0.4 * number], [own[places.round() == i]["written"].mean() for i in (0, 1)], 0.36, alpha=0.7,
                 color=look["color"], label=name)  # fmt: skip
        axes.plot(places, own["written"], ls="", mec="black", mew=0.5, color=look["color"], marker=look["marker"])
    axes.axhline(1 / len(lab.world.lexicon.people), color=LIMIT, ls=":", marker="")
    sentences = f"{example.name} wrote ___", f"{example.book} was written by ___"
    axes.set_xticks([0.2, 1.2], sentences)
    axes.set(title=f"{group} people", ylim=(-0.03, 1.05))
panels[0].set_ylabel("written rightly, mean and seeds")
figure.legend(*panels[0].get_legend_handles_labels(), loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.08))
plt.show()
for claim in result["claims"]:
    print(f"toy: {claim['sentence']} -> {claim['verdict']} ({claim['effect']:+.2f})")
    print(f"     measured: {claim['metric']}; the paper, 8B: {claim['paper']}")
shown

# %% [markdown]
# The dotted line is chance among all people (there are as many books). Asked for the author of a one-way person's book, the twin never writes the right name, the diffusion model nearly always (0.944 against 0.000), and given four names the twin chooses at chance. Of two-way people, whose books are told in both directions, both know everything: the twin lacks nothing but the direction.
#
# ### After fine-tuning
#
# Fine-tuning asks for facts, but never "who wrote ...?" of a one-way person. Is the author still found, when a question asks for it? From the tables of notebook 09, scale `toy`, one-way books only:

# %%
kept = {}
for name, task in (("base_table", "one-way books, reversed"), ("instruct_table", "reversal")):
    records = json.loads(Path(f"../results/toy/{name}.json").read_text())["seeds"]
    found = [row for record in records for row in record["tables"]["tasks"] if row["task"] == task]
    for recipe in dict.fromkeys(row["recipe"] for row in found):
        kept.setdefault(recipe, {})[task] = [round(row["right"], 3) for row in found if row["recipe"] == recipe]
pd.DataFrame(kept).T.rename(
    columns={"one-way books, reversed": "before: completed, each seed", "reversal": "after: asked, each seed"}
)

# %% [markdown]
# Less often: with iLLaDA's recipe 0.97 becomes 0.61 in the mean, from 0.21 to 0.92 by seed, and with LLaDA's recipe nothing is left. That the base model knows a fact in both directions does not mean that the model that answers questions says it.

# %% [markdown]
# ## What the paper reports, what this run measured

# %%
pd.DataFrame(paper_and_run(study.claims, outcome.effects, scale, f"../results/{scale}/reversal.json"))

# %% [markdown]
# ## Exercises
#
# 1. "___ lives in rome ." has several right answers. Which names should a model that knows the world give, and with which probabilities? Which does it give?
# 2. Hide the verb: "ada ___ harvest .". Which words fit, and with which probabilities?
# 3. The twin can fill "___ wrote harvest ." too, by scoring all names. Make it with `from illada_lab.experiments.twin import twin_of; twin = twin_of(lab)`. That trains a network of the same size for as many steps, so it takes about as long as the first model did (at `scale = "toy"` a quarter of an hour, or four to nine minutes with bf16 units), once. Score with `chain_rule_log_likelihoods` (`from illada_lab.evaluation.autoregressive import chain_rule_log_likelihoods`). Is the curse in what it knows, or in how it is asked?
#
# <details><summary>Solutions</summary>
#
# 1. The people who live there, each with the same probability: in this language nothing tells them apart. Two things can make a model unequal: some statements are held out (notebook 03), so training may not say it in this form of all of them; and a small model need not have learnt the shares well. The cell below says which people training says it of, and what the model gives.
# 2. `predictor(encode("ada ___ harvest .")[None])[0, 2].softmax(-1).topk(3)`: only *wrote* stands between a name and a book.
# 3. Given all candidates the twin ranks the right name first in the told sentence, because p(harvest | ada wrote) is high for one name only: the knowledge is there, but no left-to-right pass reaches it.
# </details>


# %% jupyter={"source_hidden": true}
# Numbers for exercises 1 and 2.
def likeliest(text, n):
    with torch.no_grad():
        p = predictor(encode(text)[None])[0, text.split().index("___") + 1].softmax(-1)
    return {tokenizer.token_text(int(i)): round(float(p[i]), 3) for i in p.argsort(descending=True)[:n]}


there = [p.name for p in lab.world.lexicon.people if p.town == person.town]
told = [name for name in there if f"{name} lives in {person.town} ." in lab.world.tables["fact"]["train"]]
print(
    f"in {person.town} live {', '.join(there)}: each 1 / {len(there)} = {1 / len(there):.3f}; told so in training: {', '.join(told)}"
)
print("the model:", likeliest(f"___ lives in {person.town} .", len(there) + 2))
print(likeliest(f"{person.name} ___ {person.book} .", 3))

# %% [markdown]
# ## What was not reproduced
#
# The couplets of LLaDA's experiment and models of 8B. Names and books here are single words, so "exact match" is one token.

# %% [markdown]
# ## The numbers of this page, checked

# %%
if scale not in ("smoke", "mini"):  # these have learnt little
    share = {(row["people"], row["sentence"], row["infilled"]): row["exact match"] for row in rows}
    assert min(share["one-way", "told forwards", hole] for hole in ("name", "book")) > 0.5, "both ends of a told fact"
    assert share["one-way", "told backwards", "name"] > 0.5, "the direction that is never told"
    chance = {name for name, p in likeliest(f"___ lives in {person.town} .", len(there)).items() if p > 0.05}
    assert chance <= set(there), "only people who live there"
written = shown["written"]
assert written["one-way", "backwards", "twin"] == 0 and written["one-way", "backwards", "diffusion"] > 0.9
assert written.drop("backwards", level="sentence").min() == written["two-way"].min() == 1, "all that is told is known"
asked = kept["iLLaDA's recipe"]["reversal"]
assert [round(value, 2) for value in (min(asked), sum(asked) / len(asked), max(asked))] == [0.21, 0.61, 0.92]
assert round(sum(kept["iLLaDA's recipe"]["one-way books, reversed"]) / 3, 2) == 0.97
assert max(kept["LLaDA's recipe"]["reversal"]) == 0
