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
# # 03 · Pre-training: down to the entropy, and the decay after the plateau
#
# **Paper:** iLLaDA, pre-training recipe. **Study:** `conf/study/pretraining.yaml`
#
# > **Time:** about two minutes on two CPU cores: three short runs of a smaller model (scale `mini`) are trained here, the run of this scale is read if it is there. If it is not, this
# > notebook trains it first: seconds at `scale = "smoke"`, four to nine minutes with bf16 units and about a quarter of an hour without at `scale = "toy"`; all notebooks share it. **Memory:** under 1 GB.
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
import contextlib
import io
import json
import math
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

from illada_lab.config import build, compose
from illada_lab.experiments.exact import enumerate_masks, weightings
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.pretraining import CONSTANT, COSINE, DECAYED, curve
from illada_lab.report.plots import COLOURS, LIMIT, lines, pick, use_style
from illada_lab.training.lr import ConstantCosine
from illada_lab.training.reference import find_reference

use_style()
pd.set_option("display.max_colwidth", None)

# %% [markdown]
# ## The idea
#
# iLLaDA keeps the learning rate constant until the loss no longer falls, and only then lets it decay with a cosine, from $2\cdot10^{-4}$ to $5\cdot10^{-6}$. A high rate moves fast and cannot settle: the
# loss hangs above what the weights could reach. The decay was a reaction to the plateau, and the loss went down again.
#
# The optimiser is not the paper's. iLLaDA uses AdamW throughout; here Muon takes the matrices inside the layers and AdamW the rest (README, *Where this differs from the paper*; exercise 2 goes back to AdamW). The schedule below scales the rates of both.
#
# $$\eta(s) = \eta_\text{peak}\cdot\begin{cases} (s + 1) / s_\text{warm} & s < s_\text{warm} \\ 1 & s < s_\text{decay} \\ r + (1-r)\,\tfrac12\big(1+\cos\pi\tfrac{s - s_\text{decay}}{S - s_\text{decay}}\big) & \text{else} \end{cases}$$


# %%
def factor(step, n_steps, n_warmup, decay_start, min_ratio):
    if step < n_warmup:
        return (step + 1) / n_warmup
    begin = max(n_warmup, round(decay_start * n_steps))
    if step < begin:
        return 1.0
    progress = (step - begin) / max(1, n_steps - begin)
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


# %% [markdown]
# The package's schedule is the same function; it can also find the plateau by itself (`lr.decay_start=plateau`).

# %%
optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
schedule = ConstantCosine(optimiser, n_steps=300, n_warmup_steps=20, decay_start=0.6, min_ratio=0.025)
mine = [factor(step, 300, 20, 0.6, 0.025) for step in range(300)]
assert all(math.isclose(a, schedule.factor(step)) for step, a in enumerate(mine))
figure, axes = plt.subplots(figsize=(6.4, 2.2))
axes.plot(mine, marker="")
axes.set(xlabel="optimiser step", ylabel="rate / peak")
plt.show()

# %% [markdown]
# ## The run of this scale: how near the entropy?
#
# The world's documents come with their exact probability, so the limit of the loss is known: the dashed lines. In expectation no model can be below them. What is drawn is an estimate, from masked copies of a few hundred documents, and scatters by some percent (its standard error is printed with it): it may dip below the line, and the shaded ranges of what is usual reach below it for the same reason.
#
# The lines are the entropy *given the length* of a document, because the number of positions tells it, but not given its kind: a story is known by its length, facts and sums of six words are not told apart by it. A model that reads from left to right is told neither, and its limit lies higher, for stories by 0.10 nats per token (`lab.world.entropy("story", mixture, is_length_given=False)`).
#
# *Is this loss normal?* Where runs of the same recipe are recorded, the shaded range is where 95 % of other seeds are expected at each step, so now and then a point of a normal run lies outside; training prints it beside the loss and the bounds, the report draws it.

# %%
lab = Lab(scale=scale, seed=seed, runs_dir=runs_dir)
history = lab.pretrained.history
kinds = ("story", "fact", "sum")
reference = find_reference(lab.config(), None)  # recorded runs of this recipe with other seeds; None at most scales
figure, panels = plt.subplots(1, 3, figsize=(10, 3))
for axes, kind, colour in zip(panels, kinds, COLOURS, strict=False):
    rows = curve(lab.pretrained, kind, kind)
    entropy = history["validation"][-1]["kinds"][kind]["entropy_per_token"]
    axes.plot([r["step"] for r in rows], [r["bound"] for r in rows], color=colour)
    axes.axhline(entropy, color=LIMIT, ls="--", marker="")
    steps = [r["step"] for r in rows]
    usual = {step: u for step in steps if reference and (u := reference.bound(kind, step, entropy)) is not None}
    if usual:
        ends = [u.low for u in usual.values()], [u.high for u in usual.values()]
        axes.fill_between(list(usual), *ends, color=colour, alpha=0.15, lw=0)
    axes.set(title=kind, xlabel="optimiser step", ylim=(0, None))
    said = f", {usual[steps[-1]]}" if steps[-1] in usual else ""
    error = history["validation"][-1]["kinds"][kind]["stderr"]
    print(f"{kind}: bound {rows[-1]['bound']:.3f} (standard error {error:.3f}) nats/token, entropy {entropy:.3f}{said}")
