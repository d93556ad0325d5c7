"""What a published layout is, and how fields of a config.json are read: nothing is guessed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from illada_lab.models.spec import ModelSpec
from illada_lab.tokens import SpecialTokens

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one family writes its checkpoints.

    Attributes:
        name: what `layout=` calls it.
        architecture: class name in `architectures`.
        model_type: its field in config.json.
        spec: config.json -> sizes.
        tokens: config.json -> special tokens.
        config: sizes and special tokens -> config.json.
        tensor_name: our name of a parameter -> theirs.
        flags: properties of a model that the family fixes: field of `ModelSpec` -> the value all its models have.
        has_bos: the published code puts BOS in front of a text, whatever the tokenizer says.
        has_eos: the published code puts EOS behind a candidate that it scores.
        code: hub repository and modules of the published classes, for `auto_map`; None: transformers' own.

    Source: facts of the released files: config.json, the index of the shards, and the remote code that reads them.
    """

    name: str
    architecture: str
    model_type: str
    spec: Callable[[Config], ModelSpec]
    tokens: Callable[[Config], SpecialTokens]
    config: Callable[[ModelSpec, SpecialTokens], dict[str, Any]]
    tensor_name: Callable[[str], str]
    flags: Mapping[str, bool] = field(default_factory=dict)
    has_bos: bool = False
    has_eos: bool = False
    code: "PublishedCode | None" = None

    def special_tokens(self, config: Config) -> SpecialTokens:
        """Those that a config.json names.

        Raises:
            ValueError: one is missing, or no id.
        """
        _check(config, IDS, int, "a whole number")
        return self.tokens(config)

    def refusal(self, spec: ModelSpec) -> str | None:
        """The first property of a model that this family has no place for, as "model.key = value"; None: it has one for all."""
        for name, value in self.flags.items():
            if getattr(spec, name) != value:
                return f"model.{name} = {str(not value).lower()}"
        return None


@dataclass(frozen=True, kw_only=True)
class PublishedCode:
    """Where the classes live that a family's config.json names, for `trust_remote_code`.

    Attributes:
        repository: hub id whose files hold them.
        config: module.Class of the configuration.
        model: module.Class of the model.
    """

    repository: str
    config: str
    model: str

    def auto_map(self) -> dict[str, str]:
        """The field as transformers writes it into what it saves: repository--module.Class, so that no file need be copied."""
        config, model = (f"{self.repository}--{name}" for name in (self.config, self.model))
        return {"AutoConfig": config, "AutoModel": model, "AutoModelForCausalLM": model}


# Fields of both families, by what they must be where they are given.
COUNTS = (
    *("d_model", "hidden_size", "n_heads", "num_attention_heads", "n_kv_heads", "num_key_value_heads", "head_dim"),
    *("n_layers", "num_hidden_layers", "vocab_size", "embedding_size", "mlp_hidden_size", "intermediate_size"),
    *("max_sequence_length", "max_position_embeddings"),
)
IDS = ("mask_token_id", "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "eot_token_id")
NUMBERS = ("rope_theta", "rms_norm_eps", "mlp_ratio", "init_std", "initializer_range")
FLAGS = ("weight_tying", "tie_word_embeddings")


def check_types(config: Config) -> None:
    """Raise ValueError for a size that is no whole number from 0, a number that is none, a flag that is neither true nor false."""

    _check(config, COUNTS, int, "a whole number")
    _check(config, NUMBERS, (int, float), "a number")
    _check(config, FLAGS, bool, "true or false")


def _check(config: Config, names: tuple[str, ...], kinds: type | tuple[type, ...], what: str) -> None:
    for name in names:
        value = config.get(name)
        # A flag is a whole number in Python.
        is_of = isinstance(value, kinds) and (kinds is bool or not isinstance(value, bool))
        if value is not None and not (is_of and (kinds is bool or value >= 0)):
            several = "; of several ends one, another as eot_token_id, or tokens=SpecialTokens(...)"
            raise ValueError(
                f"config.json: {name} = {value!r}; not what it must be; {what}{several if isinstance(value, list) else ''}"
            )


def required(config: Config, name: str) -> Any:
    """A field that must be there: the published classes' own defaults are those of another model.

    Raises:
        ValueError: it is missing or null.
    """
    if config.get(name) is None:
        raise ValueError(f"config.json: {name} = null; needed and never guessed; the value the model was trained with")
    return config[name]


def refuse(config: Config, **allowed: tuple[Any, ...]) -> None:
    """Raise ValueError if a field asks for what this model does not do; a field that is missing asks for nothing."""
    for name, values in allowed.items():
        if name in config and config[name] not in values:
            legal = " or ".join("null" if value is None else str(value) for value in values)
            raise ValueError(f"config.json: {name} = {config[name]!r}; not supported here; {legal}")
