"""Special tokens: the only place in the package where a token id may stand."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Ids of the tokens that mean something to a model, not to a reader.

    A model and its special tokens travel together: masking with another model's [MASK] id is a wrong-model error that
    no shape check can find, so every predictor carries its own.

    Args:
        mask: id of [MASK], the absorbing state of the forward process.
        eos: id that ends a document or an answer.
        bos: id in front of a document, or None.
        pad: id that fills positions nobody attends to, or None (then `eos` fills them, see `filler`).
        unk: id of an unknown word, or None.
        eot: id that ends a turn where that is not `eos`, or None.

    Raises:
        ValueError: an id is negative or not a whole number, or two roles that must differ share one id.
    """

    mask: int
    eos: int
    bos: int | None = None
    pad: int | None = None
    unk: int | None = None
    eot: int | None = None

    def __post_init__(self) -> None:
        for role, token in self.to_dict().items():
            if token is not None and (isinstance(token, bool) or not isinstance(token, int) or token < 0):
                raise ValueError(f"tokens.{role} = {token!r}; a token id is a whole number; 0 or more, or null")
        for role in ("eos", "bos", "pad", "unk", "eot"):
            if getattr(self, role) == self.mask:
                raise ValueError(
                    f"tokens.mask = {self.mask}; the same id is {role}, so a masked position could not be told from it; "
                    "pass an id of its own"
                )

    @property
    def anchor(self) -> int | None:
        """Id that is given, never predicted: BOS; None where BOS is EOS as well (GPT-2's tokenizer), which has to be learnt."""
        return None if self.bos == self.eos else self.bos

    def opened(self, ids: Sequence[int], has_bos: bool | None) -> list[int]:
        """Ids of a text behind what stands in front of it: BOS where documents have one, otherwise the EOS of the one before.

        Args:
            ids: of the text.
            has_bos: whether the model was trained on documents with BOS (of a run: `has_bos_of`); None: nothing stands in front, but of no
                text BOS, because a predictor needs a token to look at.
        """
        if ids and has_bos is None:
            return list(ids)
        return [self.eos if has_bos is False or self.bos is None else self.bos, *ids]

    @property
    def filler(self) -> int:
        """Id for positions outside of every segment: `pad`, or `eos` where a model has none (LLaDA's pad is its EOS)."""
        return self.eos if self.pad is None else self.pad

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: `eos`, and `eot` where there is one."""
        return (self.eos,) if self.eot is None else (self.eos, self.eot)

    def check(self, vocab_size: int) -> None:
        """Raise ValueError if an id lies outside of a vocabulary of `vocab_size` tokens."""
        for role, token in self.to_dict().items():
            if token is not None and token >= vocab_size:
                raise ValueError(f"tokens.{role} = {token}; outside of the vocabulary; 0 to {vocab_size - 1}")

    def to_dict(self) -> dict[str, int | None]:
        """Plain data, as checkpoints and manifests store it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, int | None]) -> "SpecialTokens":
        """Inverse of `to_dict`.

        Raises:
            ValueError: a role is unknown, or `mask` or `eos` is missing.
        """
        known = set(cls.__dataclass_fields__)
        if unknown := sorted(set(values) - known):
            raise ValueError(f"tokens = {unknown}; not a role of a special token; {', '.join(sorted(known))}")
        if missing := [role for role in ("mask", "eos") if values.get(role) is None]:
            raise ValueError(f"tokens.{missing[0]} = null; a masked diffusion model needs it; a token id")
        return cls(**values)  # type: ignore[arg-type]


def has_bos_of(data: Mapping[str, Any]) -> bool | None:
    """What stands in front of a text of a model, for `SpecialTokens.opened`: BOS, the EOS of the document before, or nothing (None).

    Args:
        data: of the configuration of its run. Trained on documents with neither, it has never seen one of them in front of a text.
    """
    has_bos = data.get("adds_bos", False)
    return has_bos if has_bos or has_eos_of(data) else None


def has_eos_of(data: Mapping[str, Any]) -> bool:
    """Whether EOS stands behind a text of a model.

    Args:
        data: of the configuration of its run; EOS stood behind the documents of one that does not name `adds_eos`, as in `DataModule`.
    """
    return bool(data.get("adds_eos", True))


# iLLaDA-8B: neither its config nor its tokenizer names [MASK] (paper's README: "set mask_id=5").
# Our own tokenizers use the same ids, so that toy and released models differ in nothing but size.
ILLADA = SpecialTokens(bos=0, pad=1, eos=2, unk=3, mask=5)

# LLaDA-8B: <|startoftext|>, <|endoftext|> (EOS and padding), <|mdm_mask|>, <|eot_id|>.
LLADA = SpecialTokens(bos=126080, pad=126081, eos=126081, mask=126336, eot=126348)

# Roles of a chat turn in our own tokenizers: ids that nothing known of iLLaDA's tokenizer names.
USER, ASSISTANT = 4, 6

# What our own tokenizers show for their first ids, in order.
OWN_SPECIAL_TEXT = ("<bos>", "<pad>", "<eos>", "<unk>", "<user>", "<mask>", "<assistant>")
