"""A drawn world, small enough to be learned in minutes, rich enough for OwlEval's six abilities, and never downloaded."""

from mplug_owl.scenes.exam import ABILITIES, Item, exam
from mplug_owl.scenes.lessons import Lessons, asked, write
from mplug_owl.scenes.scene import SPLITS, Scene, scene, scenes

__all__ = ["ABILITIES", "SPLITS", "Item", "Lessons", "Scene", "asked", "exam", "scene", "scenes", "write"]
