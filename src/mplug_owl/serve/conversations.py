"""Requests' messages to conversations, by the rules that `owl chat` talks by."""

from collections.abc import Sequence

from mplug_owl.conversation import Conversation
from mplug_owl.serve.kept import KnownPicture
from mplug_owl.serve.protocol import ChatMessage, ChatRequest, PicturePart, RequestError, TextPart


def picture_urls(request: ChatRequest, most: int) -> list[str]:
    """Where the pictures of a request are, in reading order.

    Raises:
        RequestError: There are more than `most`, or one that the user did not send.
    """
    urls = []
    for index, message in enumerate(request.messages):
        found = [part.image_url.url for part in message.parts if isinstance(part, PicturePart)]
        if found and message.role != "user":
            raise RequestError(400, "pictures belong to the user's messages", f"messages.{index}.content")
        urls += found
    if len(urls) > most:
        raise RequestError(413, f"{len(urls)} pictures in one request; at most {most} are read", "messages")
    return urls


def conversation(request: ChatRequest, pictures: Sequence[KnownPicture]) -> Conversation:
    """The conversation of a request, its pictures in reading order.

    System messages come first and replace the default one; several are joined by lines. Without any it is `owl chat`'s.

    Raises:
        RequestError: A system message comes later, the last message is no user's, or nothing is asked.
    """
    first = next((i for i, message in enumerate(request.messages) if message.role in ("user", "assistant")), 0)
    leading, rest = request.messages[:first], request.messages[first:]
    talk = Conversation(())
    if leading:
        talk = Conversation((), "\n".join(_text(message) for message in leading) or None)
    left = iter(pictures)
    for index, message in enumerate(rest, first):
        if message.role not in ("user", "assistant"):
            reason = "there is nothing but system messages" if not talk.messages else "system messages come before all others"
            raise RequestError(400, reason, f"messages.{index}.role")
        parts = [next(left) if isinstance(part, PicturePart) else part.text for part in message.parts]
        talk = talk.said("user" if message.role == "user" else "assistant", *parts)
    if talk.messages[-1].role != "user":
        raise RequestError(400, "the last message is the assistant's; expected the user's, which is answered", "messages")
    if not any(talk.messages[-1].parts):
        raise RequestError(400, "the last message is empty; expected words or a picture", "messages")
    return talk


def _text(message: ChatMessage) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, TextPart))
