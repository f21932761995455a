"""A language model's own chat format: its tokenizer's chat template, by which training, chat and exams render conversations.

The template never sees what people typed. It renders marks in its place, one character each, and the text is cut at them:
so nothing typed can steer it, and it is known where answers and pictures stand. Space around the words it does see, because
templates strip it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from mplug_owl.conversation import IMAGE_MARK, SYSTEM_PROMPT, Conversation, Message, Picture
from mplug_owl.errors import RefusedConversationError, UserError
from mplug_owl.model.template_additions import additions, is_prepared
from mplug_owl.model.template_sandbox import render
from mplug_owl.model.template_tokens import PlainTokenizer, Span

# A private plane of Unicode: a character for each part of a conversation.
_MARKS = 0xF0000
_MARK = re.compile("[\U000f0000-\U000ffffd]")
# How the original's prompt begins as a template, which is no language model's own.
_ORIGINAL = "{#- The original's prompt"


def with_pictures(template: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A language model's chat template with what an owl needs above it, so that any program renders it alike.

    Parts of a message become one text, with `<image>` where a picture stands. Where the template knows no system message, its
    words go in front of the first question. An empty system message means none: it is left out where the template writes less
    without one. Thinking is off and the day is fixed, unless whoever renders it says otherwise.

    Raises:
        UserError: The template does not render a plain conversation, or not so that its answers can be found.
    """
    if is_prepared(template):
        return template
    plain = additions(template) + template
    for merged in (False, True):
        chosen = additions(template, merged=merged) + template
        if _renders_system(chosen, tokenizer):
            break
    else:
        chosen = plain
    less = additions(template, merged=merged, drops_empty=True) + template
    if not _has_default(chosen, less, tokenizer):
        chosen = less
    try:
        ChatFormat(chosen, tokenizer).check()
    except RefusedConversationError as error:
        raise UserError(str(error).removeprefix("chat: ")) from error
    return chosen


