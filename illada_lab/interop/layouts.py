"""The layouts that can be read and written, by name."""

from illada_lab.interop.illada import ILLADA_LAYOUT
from illada_lab.interop.layout import Config, Layout, check_types
from illada_lab.interop.llada import LLADA_LAYOUT
from illada_lab.interop.plain import LLAMA_LAYOUT, QWEN3_LAYOUT

LAYOUTS = {layout.name: layout for layout in (ILLADA_LAYOUT, LLADA_LAYOUT, LLAMA_LAYOUT, QWEN3_LAYOUT)}


def find_layout(config: Config) -> Layout:
    """The layout a config.json is of; by `architectures`, because two families call themselves model_type "llada".

    Raises:
        ValueError: another family, or a field of the wrong type.
    """
    check_types(config)
    names = config.get("architectures") or []
    for layout in LAYOUTS.values():
        if layout.architecture in names or (not names and config.get("model_type") == layout.model_type):
            return layout
    known = ", ".join(layout.architecture for layout in LAYOUTS.values())
    raise ValueError(
        f"config.json: architectures = {list(names)}, model_type = {config.get('model_type')!r}; a model of another family; {known}"
    )


def choose_layout(name: str) -> Layout:
    """The layout of a name.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in LAYOUTS:
        raise ValueError(f"layout = {name!r}; not a published one; {' or '.join(LAYOUTS)}")
    return LAYOUTS[name]
