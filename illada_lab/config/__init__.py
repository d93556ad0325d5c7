"""From YAML to objects: compose, check, build. The only path between them, and where configuration errors come from."""

from illada_lab.config.building import build, build_all
from illada_lab.config.checking import check
from illada_lab.config.composition import compose, compose_and_check, quoted
from illada_lab.config.errors import ConfigError
from illada_lab.config.places import conf_dir, group_files, groups, root_keys
from illada_lab.config.tree import to_plain, walk

__all__ = [
    "ConfigError",
    "build",
    "build_all",
    "check",
    "compose",
    "compose_and_check",
    "conf_dir",
    "group_files",
    "groups",
    "quoted",
    "root_keys",
    "to_plain",
    "walk",
]
