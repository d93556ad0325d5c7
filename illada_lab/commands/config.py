"""`illada-lab config`: the composed configuration and the size of its model, or the files of a group with what their settings mean."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from illada_lab.planner.size import model_spec


def show_files(words: Sequence[str]) -> int | None:
    """Print a group's choices (`sampler`), or the file of one as it was written (`sampler/fast`).

    Returns:
        0, or None where the words are settings.

    Raises:
        ValueError: no such group or choice.
    """
    if len(words) != 1 or "=" in words[0] or words[0].startswith("~"):
        return None
    from illada_lab.config import group_files

    group, _, choice = words[0].removesuffix(".yaml").removeprefix("conf/").partition("/")
    files = group_files()
    if group not in files:
        raise ValueError(f"{words[0]}; no group of settings; one of {', '.join(files)}, or key=value")
    if choice:
        if choice not in files[group]:
            raise ValueError(f"{words[0]}; no such file in conf/{group}; one of {', '.join(files[group])}")
        print(files[group][choice].read_text(encoding="utf-8"), end="")
        return 0
    for name, path in files[group].items():
        lines = path.read_text(encoding="utf-8").splitlines()
        told = next((line for line in lines if line.startswith("#") and "@package" not in line), "")
        print(f"{group}={name}: {told.lstrip('# ')}")
    print(f"illada-lab config {group}/{next(iter(files[group]))} shows a file with what its settings mean")
    return 0


def run(config: DictConfig) -> int:
    """Print the configuration as YAML and, last, the exact number of parameters."""
    print(OmegaConf.to_yaml(config, resolve=False), end="")
    try:
        spec = model_spec(config)
    except ValueError as error:  # a tokenizer that only a network reaches: the configuration is good without it
        print(f"parameters: {error}")
        return 0
    print(f"parameters: {spec.n_parameters:,} (non-embedding {spec.n_non_embedding_parameters:,})")
    return 0
