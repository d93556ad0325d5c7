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
# # 02 · The mask predictor: a transformer that looks both ways, on one page
#
# **Paper:** iLLaDA, architecture and Table 1. **Code:** `illada_lab/models/`, `conf/model/`
#
# > **Time:** a few seconds on two CPU cores once the pre-trained model of this scale is there. If it is not, this notebook trains it first: seconds at `scale = "smoke"`, four to nine minutes with bf16 units and about a quarter of an hour without at
# > `scale = "toy"`; all notebooks share it. **Memory:** under 1 GB.
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
import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch.nn.functional import silu

from illada_lab.config import build, compose
from illada_lab.data.worlds.lexicon import IS_HE
from illada_lab.experiments.lab import Lab
from illada_lab.models import MaskPredictor
from illada_lab.report.plots import use_style
from illada_lab.tokens import ILLADA

use_style()
pd.set_option("display.max_colwidth", None)
lab = Lab(scale=scale, seed=seed, runs_dir=runs_dir)
model = lab.pretrained.model
predictor, tokenizer, spec = model.predictor, model.tokenizer, model.predictor.spec

# %% [markdown]
# ## The idea
#
# A mask predictor takes a text of which some tokens are `[MASK]` and gives a distribution over the vocabulary at every position, for all masks at once:
#
# $$p_\theta(x_0^i \mid x_t), \qquad i = 1 \dots L$$
#
# It is the transformer of Llama without the causal mask: every position sees every other. Nothing says what $t$ is; the share of masks can be counted. A layer is
#
# $$h \leftarrow h + W_o\,\mathrm{attention}(\mathrm{norm}(h)), \qquad h \leftarrow h + W_\text{down}\big(\mathrm{silu}(W_\text{gate}\,\mathrm{norm}(h)) \odot W_\text{up}\,\mathrm{norm}(h)\big)$$
#
# with RMSNorm, rotary positions and **grouped queries**: several query heads read the same keys and values. The whole of it, on the weights of the trained model:

# %%
weights = predictor.state_dict()


def norm(x, weight):
    return weight * x * (x.square().mean(-1, keepdim=True) + spec.norm_eps).rsqrt()


