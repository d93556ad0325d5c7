"""Synthetic languages whose every document has an exactly known probability."""

from illada_lab.data.worlds.instructions import Instruction
from illada_lab.data.worlds.source import WorldSource, world_of
from illada_lab.data.worlds.world import Document, World

__all__ = ["Document", "Instruction", "World", "WorldSource", "world_of"]
