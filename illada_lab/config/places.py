"""Where the YAML files lie, our own and somebody's, and which groups, choices and keys they make."""

import os
from pathlib import Path

from omegaconf import OmegaConf

from illada_lab.config.errors import ConfigError

OWN = "ILLADA_CONF"  # a variable of the environment, which reaches processes that a command starts


def conf_dir() -> Path:
    """Folder of the YAML files: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FileNotFoundError(f"conf = {package / 'conf'}; the configuration files are missing; install illada_lab again")


def own_conf_dirs() -> list[Path]:
    """Folders with YAML files of one's own, laid out as conf/ is: those that the environment variable ILLADA_CONF names, as PATH does.

    Raises:
        ConfigError: one is no folder, or has a file that conf/ or another of them has too, so that one would be passed over.
    """
    found = [Path(name).expanduser().resolve() for name in os.environ.get(OWN, "").split(os.pathsep) if name]
    seen = {path.relative_to(conf_dir()) for path in conf_dir().glob("*/*.yaml")}
    problems = []
    for folder in found:
        own = {path.relative_to(folder) for path in folder.glob("*/*.yaml")}
        if not own:
            problems.append(
                f"{OWN} = {folder}; has no files like scale/NAME.yaml or experiment/NAME.yaml; a folder laid out as conf/"
            )
        problems += [
            f"{OWN} = {folder}; {path} is there already; another name of the file" for path in sorted(own & seen)
        ]
        seen |= own
    if problems:
        raise ConfigError(problems)
    return found


def groups() -> dict[str, list[str]]:
    """Groups of configurations and the choices in each, one's own among them."""
    return {name: list(files) for name, files in group_files().items()}


def group_files() -> dict[str, dict[str, Path]]:
    """Groups of configurations and the file of each choice, by name."""
    found: dict[str, dict[str, Path]] = {}
    for place in (conf_dir(), *own_conf_dirs()):
        for folder in sorted(place.iterdir()):
            if folder.is_dir() and any(folder.glob("*.yaml")):
                found.setdefault(folder.name, {}).update({path.stem: path for path in folder.glob("*.yaml")})
    return {group: dict(sorted(files.items())) for group, files in sorted(found.items())}


def root_keys() -> set[str]:
    """First parts of all keys that there are: the root file's own, and the groups."""
    return {str(key) for key in OmegaConf.load(conf_dir() / "config.yaml")} | set(groups())