@dataclass(frozen=True)
class ChatFormat:
    """A chat template and its tokenizer: conversations to ids, with the answers' tokens marked.

    Args:
        template: As `with_pictures` gives it.
        tokenizer: The language model's.
    """

    template: str
    tokenizer: PreTrainedTokenizerBase

    def spans(self, conversation: Conversation, reply: bool = False, unfinished: bool = False) -> list[Span]:
        """A conversation in spans: the template's words, those that people typed, and pictures.

        Supervised are the words of an answer, the token that ends it, and the space that the model writes around them.
        `reply` ends where the assistant begins. `unfinished` ends with the last answer's last word.

        Raises:
            RefusedConversationError: The template refuses the conversation.
        """
        messages, typed = _marked(conversation)
        where = conversation.name or "chat"
        try:
            text = self._rendered_or_alternating(messages, reply)
        except TemplateError as error:
            raise RefusedConversationError(f"{where}: the model's chat template refuses this conversation ({error})") from error
        spans: list[Span] = []
        at, seen = 0, list[int]()
        for found in _MARK.finditer(text):
            spans.append(Span(text[at : found.start()]))
            seen.append(ord(found.group()) - _MARKS)
            spans.append(typed[seen[-1]])
            at = found.end()
        if sorted(seen) != [*range(len(typed))]:
            raise RefusedConversationError(
                f"{where}: the model's chat template leaves out or repeats a part of this conversation"
            )
        if [index for index in seen if typed[index].text is None] != [i for i, span in enumerate(typed) if span.text is None]:
            raise RefusedConversationError(f"{where}: the model's chat template changes the order of its pictures")
        if not unfinished:
            spans.append(Span(text[at:]))
        return [span for span in self._with_ends(spans) if span.text != ""]

    def encode(
        self, conversation: Conversation, picture: Sequence[int], reply: bool = False, unfinished: bool = False
    ) -> tuple[list[int], list[bool]]:
        """A conversation's ids and which of them are supervised; each picture becomes the ids in `picture`."""
        return self._tokens.encode(self.spans(conversation, reply, unfinished), picture)

    @cached_property
    def end_of_turn(self) -> int:
        """The token that closes an answer. Raises UserError where the template writes none."""
        spans = self.spans(_PROBE)
        after = [following for answer, following in pairwise(spans) if answer.supervised and answer.typed]
        ends = [end.group() for span in after if (end := self._end(span))]
        if len(ends) < len(_PROBE.answers):
            raise UserError(
                "the chat template writes no token that ends an answer, so no answer would end; expected one, or prompt=owl"
            )
        return self._tokens.added[ends[-1]][0]

    def check(self) -> None:
        """Raises UserError where a plain conversation is not rendered as the template itself renders its words."""
        for probe in (_PROBE, replace(_PROBE, system=None), replace(_PROBE, system="Be brief.")):
            for reply in (False, True):
                talk = replace(probe, messages=probe.messages[: len(probe.messages) - reply])
                told = self._rendered(tuple(_plain(talk)), reply)
                cut = "".join(IMAGE_MARK if span.text is None else span.text for span in self.spans(talk, reply))
                if told != cut:
                    raise UserError(
                        "the chat template rewrites what is said, so nobody can tell an answer's tokens; expected prompt=owl"
                    )
        _ = self.end_of_turn  # which raises where there is none

    @cached_property
    def _tokens(self) -> PlainTokenizer:
        return PlainTokenizer(self.tokenizer, self.template)

    @cached_property
    def _opening(self) -> str:
        """The space between where a reply begins and its first word, which the model writes itself: Llama 2's has one."""
        messages, _ = _marked(_PROBE)
        whole, asked = self._rendered(messages, False), self._rendered(messages[:-1], True)
        gap = whole[: [*_MARK.finditer(whole)][-1].start()].removeprefix(asked)
        return gap if gap.isspace() else ""

    def _with_ends(self, spans: list[Span]) -> Iterator[Span]:
        """The spans, with the answers' ends and the space around answers supervised as the answers are."""
        for index, span in enumerate(spans):
            if span.typed or not span.text:
                yield span
                continue
            text = span.text
            if index and spans[index - 1].supervised and (end := self._end(span)):
                yield Span(text[: end.end()], supervised=True)
                text = text[end.end() :]
            if index + 1 < len(spans) and spans[index + 1].supervised and self._opening and text.endswith(self._opening):
                yield Span(text.removesuffix(self._opening))
                yield Span(self._opening, supervised=True)
            else:
                yield Span(text)

    def _end(self, after: Span) -> re.Match[str] | None:
        """The token that closes an answer in the template's words after it: the first one, with nothing but space before it."""
        words = "" if after.typed or after.text is None else after.text
        found = self._tokens.control(words)
        return None if found is None or words[: found.start()].strip() else found

    def _rendered_or_alternating(self, messages: tuple[tuple[str, str], ...], reply: bool) -> str:
        """The text; where a template wants user and assistant to take turns, what the user says in a row is one message."""
        try:
            return self._rendered(messages, reply)
        except TemplateError:
            runs = [(role, [words for _, words in run]) for role, run in groupby(messages, key=itemgetter(0))]
            joined = tuple((role, "\n".join(run)) for role, run in runs if role == "user" or len(run) == 1)
            if len(joined) < len(runs) or joined == messages:
                raise
            return self._rendered(joined, reply)

    def _rendered(self, messages: tuple[tuple[str, str], ...], reply: bool) -> str:
        return _render(self.template, messages, reply, tuple(sorted(_names(self.tokenizer).items())))


@lru_cache(maxsize=4096)
def _render(template: str, messages: tuple[tuple[str, str], ...], reply: bool, names: tuple[tuple[str, str], ...]) -> str:
    """A template's text. Marks stand for words, so conversations of one shape have one text, which is kept."""
    said = [{"role": role, "content": content} for role, content in messages]
    return render(template, {"messages": said, "add_generation_prompt": reply, **dict(names)})


@lru_cache(maxsize=8)
def _format(template: str, tokenizer: PreTrainedTokenizerBase, entries: int) -> ChatFormat:
    return ChatFormat(template, tokenizer)


