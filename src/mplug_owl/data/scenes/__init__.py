"""A drawn world, small enough to be learned in minutes and rich enough for OwlEval's six abilities; nothing of it is downloaded."""

from mplug_owl.data.scenes.exam import ABILITIES, Item, exam
from mplug_owl.data.scenes.lessons import Lessons, write
from mplug_owl.data.scenes.scene import SPLITS, Scene, scene, scenes

__all__ = ["ABILITIES", "SPLITS", "Item", "Lessons", "Scene", "exam", "scene", "scenes", "write"]
