"""Multiple choices made from a world: statements with four endings, stories with four last sentences."""

import random
from typing import Any

from illada_lab.data.worlds import World
from illada_lab.data.worlds import lexicon as lx
from illada_lab.evaluation.choice import ChoiceItem


def fact_choice(
    text: str, answer: str, world: World, draw: random.Random, encode: Any, bos: int, eos: int
) -> ChoiceItem:
    """A statement with four endings of the same type."""
    books = tuple(person.book for person in world.lexicon.people)
    pool = next(words for words in (lx.TOWNS, lx.JOBS, books) if answer in words)
    candidates = [answer, *draw.sample([word for word in pool if word != answer], 3)]
    draw.shuffle(candidates)
    return ChoiceItem(
        prompt=[bos, *encode(text.removesuffix(f" {answer} ."))],
        candidates=[[*encode(f"{word} ."), eos] for word in candidates],
        answer=candidates.index(answer),
    )


def ending_choices(world: World, n: int, draw: random.Random, encode: Any, bos: int, eos: int) -> list[ChoiceItem]:
    """Stories in which something is given away, without their last sentence ("now the fox has a red kite ."), and three endings that
    contradict the story in one word each."""
    items: list[ChoiceItem] = []
    lexicon = world.lexicon
    pools = {"animal": lexicon.animals, "colour": lexicon.colours, "object": lexicon.objects}
    for document in world.documents("test", 20 * n, seed=1):
        parsed = world.stories.parse(document.text)
        assert parsed is not None, "the world parses its own stories"
        choices = parsed[1]
        head, now, ending = document.text.partition(" now ")
        if not now or ending.count(" .") != 1 or len(items) == n:
            continue
        endings = [now.strip() + " " + ending]
        for slot, words in pools.items():
            other = draw.choice([word for word in words if word != choices[slot]])
            endings.append(endings[0].replace(f" {choices[slot]} ", f" {other} "))
        order = draw.sample(range(4), 4)
        items.append(
            ChoiceItem(
                prompt=[bos, *encode(head)],
                candidates=[[*encode(endings[i]), eos] for i in order],
                answer=order.index(0),
            )
        )
    return items
