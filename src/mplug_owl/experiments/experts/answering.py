"""The language model's part, the same in all three policies: it answers from what experts have found."""

from dataclasses import replace
from typing import Literal

from mplug_owl.conversation import Conversation, Message
from mplug_owl.experiments.experts.inquiry import LANGUAGE, Inquiry, Prompt, Talk

# How findings are put before the language model: with a sentence that says what they are, or as bare facts.
Wording = Literal["report", "facts"]
WORDINGS: tuple[Wording, ...] = ("report", "facts")
SYSTEM = (
    "You answer questions about pictures that you cannot see. Programs have looked at the pictures, and what they found is "
    "given to you. Rely on it, and say so where it is not enough."
)
NAMES = {"caption": "Description of", "read": "Text in", "tag": "Kind of", "detect": "Things in"}
# Of a finding the language model gets so many characters at most; the trace has all of it.
LONGEST = 1500


def respond(inquiry: Inquiry, wording: Wording) -> Talk:
    """Ask for the answer. A conversation without pictures is put to the language model as it is."""
    talk = inquiry.talk
    if inquiry.given:
        talk = as_report(inquiry) if wording == "report" else as_facts(inquiry)
    return (yield Prompt(LANGUAGE, talk, inquiry.decoding))


def as_report(inquiry: Inquiry) -> Conversation:
    """The conversation in words, with everything found and a sentence that says what it is before the question."""
    lines = []
    for request, words in inquiry.found.items():
        expert = inquiry.experts[request.expert]
        if expert.kind == "zoom":
            continue
        shown = request.picture if len(inquiry.pictures) > 1 else "the picture"
        lines.append(f"{NAMES.get(expert.kind, expert.name)} {shown}: {_cut(words) or 'none was found'}")
    found = "\n".join(lines) or "Nothing was found."
    messages = [_in_words(message) for message in inquiry.talk.messages]
    asked = f"What the programs found:\n{found}\n\n{messages[-1].text}".rstrip()
    messages[-1] = replace(messages[-1], parts=(asked,))
    return replace(inquiry.talk, messages=_joined(messages), system=SYSTEM)


def as_facts(inquiry: Inquiry) -> Conversation:
    """The conversation with the bare findings in the pictures' stead, as tiny-language reads of scenes.

    What two experts name in the same words stands there once: who counts would count it twice.
    """
    words = [_cut(words) for request, words in inquiry.found.items() if inquiry.experts[request.expert].kind != "zoom"]
    facts = {fact.casefold(): fact for one in reversed(words) for fact in reversed(one.rstrip(".").split(", ")) if fact}
    told = Message("user", (", ".join(reversed(facts.values())) or "nothing",))
    messages = [told, *(_in_words(message) for message in inquiry.talk.messages)]
    return replace(inquiry.talk, messages=_joined(messages))


def dialogue(inquiry: Inquiry) -> str:
    """What was said before the question, for a planner's prompt; empty where nothing was."""
    earlier = inquiry.talk.messages[:-1]
    names = {"user": "Human", "assistant": "AI"}
    return "".join(f"{names[message.role]}: {message.text}\n" for message in earlier if message.text)


def _in_words(message: Message) -> Message:
    return replace(message, parts=(message.text,))


def _joined(messages: list[Message]) -> tuple[Message, ...]:
    """Without the messages that were pictures alone, and are empty now."""
    return tuple(message for message in messages if message.role == "assistant" or message.text)


def _cut(words: str) -> str:
    return words if len(words) <= LONGEST else f"{words[:LONGEST].rstrip()} ..."
