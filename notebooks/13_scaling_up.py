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
# # 13 · Scaling up: a ladder of sizes, 8B on paper, and a published checkpoint
#
# **Paper:** LLaDA, section 3.1 (equal FLOPs); iLLaDA, Table 1 and released checkpoints. **Study:** `conf/study/scaling.yaml`
#
# > **Time:** seconds on two CPU cores: the ladder is read from the committed result, larger scales are composed and counted, a published-layout folder is written and read. **Memory:** under 1 GB.
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
scale = "toy"  # only the FLOPs per token counted below are of this scale (and at smoke the first ladder); nothing is trained
runs_dir = "../runs"

# %%
import json
import math
import tempfile
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.ticker import LogLocator, NullLocator

from illada_lab import load_predictor
from illada_lab.config import build, compose
from illada_lab.data.worlds.story import FORMS
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.scaling import LARGER, Scaling, planned, spec_of, widened
from illada_lab.interop import export_published
from illada_lab.models import MaskPredictor
from illada_lab.planner.ladder import ladder as iso_flops
from illada_lab.planner.size import model_spec
from illada_lab.report.plots import COLOURS, LIMIT, MARKERS, use_style
from illada_lab.samplers import FixedLength
from illada_lab.tokens import ILLADA

use_style()
pd.set_option("display.max_colwidth", None)

# %% [markdown]
# ## The idea
#
# A budget of compute buys a large model that has seen little, or a small one that has seen much. Training costs about six operations per parameter and token (two forward, four backward), and at toy size attention and the head
# are not small beside it:
#
# $$C = n\,\Big(6\,N_\text{layers} + 6\cdot\tfrac12\,V D + 12\,\ell\,D\,L\Big)$$
#
# with $n$ tokens, $N_\text{layers}$ parameters in the $\ell$ layers, width $D$, $V D$ parameters of the head (applied to the masked half of the positions) and $L$ tokens that see each other. From scratch:


# %%
def flops_per_token(s, length):
    per_layer = 2 * s.d_model**2 + 2 * s.d_model * s.n_kv_heads * s.head_size + 3 * s.d_model * s.d_ffn
    if s.has_qk_norm:
        per_layer += 2 * s.head_size
    return 6 * s.n_layers * per_layer + 3 * s.vocab_size * s.d_model + 12 * s.n_layers * s.d_model * length


config = compose([f"scale={scale}"])
own = model_spec(config)
assert flops_per_token(own, 80) == own.flops_per_token(80)
with torch.device("meta"):
    large = build(compose(["model=illada_8b"]).model, tokens=ILLADA)
assert flops_per_token(large.spec, 8192) == large.spec.flops_per_token(8192)
print(
    f"scale {scale}: {own.flops_per_token(80):.2e} FLOPs per token; iLLaDA 8B: {large.spec.flops_per_token(8192):.2e}"
)
print(
    f"8B on the meta device: {sum(p.numel() for p in large.parameters()):,} parameters, {large.head_weight.device} memory"
)

# %% [markdown]
# ## The run: a ladder at equal FLOPs
#
# Each budget is spent on each size: change `factors` or `budgets` in one line (two or more budgets, three or more factors, rising) and see how many steps each model gets. (Running the ladder is `illada-lab replicate study=scaling scale=mini results_dir=my_results`, and `scale=toy study.factors=[0.5,1.0,2.0,3.0]`: the ledger's three seeds took 25 minutes and 2 h 22 min. In `results/` itself a second measurement would count as a second look.)

# %%
study = Scaling(factors=[0.3, 0.5, 0.7, 1.0, 1.4, 2.0], budgets=[0.2, 0.8])
small = compose(["scale=smoke" if scale == "smoke" else "scale=mini"])
rows = []
for budget in study.budgets:
    flops = budget * small.scale.n_steps * small.scale.batch_size * small.scale.length
    flops *= model_spec(small).flops_per_token(small.scale.length)
    for factor in study.factors:
        spec = spec_of(widened(small.model, factor), model_spec(small).vocab_size)
        n_tokens = flops / spec.flops_per_token(small.scale.length)
        rows.append({"budget, FLOPs": f"{flops:.1e}", "width": spec.d_model, "without embeddings": spec.n_non_embedding_parameters,
                     "tokens": round(n_tokens), "steps": round(n_tokens / small.scale.batch_size / small.scale.length)})  # fmt: skip
