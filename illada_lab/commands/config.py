"""`illada-lab config`: the composed configuration, and the size of its model."""

from omegaconf import DictConfig, OmegaConf

from illada_lab.planner.size import model_spec


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
