"""Multiple-choice items of the world, several task types, from first principles: a right ending and three wrong ones."""

import random
from collections.abc import Callable

from illada_lab.data.worlds import World, facts, sums
from illada_lab.data.worlds import lexicon as lx
from illada_lab.evaluation.choice import ChoiceItem
from illada_lab.evaluation.world_choices import another, contradictions, pools, without_ending

Encode = Callable[[str], list[int]]


def choice_items(world: World, encode: Encode, bos: int, eos: int, n: int, seed: int) -> dict[str, list[ChoiceItem]]:
    """Up to `n` items of each task type.

    - `facts`: "ada lives in ..." with four towns, jobs or books;
    - `sums`: "3 + 4 = ..." with four numbers;
    - `last sentence`: a story without its last sentence, of which the wrong ones contradict it in one word;
    - `whole story`: the first words of a story (day, hero) and all that follows, of which the wrong ones are inconsistent: a long
      candidate most of whose words are open, as in HellaSwag.

    Args:
        world: what is true.
        encode: text to token ids.
        bos: in front of each prompt.
        eos: behind each candidate.
        n: items per type, at most.
        seed: of everything drawn.
    """
    draw = random.Random(seed)
    makers = {"facts": _facts, "sums": _sums, "last sentence": _last_sentences, "whole story": _whole_stories}
    found = {}
    for name, make in makers.items():
        items = []
        for prompt, right, wrong in make(world, n, draw):
            candidates = draw.sample([right, *wrong], 4)
            ids = [[*encode(text), eos] for text in candidates]
            items.append(ChoiceItem([bos, *encode(prompt)], ids, candidates.index(right)))
        found[name] = items
    return found


def _facts(world: World, n: int, draw: random.Random) -> list[tuple[str, str, list[str]]]:
    listed = facts.all_facts(world.lexicon)
    found = []
    for fact in draw.sample(listed, min(n, len(listed))):
        pool = next(words for words in (lx.TOWNS, lx.JOBS, lx.BOOKS) if fact.answer in words)
        known = [word for word in pool if word != fact.answer and word in world.words]
        prompt = draw.choice(fact.statements()[:3]).removesuffix(f" {fact.answer} .")
        found.append((prompt, f"{fact.answer} .", [f"{word} ." for word in draw.sample(known, 3)]))
    return found


def _sums(world: World, n: int, draw: random.Random) -> list[tuple[str, str, list[str]]]:
    found = []
    for item in draw.sample(sums.all_sums(), min(n, 100)):
        near = [str(k) for k in range(19) if k != item.a + item.b and abs(k - item.a - item.b) <= 4]
        prompt = draw.choice(item.statements()).removesuffix(f" {item.answer} .")
        found.append((prompt, f"{item.answer} .", [f"{word} ." for word in draw.sample(near, 3)]))
    return found


def _last_sentences(world: World, n: int, draw: random.Random) -> list[tuple[str, str, list[str]]]:
    found = []
    for text, choices in _stories(world, n, draw):
        if apart := without_ending(text):
            head, right = apart
            found.append((head, right, contradictions(world, right, choices, draw)))
        if len(found) == n:
            break
    return found


def _whole_stories(world: World, n: int, draw: random.Random) -> list[tuple[str, str, list[str]]]:
    """The wrong candidates change the second mention of the object, its colour or the animal: nothing else tells them apart."""
    found = []
    for text, choices in _stories(world, n, draw):
        words = text.split()
        n_head = words.index(choices["hero"]) + 1
        wrong = []
        for slot in pools(world):
            places = [i for i, word in enumerate(words) if word == choices[slot] and i >= n_head]
            if len(places) > 1:
                other = another(world, slot, choices, draw)
                place = draw.choice(places[1:])
                wrong.append(" ".join([*words[n_head:place], other, *words[place + 1 :]]))
        if len(wrong) == 3:
            found.append((" ".join(words[:n_head]), " ".join(words[n_head:]), wrong))
        if len(found) == n:
            break
    return found


def _stories(world: World, n: int, draw: random.Random) -> list[tuple[str, dict[str, str]]]:
    found = []
    for document in world.documents("test", 8 * n + 40, seed=draw.randrange(2**31)):
        parsed = world.stories.parse(document.text)
        assert parsed is not None, "the world parses its own stories"
        found.append((document.text, parsed[1]))
    return found