pd.DataFrame(rows)

# %% [markdown]
# Committed results: around `mini`, and from half of `toy`'s width to the width of `small`, with budgets twelve times as large. All panels show the gap, bound less entropy, on logarithmic axes: left over the size, one curve per budget and seed, the best measured size as a star; right that best gap over the compute.

# %%
results = {at: json.loads(Path(f"../results/{at}/scaling.json").read_text()) for at in ("mini", "toy")}
ladders = {}
figure, panels = plt.subplots(2, 2, figsize=(10, 7))
for (left, right), (at, result) in zip(panels, results.items(), strict=True):
    ladder = pd.concat(pd.DataFrame(r["tables"]["ladder"]).assign(seed=r["seed"]) for r in result["seeds"])
    fits = pd.concat(pd.DataFrame(r["tables"]["fits"]).assign(seed=r["seed"]) for r in result["seeds"])
    ladders[at] = ladder = ladder.reset_index()
    for (flops, group), colour, marker in zip(ladder.groupby("FLOPs"), COLOURS, MARKERS, strict=False):
        for number, (_, own_rows) in enumerate(group.groupby("seed")):
            left.plot(own_rows["without embeddings"], own_rows["gap"], color=colour, marker=marker, alpha=0.8,
                      label=f"{flops:.1e} FLOPs" if number == 0 else None)  # fmt: skip
        best = group.loc[group.groupby("seed")["bound"].idxmin()]
        left.plot(best["without embeddings"], best["gap"], color=colour, marker="*", ms=12, ls="", mec="black", mew=0.5)
    left.set(
        title=f"ladder around {at}",
        xscale="log",
        yscale="log",
        xlabel="parameters without embeddings, thousands",
        ylabel="bound less entropy, nats per token",
    )
    sizes = sorted(set(ladder["without embeddings"]))
    left.set_xticks(sizes, [f"{size / 1000:.0f}" for size in sizes])
    left.legend()
    for number, (seed, own_fits) in enumerate(fits.groupby("seed")):
        right.plot(  # one grey: colours are budgets
            own_fits["FLOPs"],
            own_fits["lowest gap"],
            color=LIMIT,
            marker=MARKERS[number],
            label=f"seed {seed}",
        )
    right.set(
        title=f"best of the ladder around {at}",
        xscale="log",
        yscale="log",
        xlabel="FLOPs",
        ylabel="bound less entropy, nats per token",
    )
    right.set_xticks(budgets := sorted(set(fits["FLOPs"])), [f"{flops:.1e}" for flops in budgets])
    for axes in (left, right):
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 4, 7)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:.2f}")
    right.legend()
plt.show()

# %% [markdown]
# **Around `mini`** no best size shows in the middle of the ladder. At the smaller budget the smallest model, of 19 thousand weights, is the best with every seed, and the largest, which gets 39 steps, is far up. At the larger budget it is the best with two seeds; with the third the next size is, by less than 0.003. There all sizes lie on the same
# plateau, at 0.84 to 0.99 nats per token, 0.38 to 0.53 above the entropy. Nothing shows that one of them copies: a model that knew all else of the language, but paid for each later mention of a name, an object, a colour or an animal in a story as for the first, would pay 0.71 (the next cell works it out), and all of them pay more. So this ladder says
# who reaches the plateau with the fewest operations.
#
# **Around `toy`**, with budgets twelve times as large, the models leave the plateau. At the smaller budget `toy`'s own width is the best: half the width has not learnt to copy everything yet, and three times the width gets only 63 steps. At the larger budget half of the width is the best, with every seed, by 0.002 to 0.014 nats: 185 thousand weights are enough for this language,
# whose names and numbers are few. So the best size falls with the budget here, against the rule for real text, where there is always more to know; but by differences so small that the ledger calls the claim about a middle size *inconclusive*. Where weights begin to be missing neither ladder says; a richer world would have to.
#
# **The exponents in the ledger** are no scaling exponents. It fits $(\text{bound} - \text{entropy}) \sim \text{FLOPs}^{-a}$ to the best gap of each budget and finds $a = 0.10$ around `mini` and $1.12$ around `toy`, both *replicated*: the loss falls with compute, which is all the claim says. That one is ten times the other is no law either. Each is the slope between two
# points only. Around `mini` both points lie on the plateau before copying is learnt, where four times the compute buys little; around `toy` the first point lies just before the end of that step and the second behind it (our reading of the bounds). A curve with steps has another slope at every place.
#
# The 0.71 from above, what a model would pay that knows everything but copying:

