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
# # 07 · Variable length, EOS, and the end-of-thinking boost
#
# **Paper:** iLLaDA, inference; LLaDA, Appendix B.4 (EOS). **Studies:** `conf/study/sampling.yaml`, `conf/study/sft_format.yaml`
#
# > **Time:** under a minute on two CPU cores once the models of this scale are there. If they are not, this notebook trains them first: seconds at `scale = "smoke"`, four to nine minutes with bf16 units and about a quarter of an hour without at
# > `scale = "toy"`; all notebooks share them. **Memory:** under 1 GB.
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
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

from illada_lab.experiments.asking import ask, question_task
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.sampling import KINDS
from illada_lab.report.plots import COLOURS, LIMIT, lines, use_style
from illada_lab.report.tables import effect_text
from illada_lab.samplers import EndOfThinking, FixedLength, VariableLength
from illada_lab.tokens import ILLADA

use_style()
pd.set_option("display.max_colwidth", None)
lab = Lab(scale=scale, seed=seed, runs_dir=runs_dir)
model = lab.tuned.model
predictor, tokenizer, tokens = model.predictor, model.tokenizer, model.predictor.tokens

# %% [markdown]
# ## The idea
#
# A diffusion model fills a window, and somebody has to say how long the window is. **LLaDA** opens all of it at once: the length is a setting, masks behind the answer must all become EOS, and because fine-tuning has padded with EOS
# the model may be surest of EOS before it has said anything. **iLLaDA** opens one block at a time. Nothing stands behind the block; when it is full, EOS or a stop string in it ends the answer, otherwise the next block is appended:
#
# $$x \leftarrow [\,\text{prompt},\ \underbrace{\text{block}_1}_{\text{filled}},\ \dots,\ \underbrace{\text{MASK} \cdots \text{MASK}}_{B}\,] \quad\text{until EOS is in the block, or the budget is spent}$$
#
# From scratch, one token per pass, surest first:


# %%
@torch.no_grad()
def answer(prompt, budget, block_length):
    x, n_passes = prompt[None], 0
    for _ in range(budget // block_length):
        start = x.shape[1]
        x = torch.cat((x, torch.full((1, block_length), tokens.mask)), 1)
        while (x == tokens.mask).any():
            p = predictor(x).softmax(-1)
            p[..., tokens.mask] = 0
            confidence, token = p.max(-1)
            confidence[x != tokens.mask] = -1
            best = confidence[0].argmax()
            x[0, best], n_passes = token[0, best], n_passes + 1
        if tokens.eos in x[0, start:]:
            break
    response = x[0, len(prompt) :].tolist()
    return response[: response.index(tokens.eos)] if tokens.eos in response else response, n_passes


# %% [markdown]
# The package's sampler says the same, in as many passes:

# %%
task = question_task(lab.world, model, KINDS, 48, seed=0)
for prompt in map(torch.tensor, task.prompts[::8]):
    mine, n_passes = answer(prompt, budget=24, block_length=8)
    theirs = VariableLength(max_length=24, block_length=8).sample(predictor, prompt[None])
    assert mine == theirs.responses[0] and n_passes == int(theirs.nfe)
    print(f"{tokenizer.decode(prompt[2:-1].tolist())}  ->  {tokenizer.decode(mine)}  ({n_passes} passes)")

# %% [markdown]
# ## The run: fixed against variable
#
# The same questions, the same budget of 24 tokens. *positions* is what is computed; *empty* is the share of answers whose first token is EOS.

# %%
rows = []
for block in (24, 8, 4, 2):
    for name, sampler in (
        ("fixed", FixedLength(response_length=24, block_length=block)),
        ("variable", VariableLength(max_length=24, block_length=block)),
    ):
        rows.append(ask(model, task, sampler).row(length=name, block=block))
pd.DataFrame(rows).round(3)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2))
for axes, y in ((left, "right"), (right, "positions")):
    lines(axes, rows, "block", y, "length")
    axes.set(xscale="log", xlabel="block length, tokens")
    axes.set_xticks([2, 4, 8, 24], ["2", "4", "8", "24"])
    axes.minorticks_off()
