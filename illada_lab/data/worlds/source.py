"""A world as a data source: documents for pre-training, conversations for fine-tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from illada_lab.data.worlds.instructions import INSTRUCTION_KINDS
from illada_lab.data.worlds.world import Document, World

if TYPE_CHECKING:
    import datasets

# Facts and sums are a quarter of the length of a story: most tokens are stories, most documents are not. Found by
# trial.
MIXTURE = {"story": 0.4, "fact": 0.3, "sum": 0.3}

# Whole numbers and the least that they can be.
LEAST = {"n_documents": 1, "n_validation": 1, "world_seed": 0, "seed": 0}


def world_of(source: Mapping[str, Any]) -> World:
    """The world of a source.

    Args:
        source: configuration of a `WorldSource`.
    """
    return World(seed=source["world_seed"], n_people=source["n_people"], **(source.get("sizes") or {}))


class WorldSource:
    """Documents or instructions of a world as `datasets.Dataset`s.

    Args:
        stage: "pretrain": columns text, kind, log_prob, log_prob_of_length (see `Document`); "sft": columns messages, kind, answer,
            choices.
        n_documents: size of the training split.
        n_validation: size of the validation and of the test split.
        mixture: share of each kind of document (pretrain).
        kinds: kinds of instructions, in equal parts (sft).
        world_seed: of the world.
        n_people: entities of the facts, 4 to 40.
        sizes: further sizes of the world, see `Lexicon.draw`; None: the usual ones.
        seed: of the draw of documents.

    Raises:
        ValueError: no such stage, or a size that cannot be.
    """

    def __init__(
        self,
        *,
        stage: str = "pretrain",
        n_documents: int,
        n_validation: int = 500,
        mixture: dict[str, float] | None = None,
        kinds: Sequence[str] = INSTRUCTION_KINDS,
        world_seed: int = 0,
        n_people: int = 24,
        sizes: dict[str, int] | None = None,
        seed: int = 0,
    ) -> None:
        told = {
            "stage": stage,
            "n_documents": n_documents,
            "n_validation": n_validation,
            "world_seed": world_seed,
            "seed": seed,
        }
        if problems := self.check_config(**told):
            raise ValueError("; ".join(problems))
        self.stage, self.n_documents, self.n_validation, self.seed = stage, n_documents, n_validation, seed
        self.mixture, self.kinds = dict(mixture or MIXTURE), tuple(kinds)
        self.world = World(seed=world_seed, n_people=n_people, **(sizes or {}))

    @staticmethod
    def check_config(**values: Any) -> list[str]:
        """Problems of a set of arguments, for `illada_lab.config.check`."""
        problems = [
            f"{name} = {values[name]}; out of range; {least} or more"
            for name, least in LEAST.items()
            if values.get(name) is not None and values[name] < least
        ]
        if (stage := values.get("stage", "pretrain")) not in ("pretrain", "sft"):
            problems.append(f"stage = {stage!r}; a world has two; pretrain or sft")
        return problems

    @property
    def words(self) -> list[str]:
        """Vocabulary for a word tokenizer."""
        return self.world.words

    def tokenizer_texts(self) -> list[str]:
        """Texts to train a tokenizer on, should one want another than words."""
        documents = self.world.documents("train", 10_000, mixture=self.mixture, seed=self.seed)
        return [document.text for document in documents]

    def load(self, split: str) -> "datasets.Dataset":
        """Draw one split."""
        import datasets

        n = self.n_documents if split == "train" else self.n_validation
        if self.stage == "pretrain":
            drawn = self.world.documents(split, n, mixture=self.mixture, seed=self.seed)
            columns = [field.name for field in fields(Document)]
            return datasets.Dataset.from_dict(
                {name: [getattr(document, name) for document in drawn] for name in columns}
            )
        items = self.world.instructions(split, n, kinds=self.kinds, seed=self.seed)
        return datasets.Dataset.from_dict(
            {
                "messages": [
                    [{"role": "user", "content": i.prompt}, {"role": "assistant", "content": i.response}] for i in items
                ],
                "kind": [i.kind for i in items],
                "answer": [i.answer for i in items],
                "choices": [list(i.choices) if i.choices else None for i in items],
            }
        )
