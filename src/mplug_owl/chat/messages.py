"""A conversation as the chat messages that other programs read: roles in turn, and content in parts."""

from collections.abc import Callable
from typing import Any

from mplug_owl.conversation import Conversation, ImageSource


def chat_messages(conversation: Conversation, picture: Callable[[ImageSource], dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation in transformers' and OpenAI's convention: `{"role": ..., "content": [parts]}`.

    The system sentence is the first message. What one side says in several messages becomes one, a line each, because most
    chat templates want roles in turn.

    Args:
        conversation: What was said.
        picture: The part that stands for a picture.

    Example:
        >>> talk = Conversation((), system=None).said("user", "Hello.").said("user", "Who are you?")
        >>> chat_messages(talk, picture=lambda source: {"type": "image", "image": source})
        [{'role': 'user', 'content': [{'type': 'text', 'text': 'Hello.\\nWho are you?'}]}]
    """
    messages: list[dict[str, Any]] = []
    if conversation.system:
        messages.append({"role": "system", "content": [_text(conversation.system)]})
    for message in conversation.messages:
        parts = [_text(part) if isinstance(part, str) else picture(part.source) for part in message.parts if part != ""]
        if messages and messages[-1]["role"] == message.role:
            before = messages[-1]["content"]
            if before and parts and before[-1]["type"] == parts[0]["type"] == "text":
                parts[0] = _text(f"{before.pop()['text']}\n{parts[0]['text']}")
            before += parts
        else:
            messages.append({"role": message.role, "content": parts})
    return messages


def _text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}
