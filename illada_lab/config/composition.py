"""From YAML files and overrides to one tree."""

import re
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from illada_lab.config.checking import check
from illada_lab.config.errors import ConfigError, first_line
from illada_lab.config.explain import explain
from illada_lab.config.places import conf_dir, groups, own_conf_dirs


def quoted(text: str) -> str:
    """Text as a value of an override, whatever signs are in it: what people write is not Hydra's grammar."""
    # In Hydra's quotes backslashes count before a quote only; "${" would be a reference.
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", "\\'").replace("${", "\\${")
    return f"'{escaped}'"


def compose(overrides: Sequence[str] = (), *, config_name: str = "config") -> DictConfig:
    """Compose a configuration.

    Args:
        overrides: as on the command line: "scale=toy", "model.n_layers=4".
        config_name: root file.

    Returns:
        The composed tree, not checked and not built.

    Raises:
        ConfigError: unknown keys, groups or choices, all of them, with the nearest that exist; its `usable` is the
            tree without them.
    """
    from hydra import compose as compose_of_hydra
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    # Hydra cannot choose nothing, though config.yaml says so by `experiment: null`: leave such a choice out.
    overrides, nothing = _settled(overrides, _choices_of_nothing(config_name))
    places = [quoted(f"file://{path}") for path in own_conf_dirs()]
    search = [f"hydra.searchpath=[{','.join(places)}]"] if places else []

    def hydra_compose(name: str, *, overrides: Sequence[str]) -> DictConfig:
        return compose_of_hydra(name, overrides=[*search, *overrides])

    if GlobalHydra.instance().is_initialized():
        GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            tree = hydra_compose(config_name, overrides=overrides)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            # Hydra stops at the first problem. So each override alone on top of those that work; choices of groups
            # first, since they decide which keys there are.
            problems: dict[str, str] = {}
            good: list[str] = []
            for override in sorted(overrides, key=lambda o: not _is_choice(o)):
                try:
                    hydra_compose(config_name, overrides=[*good, override])
                    good.append(override)
                except (HydraException, OmegaConfBaseException, ValueError) as single:
                    problems[override] = explain(override, single, hydra_compose(config_name, overrides=good))
            lines = [problems[override] for override in overrides if override in problems]
            usable = hydra_compose(config_name, overrides=good)
            raise ConfigError(lines or [first_line(error)], usable) from error
    stays = [key for key in nothing if OmegaConf.select(tree, key) is not None]
    if stays:
        raise ConfigError([f"{key} = null; {_whose(overrides)} brings one; a choice without it" for key in stays], tree)
    return tree


def compose_and_check(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose and check; problems of both kinds come out together.

    Raises:
        ConfigError: see `compose` and `check`.
    """
    problems: list[str] = []
    try:
        tree = compose(overrides)
    except ConfigError as error:
        problems, tree = error.problems, error.usable
    try:
        if tree is not None:
            check(tree)
    except ConfigError as error:
        # A value that must be given may be what a refused override meant to give.
        problems += [line for line in error.problems if not problems or " = ???" not in line]
    if problems:
        raise ConfigError(problems)
    assert tree is not None, "compose returned nothing and raised nothing"
    return tree


def _choices_of_nothing(config_name: str) -> set[str]:
    """Overrides that say what the root file says already: no choice in this group."""
    defaults = OmegaConf.load(conf_dir() / f"{config_name}.yaml")["defaults"]  # type: ignore[index]
    return {f"{key}=null" for entry in defaults if not isinstance(entry, str) for key in entry if entry[key] is None}


def _settled(overrides: Sequence[str], nothings: set[str]) -> tuple[list[str], list[str]]:
    """Overrides without choices of nothing and without what these take back, and the groups of which nothing is the last word."""
    last = {override.partition("=")[0]: override for override in overrides}
    nothing = [key for key, override in last.items() if override in nothings]
    kept = [o for o in overrides if o not in nothings and o.partition("=")[0] not in nothing]
    return kept, nothing


def _whose(overrides: Sequence[str]) -> str:
    """The choices that may have brought a group with them."""
    return (
        " or ".join(o for o in overrides if o.partition("=")[0] in ("experiment", "study", "scale", "data"))
        or "the configuration"
    )


def _is_choice(override: str) -> bool:
    return override.lstrip("+~").partition("=")[0].partition("@")[0] in groups()
