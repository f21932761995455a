"""mPLUG-Owl: give any language model eyes.

Importing this package registers the model, its config and its processor with transformers' Auto classes; nothing else
happens.
"""

from mplug_owl.conversation import Conversation, Message, Picture
from mplug_owl.model.abstractor import VisualAbstractor
from mplug_owl.model.config import MplugOwlConfig, MplugOwlVisionConfig, MplugOwlVisualAbstractorConfig
from mplug_owl.model.owl import MplugOwlForConditionalGeneration, MplugOwlModel
from mplug_owl.model.processor import MplugOwlProcessor

__all__ = [
    "Conversation",
    "Message",
    "MplugOwlConfig",
    "MplugOwlForConditionalGeneration",
    "MplugOwlModel",
    "MplugOwlProcessor",
    "MplugOwlVisionConfig",
    "MplugOwlVisualAbstractorConfig",
    "Picture",
    "VisualAbstractor",
]
