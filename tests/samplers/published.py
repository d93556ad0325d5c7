"""The published samplers, written again from their description: full logits everywhere, one row after the other."""

import torch
import torch.nn.functional as F

from illada_lab.tokens import SpecialTokens


@torch.no_grad()
def generate(
    model, prompt, tokens: SpecialTokens, n_response, n_steps, block_length, *,
    is_valid=None, guidance=0.0, ban_eos=False, defer_eos=False, keep_masks=True,
):  # fmt: skip
    """LLaDA's sampler at temperature 0, low-confidence remasking.

    Where the published code is wrong this does what it means: guidance without a padding mask sees everything, and ids are those of
    `tokens`. `keep_masks=False`: [MASK] is never an answer.
    """
    x = torch.cat((prompt, torch.full((len(prompt), n_response), tokens.mask)), 1)
    seen = None if is_valid is None else torch.cat((is_valid, torch.ones(len(prompt), n_response, dtype=torch.bool)), 1)
    was_given = x != tokens.mask
    n_blocks = n_response // block_length
    for block in range(n_blocks):
        stop = prompt.shape[1] + (block + 1) * block_length
        n_masks = (x[:, stop - block_length : stop] == tokens.mask).sum(1).tolist()
        for step in range(n_steps // n_blocks):
            is_masked = x == tokens.mask
            logits = model(x, seen)
            if guidance:
                blind = torch.where(was_given, tokens.mask, x)
                without = model(blind, seen)
                logits = without + (guidance + 1) * (logits - without)
            if ban_eos:
                logits[..., tokens.eos] = -torch.inf
            allowed = logits.clone()
            if not keep_masks:
                allowed[..., tokens.mask] = -torch.inf
            best = allowed.argmax(-1)
            if defer_eos:
                logits[..., list(tokens.stop_ids)] = -torch.inf
            p = F.softmax(logits, -1).gather(-1, best[..., None])[..., 0]
            p[:, stop:] = -torch.inf
            p = torch.where(is_masked, p, -torch.inf)
            for row, n in enumerate(n_masks):
                base, rest = divmod(n, n_steps // n_blocks)
                for position in p[row].topk(base + (step < rest)).indices:
                    x[row, position] = best[row, position]
    return x


@torch.no_grad()
def var_generate(model, prompt, tokens, budget, block_length, n_steps, stop_ids, guidance=0.0):
    """iLLaDA's sampler for one row: a block is appended and filled as above, until one holds a stop id."""
    x = prompt
    while x.shape[1] - prompt.shape[1] + block_length <= budget:
        x = generate(model, x, tokens, block_length, n_steps, block_length, guidance=guidance, keep_masks=False)
        if any(int(i) in stop_ids for i in x[0, -block_length:]):
            break
    written = x[0, prompt.shape[1] :].tolist()
    return written[: next((i for i, token in enumerate(written) if token in stop_ids), len(written))]