# %%
lab = Lab(scale="mini", runs_dir=runs_dir)
world, mixture = lab.world, lab.config().data.source.mixture


def again(form, options):
    """What the later mentions of a story's choices would cost if each were as open as the first, nats."""
    n_mentions = Counter(word[1:-1] for word in form.words if word[0] == "{")
    return sum((n - 1) * math.log(len(options[slot])) for slot, n in n_mentions.items())


begun = [
    world.stories.options({"hero": hero, "place": place})
    for hero, places in world.lexicon.places_of.items()
    for place in places
]
later = sum(again(form, options) for form in FORMS for options in begun) / len(FORMS) / len(begun)
n_tokens = sum(share * world.mean_tokens(kind) for kind, share in mixture.items())
entropy = sum(share * world.entropy(kind, mixture) for kind, share in mixture.items())
without_copying = (entropy + mixture["story"] * later) / n_tokens
ladder = ladders["mini"]
plateau = ladder[ladder["FLOPs"] == ladder["FLOPs"].max()]
print(
    f"entropy {entropy / n_tokens:.2f}, without copying {without_copying:.2f}, lowest bound {plateau['bound'].min():.2f} nats per token"
)

# %% [markdown]
# ## Larger scales: planned
#
# The recipes of `conf/scale/`, composed and counted. **Planned** means: arithmetic. The vocabularies are those of the recipes, so `small` is larger here than with the 230 words of this world (notebook 00). None of these runs was made here, and the ladder above says nothing about their loss.

# %%
table = pd.DataFrame([planned(name) for name in LARGER])
for _, row in table.iterrows():  # the FLOPs of a plan are those of the formula at the top
    recipe = compose([f"scale={row['scale']}"])
    of_recipe = spec_of(recipe.model, recipe.model.vocab_size or recipe.scale.vocab_size)
    assert math.isclose(row["FLOPs"], row["tokens"] * flops_per_token(of_recipe, recipe.scale.length), rel_tol=1e-6)
figure, axes = plt.subplots(figsize=(7.2, 2.8))
axes.plot(
    table["without embeddings"], table["FLOPs"], ls="", color=COLOURS[1], marker="s", mfc="white", label="planned"
)
measured = pd.concat(ladders.values())
axes.plot(measured["without embeddings"], measured["FLOPs"], ls="", color=COLOURS[0], marker="o", label="measured")
axes.set(xscale="log", yscale="log", xlabel="parameters without embeddings", ylabel="FLOPs of pre-training")
axes.legend()
plt.show()
whole = {name: table[name].map("{:,}".format) for name in ("parameters", "without embeddings", "steps", "tokens")}
table.assign(**whole, FLOPs=table["FLOPs"].map("{:.1e}".format))

# %% [markdown]
# The same ladder at budgets a laptop never sees: LLaDA compared its sizes at $10^{20}$ to $10^{23}$ FLOPs (section 3.1). What each size may read for $10^{21}$ and $10^{23}$, and how long one H100 would take at an assumed 40 % of its peak:

# %%
h100 = build(compose(["device=h100"]).device)
recipes = {name: compose([f"scale={name}"]) for name in LARGER}
specs = {name: spec_of(c.model, c.model.vocab_size or c.scale.vocab_size) for name, c in recipes.items()}
rungs = iso_flops(specs, flops=(1e21, 1e23), length=2048, device=h100, precision="bf16-mixed", mfu=0.4)
for rung in rungs:
    assert math.isclose(rung.flops, rung.tokens * flops_per_token(specs[rung.name], 2048), rel_tol=1e-6)
    assert math.isclose(rung.device_hours, rung.flops / (0.4 * 989e12) / 3600, rel_tol=0.01), (
        "989 TFLOP/s, an H100's peak in bf16"
    )
