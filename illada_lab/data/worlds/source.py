"""A world as a data source: documents for pre-training, conversations for fine-tuning."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from illada_lab.data.worlds.world import INSTRUCTION_KINDS, Split, World

if TYPE_CHECKING:
    import datasets

# Validation and test sets need a few hundred documents to measure to about 1 %.
MIXTURE = {"story": 0.6, "fact": 0.2, "sum": 0.2}


class WorldSource:
    """Documents or instructions of a world as `datasets.Dataset`s.

    Args:
        stage: "pretrain": columns text, kind, log_prob (nats, given the length); "sft": columns messages, kind, answer.
        n_documents: size of the training split.
        n_validation: size of the validation and of the test split.
        mixture: share of each kind of document (pretrain).
        kinds: kinds of instructions, in equal parts (sft).
        world_seed: of the world.
        n_people: entities of the facts.
        seed: of the draw of documents.
    """

    def __init__(
        self,
        *,
        stage: Literal["pretrain", "sft"] = "pretrain",
        n_documents: int,
        n_validation: int = 500,
        mixture: dict[str, float] | None = None,
        kinds: tuple[str, ...] | list[str] = INSTRUCTION_KINDS,
        world_seed: int = 0,
        n_people: int = 40,
        seed: int = 0,
    ) -> None:
        if stage not in ("pretrain", "sft"):
            raise ValueError(f"stage = {stage!r}; a world has two; pretrain or sft")
        self.stage, self.n_documents, self.n_validation, self.seed = stage, n_documents, n_validation, seed
        self.mixture, self.kinds = dict(mixture or MIXTURE), tuple(kinds)
        self.world = World(seed=world_seed, n_people=n_people)

    @property
    def words(self) -> list[str]:
        """Vocabulary for a word tokenizer."""
        return self.world.words

    def load(self, split: Split) -> "datasets.Dataset":
        """Draw one split."""
        import datasets

        n = self.n_documents if split == "train" else self.n_validation
        if self.stage == "pretrain":
            drawn = self.world.documents(split, n, mixture=self.mixture, seed=self.seed)
            return datasets.Dataset.from_list([asdict(document) for document in drawn])
        items = self.world.instructions(split, n, kinds=self.kinds, seed=self.seed)
        return datasets.Dataset.from_list(
            [
                {
                    "messages": [{"role": "user", "content": i.prompt}, {"role": "assistant", "content": i.response}],
                    "kind": i.kind,
                    "answer": i.answer,
                }
                for i in items
            ]
        )