panels[0].set_ylabel("bound, nats per token")
plt.show()

# %% [markdown]
# With this model facts stay about a quarter above the floor and sums about a tenth; with other seeds it is more or less (the ranges above). Held-out ones are *forms* of statement that training never shows of this fact or sum (it shows the others), and a model that has read only the others cannot know how it will be put here.
# Where facts and sums are put in forms that training does show, the same model is within a few percent of the floor (exact, from every set of masks, 60 statements each):


# %%
def per_token(split, kind):
    model, documents = lab.pretrained.model, lab.world.documents(split, 60, mixture={kind: 1.0}, seed=3)
    # That it is of this kind a model knows only where the length tells.
    language = lab.config().data.source.mixture
    tokens, total = model.predictor.tokens, [0.0, 0.0, 0]
    for document in documents:
        ids = [*model.tokenizer.encode_known(document.text), tokens.eos]
        bound = weightings(enumerate_masks(model.predictor, [tokens.bos], ids))["1/t, over the length"]
        log_prob = lab.world.log_prob_given_length(document.text, kind, language)
        total = [a + b for a, b in zip(total, (bound * len(ids), -log_prob, len(ids)), strict=True)]
    return {"kind": kind, "statements": split, "bound": total[0] / total[2], "entropy": total[1] / total[2]}


above = pd.DataFrame([per_token(split, kind) for kind in ("fact", "sum") for split in ("train", "validation")])
above["bound over entropy"] = above["bound"] / above["entropy"]
if scale not in ("smoke", "mini"):  # these have not learnt what is stated
    share = above.pivot(index="kind", columns="statements", values="bound over entropy")
    assert share.loc["fact", "validation"] > 1.15 and share.loc["fact", "train"] < 1.1
    assert share.loc["sum", "validation"] > share.loc["sum", "train"] and share.loc["sum", "train"] < 1.1
above.round(3)

# %% [markdown]
# ### Where in t does the loss sit?
#
# With few masks nearly every word follows from its neighbours; with nearly all masked nothing has been said yet: even the kind of text is open, and each
# mention of a name pays for itself although the second would follow from the first. That is why the curve ends far above the entropy, the lower line; the bound, the upper line, is the mean of the curve over $t$, but for the scatter of the points.

# %%
bins, everything = history["validation"][-1]["bins"], history["validation"][-1]["kinds"]["all"]
figure, axes = plt.subplots(figsize=(6.4, 2.8))
axes.errorbar([(b["t_low"] + b["t_high"]) / 2 for b in bins], [b["loss"] for b in bins],
              yerr=[[b["loss"] - b["ci_low"] for b in bins], [b["ci_high"] - b["loss"] for b in bins]], capsize=2)  # fmt: skip
for key, style in (("nelbo_per_token", "-"), ("entropy_per_token", "--")):
    label = f"{'bound' if style == '-' else 'entropy'}, {everything[key]:.2f}"
    axes.axhline(everything[key], color=LIMIT, ls=style, lw=1, marker="", label=label)
axes.set(xlabel="masked share t", ylabel="loss at this t, nats per token", xlim=(0, 1), ylim=(0, None))
axes.legend(loc="upper left")
plt.show()

# %% [markdown]
# ## Constant, plateau, cosine: three short runs
#
# Trained here and now at scale `mini` (0.2M parameters; at `smoke` when this notebook is tested). One line of the configuration is different in each.
# Until the dotted line the constant rate and the one that will decay are the same run, and one curve hides the other.

# %%
small = "smoke" if scale == "smoke" else "mini"
n_steps = 20 if small == "smoke" else 300
settings = {DECAYED: "lr.decay_start=0.6", CONSTANT: "lr.decay_start=1.0", COSINE: "lr=cosine"}
tiny = Lab(scale=small, seed=seed, runs_dir=runs_dir)
short = [f"trainer.max_steps={n_steps}", f"trainer.validate_every={n_steps // 10}"]


def train(*changes):
    name = re.sub(r"[^\w.]+", "-", " ".join(changes))  # a run's settings name its folder: with others it is another run
    with contextlib.redirect_stderr(io.StringIO()):  # progress
        return tiny.train(f"notebook-{name}", *changes)


runs = {name: train(setting, *short) for name, setting in settings.items()}

