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
# # 00 · A tour: one model, from the world it reads to the answers it gives
#
# **Paper:** iLLaDA, all of it in miniature; Table 1 for the sizes. **Command:** `illada-lab reproduce seed=1` makes the models that all notebooks share.
#
# > **Time:** a few seconds on two CPU cores once the models of this scale are there. If they are not, this notebook trains them first: seconds at `scale = "smoke"`, four to nine minutes with bf16 units and about a quarter of an hour without at
# > `scale = "toy"`. **Memory:** under 1 GB.
# > **Elsewhere:** on Colab, Kaggle or your own GPU open this notebook in a clone of the repository: the first cell installs what is missing, the second picks the scale.
#
# Words that all notebooks use (*scale, bound, twin, ledger, replicated*) are explained further down, under *Words*.

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
import math

import matplotlib.pyplot as plt
import pandas as pd
import torch

from illada_lab.config import build, compose
from illada_lab.data.chat import ChatTemplate
from illada_lab.experiments.lab import Lab
from illada_lab.report.plots import COLOURS, use_style
from illada_lab.samplers import FixedLength, Infill, VariableLength
from illada_lab.tokens import ILLADA

use_style()
pd.set_option("display.max_colwidth", None)
lab = Lab(scale=scale, seed=seed, runs_dir=runs_dir)
base, tuned = lab.pretrained.model, lab.tuned.model

# %% [markdown]
# ## The idea
#
# A masked diffusion model is a transformer that looks in both directions and fills in hidden words. Training hides a random share of a text, generation starts from nothing but hidden words and uncovers them
# step by step:
#
# $$x_0 \;\xrightarrow{\;\text{hide each token with probability } t\;}\; x_t \;\xrightarrow{\;\text{network}\;}\; p_\theta(x_0^i \mid x_t) \text{ at every hidden } i$$
#
# The network has no notion of time and no causal mask; one call gives a distribution at every position. Here is a text at four masking ratios, with the same noise, so that more is hidden each time:

# %%
world = lab.world
document = world.documents("test", 1, seed=5)[0]
ids = torch.tensor(base.tokenizer.encode_known(document.text))
noise = torch.rand(len(ids), generator=torch.Generator().manual_seed(0))


def hide(ids, t):
    return torch.where(noise < t, base.predictor.tokens.mask, ids)


for t in (0.1, 0.4, 0.7, 1.0):
    shown = hide(ids, t).tolist()
    print(
        f"t = {t}: "
        + " ".join("___" if i == base.predictor.tokens.mask else base.tokenizer.token_text(i) for i in shown)
    )

# %% [markdown]
# The package hides the same tokens:

# %%
from illada_lab.diffusion import mask_tokens

for t in (0.1, 0.4, 0.7, 1.0):
    xt, _ = mask_tokens(ids[None], torch.full((1, len(ids)), t), noise[None], base.predictor.tokens.mask)
    assert torch.equal(xt[0], hide(ids, t))

# %% [markdown]
# ## The run: what the models can do
#
# **The world.** Stories, facts about people, and sums. The probability of every document is known exactly, and with it the *entropy*: the loss of a model that knows this language perfectly. In expectation no model can be better. The length of a document is taken as known here, because a mask predictor sees how many positions there are; its kind (story, fact or sum) is not. Here is one document of each kind, behind its probability:

# %%
for kind in ("story", "fact", "sum"):
    example = world.documents("test", 1, mixture={kind: 1.0}, seed=2)[0]
    print(f"{kind:6} {math.exp(example.log_prob):9.2e}  {example.text}")

# %% [markdown]
# **The base model writes** (temperature 1, random order) **and fills holes** anywhere in a text:

# %%
bos = torch.full((3, 1), base.predictor.tokens.bos)
out = FixedLength(response_length=33, remasking="random", temperature=1.0).sample(
    base.predictor, bos, generator=torch.Generator().manual_seed(0)
)
for response in out.responses:
    text = base.tokenizer.decode(response)
    print("accepted by the grammar:" if world.stories.parse(text) else "not a story:           ", text)
person = world.lexicon.people[0]
holes = [
    base.predictor.tokens.bos,
    base.predictor.tokens.mask,
    *base.tokenizer.encode_known(f"wrote {person.book} ."),
    base.predictor.tokens.eos,
]
filled = Infill().sample(base.predictor, torch.tensor([holes])).responses[0]
print(f"___ wrote {person.book} .  ->  {base.tokenizer.decode(filled)}  (true: {person.name})")

