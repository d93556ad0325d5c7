"""Prepared folders as a data source: one, several one after the other, or a mixture with weights."""

import hashlib
import sys
from collections.abc import Sequence
from functools import cached_property
from itertools import islice

from illada_lab.data.mixture import shares
from illada_lab.data.shards.layout import Manifest
from illada_lab.data.shards.read import Folder, Place, Split, damages
from illada_lab.data.tokenizer import Tokenizer
from illada_lab.processes import share_of_machine


class ShardSource:
    """Documents that `illada-lab prepare` turned into tokens.

    Args:
        path: a prepared folder, or several.
        weights: share of each folder among the rows of a batch, in any unit; a folder that is used up begins again. None: every row of
            all folders once an epoch, validated folder by folder in proportion to their training tokens.
        skip_damaged: train without shards that are truncated, changed or missing, and say so, instead of stopping.
        is_hashed: compare every file with its checksum when the source is opened: about a second per gigabyte and core, divided among the
            processes of each machine, which may have a copy of its own (with `skip_damaged` every process reads them all). Sizes are
            compared always.

    Attributes:
        skipped: what is wrong with each shard that was left out.

    Raises:
        ValueError: weights that are not one per folder.

    Source: our choice.
    """

    def __init__(
        self,
        *,
        path: str | list[str],
        weights: list[float | int] | None = None,
        skip_damaged: bool = False,
        is_hashed: bool = True,
    ) -> None:
        self.paths = [path] if isinstance(path, str) else list(path)
        if not self.paths:
            raise ValueError("data.path = []; nothing to train on; a prepared folder, or a list of them")
        self.weights = weights
        if weights is not None:
            shares(weights, len(self.paths))
        self.skip_damaged, self.is_hashed = skip_damaged, is_hashed
        self.skipped: list[str] = []
        self._parts: dict[str, list[Split]] = {}

    @cached_property
    def folders(self) -> list[Folder]:
        """The folders.

        Raises:
            FileNotFoundError, ValueError: see `Folder.open`; or folders whose tokens do not mean the same.
        """
        found = [Folder.open(path) for path in self.paths]
        # Only conversations depend on how conversations are written, so that is asked of them alone.
        first = next((folder for folder in found if _has_conversations(folder)), found[0])
        for folder in found:
            pair = first.tokenizer, folder.tokenizer
            for name, a, b in (
                ("tokenizer", True, _same_tokens(*pair, is_chat=False)),
                ("chat template", True, _same_tokens(*pair, is_chat=_has_conversations(folder))),
                ("BOS and EOS", ends_of(first.manifest), ends_of(folder.manifest)),
            ):
                if a != b:
                    raise ValueError(
                        f"data.path = {folder.path}; prepared with another {name} than {first.path}; "
                        "prepare both alike (init_from=... takes a model's tokenizer)"
                    )
        return found

    @property
    def tokenizer(self) -> Tokenizer:
        """What the tokens mean, that of conversations where there are some."""
        return next((folder for folder in self.folders if _has_conversations(folder)), self.folders[0]).tokenizer

    @property
    def has_conversations(self) -> bool:
        """Whether some of the documents are conversations."""
        return any(map(_has_conversations, self.folders))

    def written_with(self, tokenizer: Tokenizer) -> Tokenizer:
        """A model's tokenizer with the chat template of these conversations, which a model tuned on them learns; of text as it is."""
        template = self.tokenizer.chat_template
        if not self.has_conversations or template == tokenizer.chat_template:
            return tokenizer
        if tokenizer.chat_template is not None:
            print(
                f"data.path = {self.paths[0]}; its conversations have another chat template than the model's, which learns theirs",
                file=sys.stderr,
            )
        return tokenizer.with_chat_template(template)

    def check(self, tokenizer: Tokenizer, *, adds_bos: bool, adds_eos: bool, max_extra_eos: int = 0) -> None:
        """Refuse what does not fit the tokens.

        Args:
            tokenizer: that the model reads them with.
            adds_bos, adds_eos, max_extra_eos: see `DataModule`.

        Raises:
            ValueError: another tokenizer (a checkpoint's), or settings of BOS and EOS that are not those of the preparation.
        """
        if not _same_tokens(tokenizer, self.tokenizer, is_chat=self.has_conversations):
            what = "chat template" if _same_tokens(tokenizer, self.tokenizer, is_chat=False) else "tokenizer"
            raise ValueError(
                f"data.path = {self.paths[0]}; prepared with another {what} than the model's; "
                "prepare it with init_from=<the model's run>"
            )
        wanted = {"adds_bos": adds_bos, "adds_eos": adds_eos, "max_extra_eos": max_extra_eos}
        for (key, given), right in zip(wanted.items(), ends_of(self.folders[0].manifest), strict=True):
            if given != right:
                raise ValueError(
                    f"data.{key} = {str(given).lower()}; {self.paths[0]} was prepared with {str(right).lower()}; "
                    f"data.{key}={str(right).lower()}"
                )

    @property
    def names(self) -> list[str]:
        """What to call each folder: its last name, or its whole path where two have the same."""
        short = [folder.path.name for folder in self.folders]
        return short if len(set(short)) == len(short) else self.paths

    def load(self, split: str) -> Split:
        """All documents of a split, folder by folder. The test split is the validation split.

        Raises:
            ValueError: names a damaged shard, unless these are skipped; or nothing is left.
        """
        return Split([place for part in self.parts(split) for place in part.places])

    def parts(self, split: str) -> list[Split]:
        """The documents of each folder (see `load`)."""
        name = "train" if split == "train" else "validation"
        if name not in self._parts:
            folders = [folder.split(name) for folder in self.folders]
            found = iter(self._damages([place for places in folders for place in places]))
            self._parts[name] = [Split(self._sound(places, list(islice(found, len(places))))) for places in folders]
        return self._parts[name]

    def fingerprint(self) -> str:
        """Names the training data as it is used: the shards in their order, and the weights."""
        sums = [[place.shard.files["tokens"].sha256 for place in part.places] for part in self.parts("train")]
        return hashlib.sha256(repr((sums, self.weights)).encode()).hexdigest()

    def _damages(self, places: Sequence[Place]) -> list[str | None]:
        """What is wrong with each shard of all folders: counted over all, many small folders are divided among processes too."""
        # Each process reads a share of them for all; where damaged ones are left out, each has to find the same.
        share = (0, 1) if self.skip_damaged else share_of_machine()
        return damages(places, share if self.is_hashed else None)

    def _sound(self, places: Sequence[Place], found: Sequence[str | None]) -> list[Place]:
        """The shards of a folder that are as they were written, by what was found of each."""
        left, bad = [], {}
        for place, why in zip(places, found, strict=True):
            if why is None:
                left.append(place)
            elif self.skip_damaged:
                bad[why] = place.shard.n_tokens
            else:
                raise ValueError(f"{why}; prepare the data again, or data.skip_damaged=true leaves the shard out")
        if bad:
            total = sum(place.shard.n_tokens for place in places)
            self.skipped += bad
            print(
                f"data: {len(bad)} of {len(places)} shards skipped, {sum(bad.values()):,} of {total:,} tokens: {', '.join(bad)}",
                file=sys.stderr,
            )
        if not left:
            raise ValueError(f"data.path = {', '.join(self.paths)}; no sound shard is left; prepare the data again")
        return left


def _has_conversations(folder: Folder) -> bool:
    return any("prompt" in shard.files for shards in folder.manifest.splits.values() for shard in shards)


def _same_tokens(a: Tokenizer, b: Tokenizer, *, is_chat: bool) -> bool:
    """Whether two tokenizers give the same tokens, of conversations or of text, which no chat template changes."""
    pair = (a, b) if is_chat else (a.with_chat_template(None), b.with_chat_template(None))
    return pair[0].to_dict() == pair[1].to_dict()


def ends_of(manifest: Manifest) -> tuple[bool, bool, int]:
    """Whether documents of a folder have BOS in front and EOS behind, and how many further EOS at most."""
    settings = manifest.settings
    return bool(settings["adds_bos"]), bool(settings["adds_eos"]), int(settings["max_extra_eos"])