left.set(ylabel="share of right answers", ylim=(-0.03, 1.03))
right.set(ylabel="positions computed per answer", ylim=(0, None))
left.legend()
plt.show()

# %% [markdown]
# ## Where is it sure of EOS?
#
# Nothing has been said yet: how likely is EOS at each of 24 masks, on average over the questions? In the title: the share of questions for which EOS is the *surest* of all predictions in the window, so that it is revealed first.


# %%
@torch.no_grad()
def first_look(prompt, length):
    x = torch.cat((torch.tensor(prompt), torch.full((length,), tokens.mask)))[None]
    p = predictor(x)[0, len(prompt) :].softmax(-1)
    p[:, tokens.mask] = 0
    surest = int(p.max(-1).values.argmax())
    return p[:, tokens.eos], surest + 1 if p[surest].argmax() == tokens.eos else None


figure, panels = plt.subplots(1, 2, figsize=(9.5, 2.8), sharey=True, gridspec_kw={"width_ratios": (2.6, 1)})
first_place = {}
for axes, length in zip(panels, (24, 8), strict=True):
    chances, first_place[length] = zip(*(first_look(prompt, length) for prompt in task.prompts), strict=True)
    share = sum(place is not None for place in first_place[length]) / len(task.prompts)
    axes.bar(range(1, length + 1), torch.stack(chances).mean(0), color=COLOURS[0])
    axes.set(title=f"window of {length}: EOS first in {share:.0%}", xlabel="place in the response", ylim=(0, 1))
    axes.set_xlim(0.3, length + 0.7)
panels[0].set_ylabel("probability of EOS")
plt.show()
for length, places in first_place.items():
    counted = Counter(place for place in places if place is not None)
    print(
        f"window of {length}: EOS is revealed first at place "
        + ", ".join(f"{place} ({n} times)" for place, n in sorted(counted.items()))
    )

# %% [markdown]
# In both windows EOS is often revealed first, and blocks of 8 answer far better all the same. The place makes the difference.
#
# In a window of 8 EOS is as likely at place 2 as at all places behind it: an answer of one word is over there, and the model is right to say so. Place 1 is hardly ever EOS.
#
# In a window of 24 it is sure only at the far end, places 21 to 24, and unsure at place 2: fine-tuning showed 0 to 7 EOS behind an answer, never twenty. So the EOS that goes in first mostly stands far behind the answer (the lines above count the places), and then everything in front of it must be filled before the answer may be read. What fills it is often not EOS. The first question of which this is true, answered in both ways, with all tokens of the window (at variable length the sampler overwrites what stands behind the first EOS with `<pad>` when it is done):

# %%
which = next((i for i, place in enumerate(first_place[24]) if place is not None and place > 8), 0)
asked = torch.tensor([task.prompts[which]])
print(tokenizer.decode(task.prompts[which][2:-1]))
for name, sampler in (
    ("one window of 24", FixedLength(response_length=24)),
    ("blocks of 8", VariableLength(max_length=24, block_length=8)),
):
    out = sampler.sample(predictor, asked)
    order = [f"{tokenizer.token_text(record['token'])} at {record['position'] + 1}" for record in out.trace[:4]]
    print(f"{name}: {' '.join(tokenizer.token_text(int(i)) for i in out.tokens[0, asked.shape[1] :])}")
    print(f"    revealed first: {', '.join(order)}; the answer is {tokenizer.decode(out.responses[0])!r}")

# %% [markdown]
# LLaDA's two remedies: `ban_eos` never predicts EOS; `defer_eos` reveals a predicted EOS last. One setting each, in one window of 24:

