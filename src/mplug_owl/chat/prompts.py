"""A conversation as the prompt of somebody else's model: by its own chat template, or as its authors documented it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jinja2 import TemplateError

from mplug_owl.chat.messages import chat_messages
from mplug_owl.conversation import Conversation, Message
from mplug_owl.errors import RefusedConversationError, UserError

# Models that came before chat templates. They see one picture, which their processor puts in front of the prompt.
WITHOUT_TEMPLATE = ("blip-2", "instructblip")


def render_prompt(conversation: Conversation, processor: Any, model_type: str) -> str:
    """The prompt of a conversation, which ends where the answer begins.

    The system sentence goes where the template puts it, and in front of the first question where a template has no room for
    it. A documented prompt has none.

    Raises:
        UserError: The model has no chat template and its prompt is not known here, or its template refuses the conversation.
    """
    messages = chat_messages(_spelled(conversation, processor), lambda source: {"type": "image"})
    if processor.chat_template is None:
        if model_type in WITHOUT_TEMPLATE:
            return documented_prompt(messages, model_type)
        raise UserError(
            f"a {model_type} model without a chat template; expected one that has it, or {' or '.join(WITHOUT_TEMPLATE)}"
        )
    has_system = len(messages) > 1 and messages[0]["role"] == "system"
    try:
        prompt = _apply(processor, messages)
        if not has_system or messages[0]["content"][0]["text"].strip() in prompt:  # some templates leave it out in silence
            return prompt
    except TemplateError as error:
        if not has_system:
            raise RefusedConversationError(f"the model's chat template refuses the conversation ({error})") from error
    first, second, *rest = messages
    content = [*first["content"], {"type": "text", "text": "\n"}, *second["content"]]
    try:
        return _apply(processor, [{"role": second["role"], "content": content}, *rest])
    except TemplateError as error:
        raise RefusedConversationError(f"the model's chat template refuses the conversation ({error})") from error


def documented_prompt(messages: Sequence[dict[str, Any]], model_type: str) -> str:
    """The prompt of BLIP-2 and InstructBLIP.

    BLIP-2's is `Question: ... Answer:`, with earlier turns in front of it, and nothing where a picture alone is shown, which
    asks for a caption (arXiv 2301.12597). InstructBLIP is given a single
    question as it is, and a dialogue in BLIP-2's form.

    Example:
        >>> asked = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}]}]
        >>> documented_prompt(asked, "blip-2"), documented_prompt(asked, "instructblip")
        ('Question: What is it? Answer:', 'What is it?')
    """
    said = [
        (message["role"], "".join(part.get("text", "") for part in message["content"]))
        for message in messages
        if message["role"] != "system"
    ]
    if len(said) == 1 and (model_type == "instructblip" or not said[0][1]):
        return said[0][1]
    marks = {"user": "Question", "assistant": "Answer"}
    return " ".join([*(f"{marks[role]}: {words}" for role, words in said), "Answer:"])


def _apply(processor: Any, messages: Sequence[dict[str, Any]]) -> str:
    return str(processor.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False))


def _spelled(conversation: Conversation, processor: Any) -> Conversation:
    """The conversation with a space inside each of the model's own marks that somebody typed: what was typed stays text."""
    tokenizer = processor.tokenizer
    marks = {*tokenizer.all_special_tokens, str(getattr(processor, "image_token", None) or "")}
    marks |= {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    # Some models have an everyday word or sign for padding.
    longest_first = sorted((mark for mark in marks if len(mark) > 2 and not mark.isalnum()), key=len, reverse=True)

    def spell(text: str) -> str:
        for mark in longest_first:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text

    def spelled(message: Message) -> Message:
        return replace(message, parts=tuple(spell(part) if isinstance(part, str) else part for part in message.parts))

    system = spell(conversation.system) if conversation.system else conversation.system
    return replace(conversation, messages=tuple(map(spelled, conversation.messages)), system=system)