# %% [markdown]
# **What is asked.** Fine-tuning shows questions and their answers. These are all kinds of questions that the notebooks and the ledger speak of, each with an example from the world:

# %%
MEANING = {
    "fact": "a fact about a person; fine-tuning asks for it too, but not in these words",
    "sum": "the same for sums of two numbers",
    "fact_unasked": "a fact that pre-training states and fine-tuning never asks for, in no words",
    "sum_unasked": "the same for sums",
    "choice": "a fact with four candidates; the answer is the word",
    "word_sum": "a little story with three numbers; the response works it out in two steps",
    "reversal": "who wrote this book, of people whose book is only ever told from the person's side; never asked in fine-tuning",
}
examples = {kind: world.questions("test", kind, 1, seed=3)[0] for kind in MEANING}
pd.DataFrame(
    {"kind": kind, "what it is": MEANING[kind], "a question": item.prompt, "the response to learn": item.response}
    for kind, item in examples.items()
)

# %% [markdown]
# **The fine-tuned model answers**, in blocks of 8 tokens until EOS. Not all answers are right. Little stories with numbers (`word_sum`) it mostly gets wrong; which other answers are wrong depends on the seed. The scores of one small model also depend on the machine and its precision (rounding differs, and training amplifies the difference), some of them more than on the seed (notebook 12; `results/README.md`, columns *again*). So the README's numbers for the same seed are not those of this page:

# %%
chat, rows = ChatTemplate(tuned.tokenizer), []
for kind, item in examples.items():
    prompt = torch.tensor([chat.prompt([{"role": "user", "content": item.prompt}])])
    answer = VariableLength(max_length=24, block_length=8).sample(tuned.predictor, prompt)
    rows.append({"kind": kind, "question": item.prompt, "answer": tuned.tokenizer.decode(answer.responses[0]), "right": item.answer,
                 "passes": int(answer.nfe)})  # fmt: skip
pd.DataFrame(rows)

# %% [markdown]
# **How they were trained.** The loss of pre-training, held-out documents, and the entropy of those documents. Stories come down to it. Facts and sums stay above it: a held-out one is stated in a form in which training never states this fact or sum, and the model cannot know that this form will come (notebook 03):

# %%
figure, axes = plt.subplots(figsize=(7.2, 2.8))
for kind, colour in zip(("story", "fact", "sum"), COLOURS, strict=False):
    points = [(r["step"], r["kinds"][kind]) for r in lab.pretrained.history["validation"]]
    axes.plot([s for s, _ in points], [k["nelbo_per_token"] for _, k in points], color=colour, label=kind)
    axes.axhline(points[-1][1]["entropy_per_token"], color=colour, ls="--", lw=1, marker="")
axes.set(xlabel="optimiser step", ylabel="bound, nats per token", title="dashed: entropy, the floor", ylim=(0, None))
axes.legend(loc="upper right")
plt.show()
last = lab.pretrained.history["validation"][-1]["kinds"]
over = {kind: last[kind]["nelbo_per_token"] / last[kind]["entropy_per_token"] for kind in ("story", "fact", "sum")}
print("bound over entropy at the end:", ", ".join(f"{kind} {value:.2f}" for kind, value in over.items()))
if scale not in ("smoke", "mini"):  # these are far from the entropy
    assert over["story"] < 1.1 < over["fact"] and over["story"] < over["sum"]

# %% [markdown]
# ## What the paper reports, what this kit counts
#
# The same code composes the paper's model. It is counted on the meta device here; nobody trained it here.

# %%
found = []
for name, total, rest in (("illada_8b", "7.62 B", "6.98 B"), ("llada_8b", "8.02 B", "6.98 B")):
    with torch.device("meta"):
        spec = build(compose([f"model={name}"]).model, tokens=ILLADA).spec
    found.append({"model": name, "paper: parameters": total, "counted": f"{spec.n_parameters:,}", "paper: without embeddings": rest,
                  "counted, without embeddings": f"{spec.n_non_embedding_parameters:,}"})  # fmt: skip
    assert f"{spec.n_parameters / 1e9:.2f} B" == total and f"{spec.n_non_embedding_parameters / 1e9:.2f} B" == rest
spec = base.predictor.spec
found.append(
    {
        "model": f"this notebook, scale {scale}",
        "counted": f"{spec.n_parameters:,}",
        "counted, without embeddings": f"{spec.n_non_embedding_parameters:,}",
    }
)
pd.DataFrame(found).fillna("")