# %%
remedies = {
    "one window of 24": FixedLength(response_length=24),
    "EOS revealed last": FixedLength(response_length=24, defer_eos=True),
    "EOS never": FixedLength(response_length=24, ban_eos=True),
    "variable length, blocks of 8": VariableLength(max_length=24, block_length=8),
}
pd.DataFrame([ask(model, task, sampler).row(sampler=name) for name, sampler in remedies.items()]).round(3)

# %% [markdown]
# Both ruin this model's answers: where EOS may not come, or comes last, other words have to fill the window. With EOS revealed last two of 48 answers here even become empty, which is what it should prevent. The remedies are for models that have learnt to fill long windows with EOS.
#
# ## The end-of-thinking boost
#
# A model that reasons may go on with "wait, let me check again" until its budget is spent. iLLaDA adds to one logit, that of the token which begins or continues `</think>`, at the first masked position $p$ of the block, $r$ tokens
# into a response with budget $N$, as long as the sequence has not been said:
#
# $$\text{logit}_p \mathrel{+}= A \cdot \min\!\big(\tfrac{r}{N}, 1\big)^{\text{power}}, \qquad A = 100,\ \text{power} = 3 \text{ (HumanEval: 1)}$$
#
# First a case in which it must help: a scripted predictor that says *wait* for ever. It prefers *wait* to everything else by 20 logits, and answers only once `</think>`, two tokens here, has been said. Budget 64, blocks of 1:


# %%
class Waits:
    """Says "wait" until thinking has ended, then the answer and EOS."""

    tokens = ILLADA
    words = {7: "wait", 8: "</", 9: "think>", 10: "42"}

    def __call__(self, x, is_valid=None):
        logits = torch.zeros(*x.shape, 16)
        for b, row in enumerate(x.tolist()):
            end = next((i for i in range(len(row) - 1) if row[i : i + 2] == [8, 9]), None)
            for i in range(len(row)):
                logits[b, i, 7 if end is None else 10 if i == end + 2 else ILLADA.eos] = 20.0
        return logits


PREFERRED, BUDGET, waited = 20, 64, []
for name, push in (
    ("no boost", None),
    ("power 1", EndOfThinking(sequence=[8, 9], power=1)),
    ("power 3", EndOfThinking(sequence=[8, 9], power=3)),
):
    sampler = VariableLength(max_length=BUDGET, block_length=1, end_of_thinking=push)
    out = sampler.sample(Waits(), torch.tensor([[ILLADA.bos, 11]]))
    said = [Waits.words[token] for token in out.responses[0]]
    place = said.index("</") + 1 if "</" in said else None
    if push is not None:  # the first place at which the boost is larger than what "wait" is ahead
        assert place == math.floor(BUDGET * (PREFERRED / push.amount) ** (1 / push.power)) + 1
    waited.append(
        {
            "boost": name,
            '"</" at place': place,
            "ends by": out.stop_reasons[0],
            "passes": int(out.nfe),
            "the end": " ".join(said[-4:]),
        }
    )
assert [row["ends by"] for row in waited] == ["length", "eos", "eos"], "only the boost ends it"
pd.DataFrame(waited).astype({'"</" at place': "Int64"})

# %%
figure, axes = plt.subplots(figsize=(6.4, 2.9))
r = torch.linspace(0, 1.2, 100)
for power, colour in zip((1, 3), COLOURS, strict=False):
    axes.plot(r, 100 * r.clamp(max=1) ** power, color=colour, marker="", label=f"power {power}")
    axes.plot((PREFERRED / 100) ** (1 / power), PREFERRED, color=colour)
axes.axhline(PREFERRED, color=LIMIT, ls=":", marker="", label='what "wait" is ahead')
axes.set(xlabel="place in the response over the budget, r / N", ylabel="added to the logit")
axes.legend()
plt.show()

# %% [markdown]
# Without the boost the whole budget is spent and nothing is answered. Power 1 ends the thinking after a fifth of the budget, power 3 after three fifths: the higher the power, the longer a model may think, and the steeper the push when it comes.
#
# The toy does not think, but it works its sums out: "3 + 2 = 5 . 5 + 4 = 9 . **the answer is** 9". Here `the answer` takes the place of `</think>`. From scratch, beside the package's:


