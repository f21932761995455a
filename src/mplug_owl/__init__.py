"""mPLUG-Owl: give any language model eyes.

Importing this package takes a moment and imports neither torch nor transformers. Every public name is imported when it is
first used. transformers' Auto classes know the model, its config and its processor as soon as somebody imports them.

Example:
    >>> from mplug_owl import Chat, load
    >>> from mplug_owl.scenes import scene
    >>> Chat(load("owl-tiny")).ask("How many things are there?", images=[scene(1).draw()])  # doctest: +SKIP
    '1'
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mplug_owl.conversation import Conversation, Message, Picture
from mplug_owl.errors import BadSample, UserError
from mplug_owl.registration import register

if TYPE_CHECKING:
    from mplug_owl.chat import Chat, ChatModel, Decoding, OwlChatModel
    from mplug_owl.data.encode import Encoding
    from mplug_owl.data.sources import read
    from mplug_owl.eval.grade import evaluate
    from mplug_owl.model.abstractor import VisualAbstractor
    from mplug_owl.model.build import Modules
    from mplug_owl.model.config import MplugOwlConfig, MplugOwlVisionConfig, MplugOwlVisualAbstractorConfig
    from mplug_owl.model.load import Owl, load
    from mplug_owl.model.owl import MplugOwlForConditionalGeneration, MplugOwlModel
    from mplug_owl.model.processor import MplugOwlProcessor
    from mplug_owl.train.recipe import LoRA, Optimizer, Recipe, Schedule, Trainable
    from mplug_owl.train.run import train

# Where the names are that are imported when they are used. `train` is its room, which can be called.
_LAZY = {
    "Chat": "mplug_owl.chat",
    "ChatModel": "mplug_owl.chat",
    "Decoding": "mplug_owl.chat",
    "Encoding": "mplug_owl.data.encode",
    "LoRA": "mplug_owl.train.recipe",
    "Modules": "mplug_owl.model.build",
    "MplugOwlConfig": "mplug_owl.model.config",
    "MplugOwlForConditionalGeneration": "mplug_owl.model.owl",
    "MplugOwlModel": "mplug_owl.model.owl",
    "MplugOwlProcessor": "mplug_owl.model.processor",
    "MplugOwlVisionConfig": "mplug_owl.model.config",
    "MplugOwlVisualAbstractorConfig": "mplug_owl.model.config",
    "Optimizer": "mplug_owl.train.recipe",
    "Owl": "mplug_owl.model.load",
    "OwlChatModel": "mplug_owl.chat",
    "Recipe": "mplug_owl.train.recipe",
    "Schedule": "mplug_owl.train.recipe",
    "Trainable": "mplug_owl.train.recipe",
    "VisualAbstractor": "mplug_owl.model.abstractor",
    "evaluate": "mplug_owl.eval.grade",
    "load": "mplug_owl.model.load",
    "read": "mplug_owl.data.sources",
}

__all__ = [
    "BadSample",
    "Chat",
    "ChatModel",
    "Conversation",
    "Decoding",
    "Encoding",
    "LoRA",
    "Message",
    "Modules",
    "MplugOwlConfig",
    "MplugOwlForConditionalGeneration",
    "MplugOwlModel",
    "MplugOwlProcessor",
    "MplugOwlVisionConfig",
    "MplugOwlVisualAbstractorConfig",
    "Optimizer",
    "Owl",
    "OwlChatModel",
    "Picture",
    "Recipe",
    "Schedule",
    "Trainable",
    "UserError",
    "VisualAbstractor",
    "evaluate",
    "load",
    "read",
    "train",
]


def __getattr__(name: str) -> object:
    if name == "train":
        return import_module("mplug_owl.train")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_LAZY[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