# %% [markdown]
# ## Words
#
# | word | what it means here |
# |---|---|
# | **scale** | a size of model, data and run, all set together by `scale=...`: `smoke` is there to see that everything runs (nothing is learnt), `mini` is half trained, `toy` has learnt its world, `small` is the first that wants a GPU (table below) |
# | **bound** | what the loss of a mask predictor estimates: never below $-\log p$ of the text, in nats (notebook 01). Smaller is better |
# | **entropy** | mean $-\log p$ of the language itself: what the bound comes down to at best |
# | **twin** | the autoregressive twin: a network of the same size and kind with a causal mask, trained on the same data for as many steps, which reads and writes from left to right. It stands for an ordinary language model |
# | **seed** | one draw of weights, documents, masks and questions; the world stays the same |
# | **claim** | a sentence of a paper that a study can measure, with the number that would speak for it (*effect*) |
# | **ledger** | `results/README.md`: every claim, its effect over three or more seeds, the 95 % interval of the mean (Student's t), and a verdict. Written by `illada-lab replicate` from the files beside it, never by hand |
# | **replicated** | the whole interval is above the claim's threshold (0 where nothing else is said) |
# | **not replicated** | the whole interval is below the smallest effect worth the name (for example 2 points) |
# | **inconclusive** | neither, or fewer than three seeds, or *no room*: what a claim wants to improve on is as good as perfect already, so nothing could show |
#
# A verdict compares with the paper in direction only: a model of scale `toy` is ten thousand times smaller.

# %%
from illada_lab.planner.size import model_spec

sizes = {name: compose([f"scale={name}"]) for name in ("smoke", "mini", "toy", "small")}
scales = pd.DataFrame(
    {"scale": name, "parameters": model_spec(config).n_parameters, "steps of pre-training": config.scale.n_steps,
     "steps of fine-tuning": config.scale.sft_steps, "documents": config.scale.n_documents}
    for name, config in sizes.items()
)  # fmt: skip
if scale in sizes:
    assert scales.set_index("scale").loc[scale, "parameters"] == base.predictor.spec.n_parameters
scales.assign(**{name: scales[name].map("{:,}".format) for name in scales.columns[1:]})

# %% [markdown]
# ## Where to go on
#
# | notebook | question |
# |---|---|
# | [01](01_objective.ipynb) | why is the loss a bound? |
# | [02](02_mask_predictor.ipynb) | what does the network look like, and what does it look at? |
# | [03](03_pretraining.ipynb) | what does the decay of the learning rate do? |
# | [04](04_architecture.ipynb) | grouped queries, tied embeddings: what do they cost? |
# | [05](05_finetuning.ipynb) | formats and epochs of fine-tuning |
# | [06](06_sampling.ipynb) | in which order, in how many steps, in which blocks? |
# | [07](07_variable_length.ipynb) | who decides how long an answer is? |
# | [08](08_scoring.ipynb) | how are candidates ranked? |
# | [09](09_tables.ipynb) | which recipe is better, all else being equal? |
# | [10](10_repeated_data.ipynb) | who overfits on repeated data? |
# | [11](11_reversal.ipynb) | facts in the other direction |
# | [12](12_acceleration.ipynb) | how many tokens at once, what can be cached? |
# | [13](13_scaling_up.ipynb) | larger models, and a published checkpoint |
#
# ## Exercises
#
# 1. A story has an entropy of `world.entropy("story", lab.config().data.source.mixture)` nats. If all stories were equally likely, how many would there be? Can a model that is shown 100,000 documents know them by heart?
# 2. Write a story from a first sentence: put its tokens behind BOS in the prompt.
# 3. How many passes does an answer of one word take, and why not fewer? Try `block_length=2`.
#
# <details><summary>Solutions</summary>
#
# 1. 13.07 nats, so $e^{13.07}$, about 473,000 (at `toy`; stories are not equally likely, so there are more). 42 % of 100,000 documents are stories: less than a tenth of that. What comes down to the entropy on held-out stories has learnt the grammar, not the stories. (`chat.prompt([{"role": "user", "content": "where does ada live ?"}])` asks
#    the model something of your own; unknown words are refused with their nearest neighbours.)
# 2. `torch.tensor([[base.predictor.tokens.bos, *base.tokenizer.encode_known("tom was at the river .")]])`, then `FixedLength(response_length=24)`.
# 3. 8: the block is filled one token per step, EOS among them. With blocks of 2 an answer of one word and EOS takes 2.
# </details>
#
# ## What was not reproduced
#
# Everything at 8B: no released weights were run here, no benchmark of the paper was scored. The ledger (`results/README.md`) says which of the papers' claims show at which of our scales, and which do not.