# %%
def boosted(logits, row, n_prompt, budget, sequence, amount=100.0, power=3.0):
    logits, first = logits.clone(), int((row == tokens.mask).nonzero()[0])
    said = row[n_prompt:].tolist()
    if any(said[i : i + len(sequence)] == sequence for i in range(len(said))):
        return logits
    before = row[n_prompt:first].tolist()
    n_said = next(n for n in range(len(sequence) - 1, -1, -1) if n == 0 or before[-n:] == sequence[:n])
    logits[0, sequence[n_said]] += amount * min((first - n_prompt + 1) / budget, 1) ** power
    return logits


end = tokenizer.encode_known("the answer")
prompt = next(p for p, check in zip(task.prompts, task.checks, strict=True) if "many" in tokenizer.decode(p))
for said in ("3 + 2 =", "3 + 2 = 5 . the", "3 + 2 = 5 . the answer"):
    row = torch.tensor([*prompt, *tokenizer.encode_known(said), tokens.mask, tokens.mask])
    with torch.no_grad():
        logits = predictor(row[None])[0][row == tokens.mask]
    theirs = logits.clone()
    EndOfThinking(sequence=end)(theirs, row[None], (row == tokens.mask)[None], len(prompt), 24)
    assert torch.equal(boosted(logits, row, len(prompt), 24, end), theirs)
    moved = (theirs - logits).nonzero().tolist()
    print(
        f"{said!r}: "
        + (f"+{float((theirs - logits).max()):.1f} for {tokenizer.token_text(moved[0][1])!r}" if moved else "nothing")
    )

# %% [markdown]
# What does the push do to word sums? Blocks of 4; the budget is 24 tokens:

# %%
sums = question_task(lab.world, model, ["word_sum"], 24 if scale != "smoke" else 4, seed=0)
BEFORE, pushes = 'words before the first "answer"', []
for amount in (0.0, 30.0, 100.0, 300.0, 1000.0):
    push = EndOfThinking(sequence=end, amount=amount)
    asked = ask(model, sums, VariableLength(max_length=24, block_length=4, end_of_thinking=push))
    words = [text.split() for text in asked.texts]
    places = [w.index("answer") if "answer" in w else 24 for w in words]
    pushes.append({"amount": amount, BEFORE: sum(places) / len(places), "words": sum(map(len, words)) / len(words), "right": asked.share, "passes": asked.nfe,
                   "texts": asked.texts})  # fmt: skip
shown = pd.DataFrame(pushes).round(2)
shown.assign(**{"an example": [row["texts"][0] for row in pushes]}).drop(columns="texts")

# %%
figure, axes = plt.subplots(figsize=(6.4, 2.4))
axes.plot([str(round(row["amount"])) for row in pushes], [row[BEFORE] for row in pushes])
axes.set(xlabel="amount A", ylabel="words before it", title=BEFORE, ylim=(0, 25))
plt.show()

# %% [markdown]
# At the paper's $A = 100$ nothing changes: these answers end within the budget by themselves, so there is nothing to cure. $A = 300$ hardly moves the words and spoils some of the sums. $A = 1000$ makes "the answer" appear earlier, but the response does not end earlier: it has as many words and takes as many passes as before, because the model says it twice (see the example).
#
# ## What the paper reports, what this run measured
#
# Claims of the two studies that belong here, from the committed results.

# %%
found = []
for name, ids in (
    ("toy/sampling", ("variable_quality", "variable_cost")),
    ("toy/sft_format", ("variable", "own_way", "eos", "blocks", "variable_padded")),
):
    path = Path(f"../results/{name}.json")
    for claim in json.loads(path.read_text())["claims"]:
        if claim["id"] in ids:
            found.append({"claim": claim["sentence"], "paper reports (8B)": claim["paper"], "what is measured here": claim["metric"],
                          "scale": name.split("/")[0], "seeds": len(claim["effects"]), "effect": effect_text(claim), "verdict": claim["verdict"]})  # fmt: skip