def turn(x):  # [L, heads, E]: each pair of entries is turned by an angle that grows with the position
    half = spec.head_size // 2
    angles = torch.arange(len(x))[:, None] * spec.rope_theta ** (-torch.arange(half) / half)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def attention(h, w, is_causal=False):
    q, k, v = ((h @ w[f"self_attn.{name}_proj.weight"].T).unflatten(-1, (-1, spec.head_size)) for name in "qkv")
    if spec.has_qk_norm:
        q, k = norm(q, w["self_attn.q_norm.weight"]), norm(k, w["self_attn.k_norm.weight"])
    q, k = turn(q), turn(k)
    k, v = (x.repeat_interleave(spec.n_heads // spec.n_kv_heads, dim=1) for x in (k, v))  # grouped queries
    scores = torch.einsum("ihe,jhe->hij", q, k) / spec.head_size**0.5
    if is_causal:
        scores = scores.masked_fill(torch.ones(len(h), len(h)).triu(1).bool(), -torch.inf)
    return torch.einsum("hij,jhe->ihe", scores.softmax(-1), v).flatten(1) @ w["self_attn.o_proj.weight"].T


@torch.no_grad()
def predict(x, is_causal=False):
    h = weights["embed_tokens.weight"][x]
    for number in range(spec.n_layers):
        start = f"layers.{number}."
        w = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
        h = h + attention(norm(h, w["input_layernorm.weight"]), w, is_causal)
        n = norm(h, w["post_attention_layernorm.weight"])
        h = h + (silu(n @ w["mlp.gate_proj.weight"].T) * (n @ w["mlp.up_proj.weight"].T)) @ w["mlp.down_proj.weight"].T
    return norm(h, weights["norm.weight"]) @ weights["embed_tokens.weight"].T  # tied head


# %% [markdown]
# The package's model gives the same numbers:

# %%
text = lab.world.documents("test", 1, seed=5)[0].text
clean = torch.tensor([predictor.tokens.bos, *tokenizer.encode_known(text), predictor.tokens.eos])
is_hidden = (torch.rand(len(clean), generator=torch.Generator().manual_seed(1)) < 0.4) & (clean != predictor.tokens.bos)
x = torch.where(is_hidden, predictor.tokens.mask, clean)
with torch.no_grad():
    theirs = predictor(x[None])[0]
mine = predict(x)
assert torch.allclose(mine, theirs, atol=1e-3, rtol=1e-3), float((mine - theirs).abs().max())
print(f"largest difference of a logit: {float((mine - theirs).abs().max()):.1e}")

# %% [markdown]
# ## The run: what it fills in, and what it looks at
#
# One call, every mask at once, each with its probability. Both mentions of *bell* are hidden, so nothing says which object it is: there the model can only guess.

# %%
p = mine.softmax(-1)
rows = [
    {"position": i, "true word": tokenizer.token_text(int(clean[i])), "filled in": tokenizer.token_text(int(p[i].argmax())),
     "probability": round(float(p[i].max()), 3)}
    for i in is_hidden.nonzero()[:, 0].tolist()
]  # fmt: skip
pd.DataFrame(rows)

# %% [markdown]
# **Who looks at whom?** Ask for one word: hide it and predict it. Then hide a second word as well and watch how far the prediction of the first one moves: half the L1 distance of the two distributions, 0 where nothing changes, 1 where everything does. Each row of the figure is a word that is asked for, each column a word that is
# hidden as well. BOS, which is never hidden in training, stays.
#
# *Left*: as trained, in both directions.
#
# *Right*: the same weights with a causal mask, one flag of the configuration (`model.is_causal`): nothing above the diagonal. The autoregressive *twin* of the other notebooks has this mask (notebook 00, *Words*).

# %%
twin = MaskPredictor(**{**predictor.to_config(), "is_causal": True}, tokens=predictor.tokens).eval()
twin.load_state_dict(weights)
with torch.no_grad():
    assert torch.allclose(predict(clean, is_causal=True), twin(clean[None])[0], atol=1e-3, rtol=1e-3)


@torch.no_grad()
def influence(network):
    found = torch.zeros(len(clean), len(clean))  # [asked for i, hidden as well j]
    for i in range(len(clean)):
        asked = clean.clone()
        asked[i] = predictor.tokens.mask
        hidden = asked.repeat(len(clean), 1).fill_diagonal_(
            predictor.tokens.mask
        )  # one text per j; that of j = i hides i alone
        p = network(hidden)[:, i].softmax(-1)
        found[i] = (p - p[i]).abs().sum(-1) / 2
    return found.fill_diagonal_(torch.nan)[1:, 1:]  # without BOS


both, backwards = influence(predictor), influence(twin)
words = [tokenizer.token_text(int(i)) for i in clean[1:]]
figure, panels = plt.subplots(1, 2, figsize=(10, 4.6))
for axes, values, title in zip(panels, (both, backwards), ("both directions", "backwards only"), strict=True):
    image = axes.imshow(values.clamp(min=1e-4).log10(), cmap="Blues", vmin=-4, vmax=0)
    axes.set(title=title, xlabel="word that is hidden as well", xticks=range(len(words)), yticks=range(len(words)))
    axes.set_xticklabels(words, rotation=90, fontsize=6)
    axes.set_yticklabels(words, fontsize=6)
    axes.grid(visible=False)
panels[0].set_ylabel("word that is asked for")
figure.colorbar(image, ax=panels, label="log10 of the distance", shrink=0.8)
plt.show()

# %% [markdown]
# Look for the dark squares on the left: they lie in pairs, mirrored at the diagonal. The table below names them.
#
# Three pale rows run through the left panel, *thursday*, *bridge* and *calm*. These are words that the rest of the text leaves open (any day would do, several places, several moods). A prediction that is spread over several words moves a little with everything, and the colours are logarithmic: it moves by hundredths at most.
# A word of which the model is certain hardly moves unless its other mention is hidden. The second table lists the words the model is least sure of.
#
# Do not read the right panel in the same way: it is dark nearly everywhere because these weights were never trained with half of the text out of sight. It shows what *can* be seen, not what a twin would look at.

# %%
upper = torch.ones_like(both).triu(1).bool()
assert float(backwards[upper].max()) < 1e-6, "with a causal mask nothing is seen ahead"
strongest = both.nan_to_num().flatten().argsort(descending=True)[:10]
pairs = [{"asked for": words[k // len(words)], "hidden as well": words[k % len(words)], "at": f"{k // len(words) + 1}, {k % len(words) + 1}",
          "distance": round(float(both.flatten()[k]), 3)} for k in strongest.tolist()]  # fmt: skip
if scale not in ("smoke", "mini"):  # these have not learnt to copy
    assert float(both[upper].max()) > 0.5, (
        "a later mention decides an earlier one: without a causal mask the model looks ahead"
    )
    assert all(pair["asked for"] == pair["hidden as well"] for pair in pairs[:8]), "the other mention of the same word"
    assert {pair["asked for"] for pair in pairs[:8]} == {"fox", "bell", "blue", "jack"}
    assert pairs[8]["distance"] < 0.1, "and then nothing for long"
    assert pairs[7]["distance"] > 0.4 and {pair["asked for"] for pair in pairs[6:8]} == {"jack"}, "jack moves least"
    assert sum("bridge" in places for hero, places in lab.world.lexicon.places_of.items() if hero in IS_HE) == 3
pd.DataFrame(pairs)

# %%
with torch.no_grad():
    alone = clean.repeat(len(clean), 1).fill_diagonal_(predictor.tokens.mask)  # text i: word i is hidden, nothing else
    own = torch.arange(1, len(clean))  # without BOS
    sure, likeliest = predictor(alone)[own, own].softmax(-1).max(-1)
least = sure.argsort()[:4].tolist()
if scale not in ("smoke", "mini"):
    assert {words[i] for i in least[:3]} == {"thursday", "bridge", "calm"}, "the open words"
pd.DataFrame({"asked for": words[i], "the model's likeliest word": tokenizer.token_text(int(likeliest[i])), "its probability": round(float(sure[i]), 3)}
             for i in least)  # fmt: skip

# %% [markdown]
# Eight pairs stand out, the two mentions of *fox*, *bell*, *blue* and *jack*, in either direction: with the other mention hidden the prediction moves by 0.6 to 0.9, and nothing else moves one by 0.1.
# *jack* moves least: *he* and the *bridge* are still visible, and only three heroes who are *he* go there.

# %% [markdown]
# ## What the paper reports, what is counted here
#
# Parameters from the sizes alone: per layer two matrices of $D \times D$ (queries, output), two of $D \times KE$ (keys, values), three of $D \times F$, and the norms. The 8B models are built on the meta device: shapes without memory.


# %%
def count(s):
    attention = 2 * s.d_model**2 + 2 * s.d_model * s.n_kv_heads * s.head_size
    norms = 2 * s.d_model + (2 * s.head_size if s.has_qk_norm else 0)
    rest = s.n_layers * (attention + 3 * s.d_model * s.d_ffn + norms) + s.d_model
    return rest + s.vocab_size * s.d_model * (1 if s.is_tied else 2), rest


found = []
for name, total, rest in (("illada_8b", "7.62 B", "6.98 B"), ("llada_8b", "8.02 B", "6.98 B")):
    with torch.device("meta"):
        big = build(compose([f"model={name}"]).model, tokens=ILLADA)
    n, n_rest = count(big.spec)
    assert n == sum(parameter.numel() for parameter in big.parameters())
    assert f"{n / 1e9:.2f} B" == total and f"{n_rest / 1e9:.2f} B" == rest
    found.append({"model": name, "paper: parameters": total, "counted": f"{n:,}", "paper: without embeddings": rest, "counted, without embeddings": f"{n_rest:,}",
                  "numbers cached per token": f"{big.spec.cache_values_per_token:,}"})  # fmt: skip
n, n_rest = count(spec)
assert n == sum(parameter.numel() for parameter in predictor.parameters())
found.append({"model": f"this notebook, scale {scale}", "paper: parameters": "", "counted": f"{n:,}", "paper: without embeddings": "",
              "counted, without embeddings": f"{n_rest:,}", "numbers cached per token": f"{spec.cache_values_per_token:,}"})  # fmt: skip
pd.DataFrame(found)

# %% [markdown]
# ## Exercises
#
# 1. Hide every token but BOS. Why are the predictions not the same at all positions, and what would happen without BOS?
# 2. Change one line of the configuration, `model.n_kv_heads=1`: `build(compose(["scale=toy", "model.n_kv_heads=1"]).model, tokens=predictor.tokens, vocab_size=spec.vocab_size)`. How many parameters does it save, and how much of a cache? Which share of the model is that?
# 3. Shift all positions by 100 in `turn`. Does the prediction change? Why (not)?
#
# <details><summary>Solutions</summary>
#
# 1. BOS is the only thing that differs from a mask, and rotary positions make its distance visible. Without it all values are the same vector, so every average of them is that vector again, whatever the weights of the attention and the positions behind them: all predictions are equal.
# 2. Per layer and head given up two matrices of $D \times E$ (keys, values). At `toy` one head of two goes, in 4 layers, with $D = 128$ and $E = 32$: $4 \cdot 2 \cdot 128 \cdot 32 = 32{,}768$ parameters, 4 % of the model, and half of the cache: 256 numbers per token instead of 512.
# 3. No: queries and keys are turned by the same extra angle, and their product depends on the difference of positions only.
# </details>
#
# ## What was not reproduced
#
# The trained 8B weights were not run here: they are counted, and notebook 13 shows how a published folder is read. QK-norm is our addition at toy scale (README); neither paper has it.