pd.DataFrame(
    {"size": r.name, "FLOPs": f"{r.flops:.0e}", "tokens": f"{r.tokens:.1e}", "tokens per parameter": f"{r.tokens_per_parameter:,.0f}",
     "days of one H100": round(r.device_hours / 24, 1), "status": r.kind}
    for r in rungs
)  # fmt: skip

# %% [markdown]
# ## A step of 1B and of 8B: measured
#
# A few training steps of this package on one H200, random tokens, iLLaDA's cuts (`python -m benchmarks.training --device cuda --scale 8b`, `benchmarks/README.md`). MFU is the share of the highest matrix product rate that this device showed in any run; what is computed again does not count as work done.
#
# 8B fits into one such device. With weights and moments in bf16 nothing need be computed again. With float32 ones there is no room for that: weights, gradients and two moments take four bytes each per parameter, 113 of 140 GiB, so every layer's inner values are thrown away and computed again in the backward pass.
# In the two rows with something computed again the layers were in all likelihood not compiled, so they say less about recomputation than it seems (`benchmarks/README.md`). The 1B row loses a fifth of its step in the head, whose slices had unaligned widths.
#
# All rows are of one commit. The code has changed since, among other things in these places, and nobody has measured it again on such a device; the 1B row was measured with a feed-forward width of 5,634, the recipe now has 5,632.

# %%
steps = [
    json.loads(path.read_text()) for path in sorted(Path("../benchmarks/results").glob("training_[18]b*_cuda.json"))
]
peak = max(step["matmul_peak_flops"] for step in steps)
commit = Counter(step["commit"] for step in steps).most_common(1)[0][0]
steps = [step for step in steps if step["commit"] == commit]  # an earlier one had slower kernels
shares = {path: step["tokens_per_second"] * step["flops_per_token"] / peak for path, step in enumerate(steps)}
assert max(shares.values()) > 0.55, "8B uses more than 55 % of the device"
pd.DataFrame(
    {"scale": step["scale"], "status": "measured", "weights": "bf16" if step["precision"] == "bf16-true" else "float32",
     "computed again": {None: "nothing", 1: "every layer", "ops": "selectively"}[step.get("recomputed", 1)], "tokens": f"{step['rows']} x {step['length']}",
     "tokens/s": round(step["tokens_per_second"]), "MFU": f"{shares[n]:.1%}", "peak memory, GiB": round(step["peak_bytes"] / 2**30, 1),
     "head and loss": f"{step['head_and_loss_share']:.0%}", "on": f"{step['machine']['gpu']}, torch {step['versions']['torch']}", "commit": step["commit"]}
    for n, step in enumerate(steps)
)  # fmt: skip

# %% [markdown]
# ## A published checkpoint
#
# The released files are a folder of `config.json` and safetensors. Here a tiny model is written in iLLaDA's layout and read back: the same call reads the released 8B folder, `load_predictor("path/to/iLLaDA-8B-Base")`, tensor by tensor.

# %%
tiny = MaskPredictor(
    tokens=ILLADA, vocab_size=64, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ffn=48, max_length=64,
    generator=torch.Generator().manual_seed(0),
).eval()  # fmt: skip
with tempfile.TemporaryDirectory() as folder:
    export_published(tiny, folder, layout="illada", shard_bytes=16_000)
    files = sorted(path.name for path in Path(folder).iterdir())
    published = json.loads((Path(folder) / "config.json").read_text())
    again = load_predictor(folder)
print(", ".join(files))
print({key: published[key] for key in ("architectures", "hidden_size", "num_key_value_heads", "tie_word_embeddings")})
x = torch.tensor([[ILLADA.bos, 9, ILLADA.mask, 17, ILLADA.mask, ILLADA.eos]])
with torch.no_grad():
    assert torch.equal(tiny(x), again(x)), "read back to the bit"
out = FixedLength(response_length=4).sample(again, x[:, :2])
print("it samples:", out.responses[0])

# %% [markdown]
# ## What the paper reports, what was measured