pd.DataFrame(found)

# %% [markdown]
# ## Exercises
#
# 1. Stop at a text instead of EOS: `VariableLength(..., stop_strings=["answer is"], tokenizer=tokenizer)`. What is left of a word sum?
# 2. Why does a budget of 24 with blocks of 24 give the same as the fixed length? Which block answers best, all kinds of questions together, and what does a block of 1 cost?
# 3. Set `power=1` in the boost of the word sums, at $A = 100$. Do the words come earlier or later, does the end, and why would code want it?
#
# <details><summary>Solutions</summary>
#
# 1. The steps up to, and without, the stop string: the text is searched whenever a block is full.
# 2. One block is the whole window: nothing is left out behind it. Small blocks force an order from left to right; with blocks of 1 it is that of an autoregressive model, with a pass of the whole prompt for each token. The ledger's five models answer 75 % with blocks of 1, 78 with 4, 78 with 8, 71 with 12 and 33 with one block of 24, in 4.6, 6.8, 10.8, 14.1 and 24 passes (`results/toy/sampling.json`, table `blocks`, whole sequences): blocks of 1 cost 3 points and save more than half of the passes of
#    blocks of 8, because nothing behind EOS is computed. (At 8B, where an answer has hundreds of tokens, a block's last passes are a small part of it.)
# 3. Earlier, since $r/N$ is larger than its cube; whether the end does the cell below says. A program's reasoning should end while there is room for the program.
# </details>

# %% jupyter={"source_hidden": true}
# Numbers for exercises 1 and 3.
task_of_sums = {"max_length": 24, "block_length": 4}
stopped = ask(model, sums, VariableLength(**task_of_sums, stop_strings=["answer is"], tokenizer=tokenizer))
print(f"stopped at 'answer is': {stopped.texts[0]!r}, {stopped.nfe:.1f} passes")
for power in (1, 3):
    asked = ask(model, sums, VariableLength(**task_of_sums, end_of_thinking=EndOfThinking(sequence=end, power=power)))
    words = [text.split() for text in asked.texts]
    places = [w.index("answer") if "answer" in w else 24 for w in words]
    print(
        f"power {power}: {sum(places) / len(places):.1f} {BEFORE}, {sum(map(len, words)) / len(words):.1f} words in all, {asked.share:.0%} right"
    )

# %% [markdown]
# ## What was not reproduced
#
# Answers of up to 4,096 tokens, "</think>" itself, and the effect of the boost on GSM8K and HumanEval: the paper gives the settings and no comparison without them. HumanEval's need of one block of 512 was not tried.

# %% [markdown]
# ## The numbers of this page, checked

# %%
by = {(row["length"], row["block"]): row for row in rows}
for block in (8, 4, 2):
    assert by["variable", block]["positions"] <= by["fixed", block]["positions"], "variable length computes no more"
assert by["variable", 24]["right"] == by["fixed", 24]["right"], "with one block both are the same"
if scale not in ("smoke", "mini"):  # there few answers, if any, end by themselves
    assert pushes[-1][BEFORE] < pushes[0][BEFORE], "a strong push brings the words nearer"
    assert abs(pushes[2][BEFORE] - pushes[0][BEFORE]) < 1, "the paper's amount does not"
records = json.loads(Path("../results/toy/sampling.json").read_text())["seeds"]
of_blocks = pd.concat(pd.DataFrame(record["tables"]["blocks"]) for record in records)
of_blocks = of_blocks[of_blocks["format"].str.startswith("whole") & (of_blocks["length"] == "variable")]
of_blocks = of_blocks.groupby("block")[["right", "passes"]].mean()
assert [round(100 * x) for x in of_blocks["right"]] == [75, 78, 78, 71, 33]
assert [round(x, 1) for x in of_blocks["passes"]] == [4.6, 6.8, 10.8, 14.1, 24.0]
