"""A drawn world, small enough to be learned in minutes, rich enough for OwlEval's six abilities, and never downloaded."""

from mplug_owl.scenes.abilities import ABILITIES, Item, exam
from mplug_owl.scenes.lessons import Lessons, questions_about, write
from mplug_owl.scenes.world import SPLITS, Scene, scene, scenes

__all__ = ["ABILITIES", "SPLITS", "Item", "Lessons", "Scene", "exam", "questions_about", "scene", "scenes", "write"]