# %%
rows = [row for name, run in runs.items() for row in curve(run, name)]
shown = [row for row in rows if row["step"] > n_steps // 5]
figure, axes = plt.subplots()
lines(axes, shown, "step", "bound", "schedule")
axes.axvline(0.6 * n_steps, color=LIMIT, ls=":", marker="")
axes.set(xlabel="optimiser step", ylabel="bound, nats per token", title="The dotted line is where the decay begins")
axes.legend()
plt.show()
last = {name: pick(rows, schedule=name)[-1]["bound"] for name in settings}
last

# %% [markdown]
# ## What the paper reports, what these runs measured
#
# The verdicts of the ledger are of longer runs (700 steps at `mini`, 2,600 at `toy`) over three seeds, read here from their files.

# %%
study = build(compose([f"scale={small}", "study=pretraining"]).study)
verdicts = {
    size: {c["id"]: c for c in json.loads(Path(f"../results/{size}/pretraining.json").read_text())["claims"]}
    for size in ("mini", "toy")
}
measured = {"decay": last[CONSTANT] - last[DECAYED], "cosine": last[COSINE] - last[DECAYED]}
pd.DataFrame(
    [
        {"claim": claim.sentence, "paper reports (8B)": claim.paper, "what is measured here": claim.metric,
         f"these runs (scale {small}, {n_steps} steps, one seed)": f"{measured[claim.id]:+.3f} {claim.unit}" if claim.id in measured else "",
         **{f"ledger ({size})": f"{found[claim.id]['verdict']}: {found[claim.id]['effect']:+.3f}" for size, found in verdicts.items()}}
        for claim in study.claims
    ]
)  # fmt: skip

# %% [markdown]
# ## Exercises
#
# 1. Let the schedule find the plateau: `lr.decay_start=plateau` with `lr.patience=2` (two validations in a row less than 0.5 % better than the best before). When does it start the decay, and why need you not train to know?
# 2. Replace `optim=muon` by the paper's `optim=adamw` in one run. How does the bound after the same number of steps compare?
# 3. Is the cosine from the start better or worse here? What would you need to know before choosing it for a run of 12T tokens?
# 4. Make the first run twice as long without beginning anew. At which step does it go on, and why not from its end?
#
# <details><summary>Solutions</summary>
#
# 1. Until its decay begins it *is* the constant run, so the losses of that one tell: the cell below reads the step off them. `run = train("lr.decay_start=plateau", "lr.patience=2", *short)` is the run itself; its rate is in `[(r["step"], r["lr"]) for r in run.history["train"]]`.
# 2. `train("optim=adamw", "lr.decay_start=0.6", *short)`: in an earlier run it was behind, with a bound of 1.11 nats per token against 0.99.
# 3. Here it is worse, by the table's second row; in the ledger's longer runs the two differ by less than 0.01 with every seed, and by about 0.002 or less in the mean. A cosine needs the length of the run before it begins. A constant phase can be stopped, continued or branched, which is why a lab that does not know its budget prefers it.
# 4. `tiny.branch(runs[DECAYED], "notebook-longer-600", "trainer.max_steps=600", "lr.decay_start=0.8", "trainer.validate_every=30")` goes on from `before_decay.ckpt`, saved at step 180:
#    the end has gone through the decay, and a high rate from there on would first undo it.
# </details>

# %% jupyter={"source_hidden": true}
# Numbers for exercise 1.
best, idle, begins = math.inf, 0, None
for row in curve(runs[CONSTANT], CONSTANT):
    if row["bound"] < best * (1 - 0.005):
        best, idle = row["bound"], 0
    else:
        idle += 1
    if idle == 2:
        begins = row["step"]
        break
print(
    f"in {n_steps} steps there is no plateau: it would never decay"
    if begins is None
    else f"the decay begins behind step {begins}"
)

# %% [markdown]
# ## What was not reproduced
#
# 12T tokens, a plateau that was noticed by people, and a loss curve at 8B: the paper gives the curve without numbers. Here the decay starts at a fixed share of the run.

# %% [markdown]
# ## The numbers of this page, checked

# %%
together = {
    name: [row["bound"] for row in pick(rows, schedule=name) if row["step"] <= 0.6 * n_steps]
    for name in (DECAYED, CONSTANT)
}
assert together[DECAYED] == together[CONSTANT], "until the decay begins both are the same run"
for kind, found in history["validation"][-1]["kinds"].items():
    assert found["nelbo_per_token"] > found["entropy_per_token"] - 2 * found["stderr"], (
        f"{kind}: below what is possible"
    )
if scale != "smoke":
    assert last[DECAYED] < last[CONSTANT], "the decay takes the loss down"
assert all(found["decay"]["effect"] > 0 for found in verdicts.values()), "the decay takes the loss down at both sizes"