# %%
assert sum(p.numel() for p in large.parameters()) == large.spec.n_parameters == 7_615_025_152
found = [
    {"claim": claim["sentence"], "paper reports": claim["paper"], "what is measured here": claim["metric"], "scale": at,
     "effect": f"{claim['effect']:+.3f} ({claim['ci_low']:+.3f} to {claim['ci_high']:+.3f})", "verdict": claim["verdict"]}
    for at, result in results.items() for claim in result["claims"]
]  # fmt: skip
pd.DataFrame(found)

# %% [markdown]
# ## Exercises
#
# 1. How many H100 days are 12T tokens of iLLaDA 8B at 40 % of 989 TFLOP/s? How much of that is attention?
# 2. `export_published(tiny, ..., layout="llada")`: which names change? What does it refuse, and why?
# 3. Chinchilla's rule is 20 tokens per parameter. How far from it are the four planned recipes?
#
# <details><summary>Solutions</summary>
#
# 1. `table.loc[3, "FLOPs"] / (0.4 * 989e12) / 86400`, about 20,000; attention is `12 * 32 * 4096 * 8192` of each token's operations, more than a fifth.
# 2. `model.transformer.blocks.N.q_proj` instead of `model.layers.N.self_attn.q_proj`, and so on; a model with QK-norm or a causal mask has no place in either layout.
# 3. `table["tokens"] / table["without embeddings"]`: 17 for `small`, 141 for `100m`, 216 for `1b` and 1,719 for `8b`. The first is near Chinchilla's 20, the others are 7, 11 and 86 times as much.
# </details>
#
# ## What was not reproduced
#
# Any whole run of a scale above `toy` (the ladder's larger models get the toy's FLOPs): a few steps on one GPU say how fast, not how well; no 8B weights. The released folder itself was not loaded here; what is tested is its layout, written from the facts of the files. The ladder's exponent is that of a synthetic language with a known
# entropy and must not be extrapolated to text.

# %% [markdown]
# ## The numbers of this page, checked

# %%
toy = ladders["toy"]
best = toy.loc[toy.groupby(["budget", "seed"])["bound"].idxmin()].pivot(index="seed", columns="budget", values="factor")
assert (best[0.2] == 1.0).all() and (best[0.8] == 0.5).all(), "the best size falls with the budget, with every seed"
middle = next(claim for claim in results["toy"]["claims"] if claim["id"] == "optimum_each")
assert middle["verdict"] == "inconclusive"
assert [round(end(middle["effects"]), 3) for end in (min, max)] == [-0.014, -0.002], (
    "the lead of the smallest at the larger budget"
)
bounds = toy[toy["budget"] == 0.8].groupby("factor")["bound"].mean()
assert round(bounds[1.0] - bounds[0.5], 2) == 0.01 and set(toy[toy["factor"] == 3]["steps"]) == {63, 251}
assert toy["FLOPs"].min() / ladders["mini"]["FLOPs"].min() > 12 and set(toy[toy["factor"] == 0.5]["steps"]) == {
    1864,
    7454,
}
assert [round(value, 2) for value in (plateau["bound"].min(), plateau["bound"].max())] == [0.84, 0.99]
assert [round(value, 2) for value in (plateau["gap"].min(), plateau["gap"].max())] == [0.38, 0.53]
assert ladder["bound"].min() > without_copying and round(without_copying, 2) == 0.71
mini_best = ladder.loc[ladder.groupby(["budget", "seed"])["bound"].idxmin()].pivot(
    index="seed", columns="budget", values="factor"
)
assert (mini_best[0.2] == 0.3).all() and sorted(mini_best[0.8]) == [0.3, 0.3, 0.5], "the smallest, but for one seed"
by_size = plateau.pivot(index="seed", columns="factor", values="bound")
assert (by_size[0.3] - by_size.min(axis=1)).max() < 0.003
exponents = [next(c["effect"] for c in results[at]["claims"] if c["unit"] == "exponent") for at in ("mini", "toy")]
assert [round(a, 2) for a in exponents] == [0.10, 1.12]
assert round(4 * 4 * large.spec.n_parameters / 2**30) == 113