def chat_format(template: str, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """The format of a template, made once for a tokenizer and its number of entries."""
    return _format(template, tokenizer, len(tokenizer))


def _names(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """bos_token, eos_token and the like, as templates read them."""
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}


# Conversations to messages of marks


def _marked(conversation: Conversation) -> tuple[tuple[tuple[str, str], ...], list[Span]]:
    """Messages with a mark for each run of words and each picture, and what the marks stand for.

    The original's system sentence, which is what a conversation has where nobody gave one, leaves a template its own.
    """
    typed: list[Span] = []

    def marked(part: str | Picture, supervised: bool = False) -> str:
        if isinstance(part, str) and not part.strip():
            return part
        mark = chr(_MARKS + len(typed))
        if not isinstance(part, str):
            typed.append(Span(None))
            return mark
        words = part.strip()
        typed.append(Span(words, typed=True, supervised=supervised))
        begin = part.index(words)
        return part[:begin] + mark + part[begin + len(words) :]

    messages = []
    if conversation.system != SYSTEM_PROMPT:
        messages.append(("system", marked(conversation.system or "")))
    for message in _joined(conversation.messages):
        supervised = message.role == "assistant" and message.supervised
        messages.append((message.role, "".join(marked(part, supervised) for part in message.parts)))
    return tuple(messages), typed


def _joined(messages: Sequence[Message]) -> Iterator[Message]:
    """The messages, each that is pictures alone as one with the user's next, as the original's prompt shows pictures."""
    waiting: tuple[str | Picture, ...] = ()
    for index, message in enumerate(messages):
        following = messages[index + 1].role if index + 1 < len(messages) else None
        if message.role == "user" == following and all(isinstance(part, Picture) for part in message.parts):
            waiting += message.parts
            continue
        yield replace(message, parts=(*waiting, *message.parts)) if waiting else message
        waiting = ()


def _plain(conversation: Conversation) -> Iterator[tuple[str, str]]:
    """Messages with their words as they are."""
    if conversation.system != SYSTEM_PROMPT:
        yield "system", conversation.system or ""
    for message in conversation.messages:
        yield message.role, "".join(IMAGE_MARK if isinstance(part, Picture) else part for part in message.parts)


# What is known of a template by trying it

_PROBE = Conversation(
    (
        Message("user", (Picture(""), "What is this?")),
        Message("assistant", ("A cat.",)),
        Message("user", ("And this? ", Picture(""), " Look.")),
        Message("assistant", ("Two dogs.",)),
    )
)


def _renders_system(template: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    messages, _ = _marked(replace(_PROBE, system="Be brief."))
    try:
        return chr(_MARKS) in ChatFormat(template, tokenizer)._rendered(messages, False)
    except TemplateError:
        return False


def _has_default(keeps: str, drops: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether an empty system message leaves less than none: the template writes a sentence of its own without one."""
    messages, _ = _marked(replace(_PROBE, system=None))
    try:
        kept, dropped = (ChatFormat(one, tokenizer)._rendered(messages, False) for one in (keeps, drops))
    except TemplateError:
        return False
    return len(kept) < len(dropped)


# Which template an owl gets


def chosen_template(prompt: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template that `Modules.prompt` names, None for the original's prompt.

    Raises:
        UserError: There is no such file, or its template cannot be used.
    """
    if prompt == "owl":
        return None
    if prompt != "auto":
        try:
            text = Path(prompt).read_text("utf-8")
        except (OSError, ValueError) as error:  # not there, or a template itself; not UTF-8
            raise UserError(f"prompt is {prompt!r:.60}; expected auto, owl, or the file of a chat template") from error
        return None if text.startswith(_ORIGINAL) else _usable(text, tokenizer, prompt)
    template: Any = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):  # several, by name
        if template and "default" not in template:
            raise UserError(
                f"the language model: its chat templates are {', '.join(template)} and none is default; "
                "expected prompt=FILE, or prompt=owl"
            )
        template = template.get("default")
    if not template or template.startswith(_ORIGINAL):
        return None
    return _usable(template, tokenizer, "the language model")


def _usable(template: str, tokenizer: PreTrainedTokenizerBase, where: str) -> str:
    try:
        return with_pictures(template, tokenizer)
    except (TemplateError, UserError) as error:
        way = "" if "prompt=owl" in str(error) else "; expected another template, or prompt=owl"
        raise UserError(f"{where}: {error}{way}") from error
