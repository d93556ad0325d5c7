"""Multiple choices made from a world: statements with four endings, stories with four last sentences."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from illada_lab.data.worlds import World
from illada_lab.data.worlds import lexicon as lx
from illada_lab.evaluation.choice import ChoiceItem
from illada_lab.tokens import SpecialTokens


@dataclass(frozen=True)
class Frame:
    """What stands around a text of a model, as around the documents that it was trained on.

    Attributes:
        tokens: the model's.
        has_bos: see `SpecialTokens.opened`.
        has_eos: EOS stands behind.
    """

    tokens: SpecialTokens
    has_bos: bool | None = True
    has_eos: bool = True

    def front(self, ids: Sequence[int]) -> list[int]:
        """The ids of a text behind what stands in front of it."""
        return self.tokens.opened(ids, self.has_bos)

    def behind(self, ids: Sequence[int]) -> list[int]:
        """The ids of a text in front of what stands behind it."""
        return [*ids, self.tokens.eos] if self.has_eos else list(ids)


def fact_choice(text: str, answer: str, world: World, draw: random.Random, encode: Any, frame: Frame) -> ChoiceItem:
    """A statement with four endings of the same type."""
    books = tuple(person.book for person in world.lexicon.people)
    pool = next(words for words in (lx.TOWNS, lx.JOBS, books) if answer in words)
    candidates = [answer, *draw.sample([word for word in pool if word != answer], 3)]
    draw.shuffle(candidates)
    return ChoiceItem(
        prompt=frame.front(encode(text.removesuffix(f" {answer} ."))),
        candidates=[frame.behind(encode(f"{word} .")) for word in candidates],
        answer=candidates.index(answer),
    )


def without_ending(story: str) -> tuple[str, str] | None:
    """A story in which something is given away, and its last sentence apart: "now the fox has a red kite ."; None: it has no such end."""
    head, now, ending = story.partition(" now ")
    return (head, f"now {ending}") if now and ending.count(" .") == 1 else None


def pools(world: World) -> dict[str, tuple[str, ...]]:
    """What a story says twice, and the words it is chosen from."""
    return {"animal": world.lexicon.animals, "colour": world.lexicon.colours, "object": world.lexicon.objects}


def another(world: World, slot: str, choices: dict[str, str], draw: random.Random) -> str:
    """A word that a story might have chosen and has not."""
    return draw.choice([word for word in pools(world)[slot] if word != choices[slot]])


def contradictions(world: World, ending: str, choices: dict[str, str], draw: random.Random) -> list[str]:
    """Endings that contradict the story in one word each, of those that it says."""
    return [
        ending.replace(f" {choices[slot]} ", f" {another(world, slot, choices, draw)} ")
        for slot in pools(world)
        if f" {choices[slot]} " in ending
    ]


def ending_choices(world: World, n: int, draw: random.Random, encode: Any, frame: Frame) -> list[ChoiceItem]:
    """Stories without their last sentence, and three endings that contradict the story in one word each."""
    items: list[ChoiceItem] = []
    for document in world.documents("test", 20 * n, seed=1):
        parsed = world.stories.parse(document.text)
        assert parsed is not None, "the world parses its own stories"
        apart = without_ending(document.text)
        if apart is None or len(items) == n:
            continue
        head, ending = apart
        endings = [ending, *contradictions(world, ending, parsed[1], draw)]
        assert len(endings) == 4, "the last sentence names animal, colour and object"
        order = draw.sample(range(4), 4)
        items.append(
            ChoiceItem(
                prompt=frame.front(encode(head)),
                candidates=[frame.behind(encode(endings[i])) for i in order],
                answer=order.index(0),
            )
        )
    return items
