"""Talking with a model: a conversation goes in, words stream out.

chat = Chat(load("runs/tiny.instruct"))
print(chat.ask("What is in the picture?", images=["photo.jpg"]))
"""

from mplug_owl.chat.address import Endpoint
from mplug_owl.chat.chat import Chat
from mplug_owl.chat.endpoint import EndpointChatModel
from mplug_owl.chat.huggingface import HuggingFaceChatModel
from mplug_owl.chat.names import find
from mplug_owl.chat.owl import OwlChatModel
from mplug_owl.chat.protocol import AnswersArrive, ChatModel, Decoding, arriving
from mplug_owl.model.load import load

__all__ = [
    "AnswersArrive",
    "Chat",
    "ChatModel",
    "Decoding",
    "Endpoint",
    "EndpointChatModel",
    "HuggingFaceChatModel",
    "OwlChatModel",
    "arriving",
    "find",
    "load",
]
