"""The three policies as a ChatModel: many questions side by side, each with the trace of its answer."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from mplug_owl.chat import ChatModel, Decoding
from mplug_owl.chat.trace import Call, TracedAnswer
from mplug_owl.conversation import Conversation
from mplug_owl.experiments.experts.expert import Expert
from mplug_owl.experiments.experts.inquiry import LANGUAGE, PLANNER, Findings, Inquiry, Prompt, Speaker, Talk


class Policy(Protocol):
    """What the planner may do: plug in any object that has this."""

    def talk(self, inquiry: Inquiry) -> Talk:
        """Ask experts, give prompts, and return the answer."""


@dataclass
class _Running:
    """A question under way, and the prompt that waits for its reply."""

    inquiry: Inquiry
    talk: Talk
    prompt: Prompt


class ExpertsChatModel:
    """Experts, a planner and a language model as a ChatModel. Nothing here learns.

    Questions advance side by side: the prompts of one round are answered together, as a batch. A call's seconds are its share
    of its batch. What an expert found in a picture is kept for later questions about the same picture, and the trace says so.

    Args:
        policy: What the planner may do, and whether it is a program.
        experts: Who can be asked. Names differ.
        language: Who answers, from words alone.
        planner: Who plans, where a language model does; None is the one that answers.
        batch_size: At most so many questions side by side.
    """

    def __init__(
        self,
        policy: Policy,
        experts: Sequence[Expert],
        language: ChatModel,
        planner: ChatModel | None = None,
        batch_size: int = 8,
    ) -> None:
        self.policy, self.batch_size = policy, batch_size
        self.experts: Mapping[str, Expert] = {expert.name: expert for expert in experts}
        if len(self.experts) < len(experts):
            raise ValueError("two experts have one name")
        self.models: dict[Speaker, ChatModel] = {LANGUAGE: language, PLANNER: planner or language}
        self.trace: tuple[Call, ...] = ()  # of the last streamed answer
        self._findings = Findings()

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        """The next answer in each conversation, in their order, each a TracedAnswer."""
        found = dict(self.arriving(conversations, decoding))
        return [found[index] for index in range(len(conversations))]

    def arriving(self, conversations: Sequence[Conversation], decoding: Decoding) -> Iterator[tuple[int, str]]:
        """Each answer with its conversation's position, as soon as it is whole.

        Raises:
            UserError: An expert or a model cannot work.
            BadSample: A picture cannot be opened.
        """
        for first in range(0, len(conversations), self.batch_size):
            batch = conversations[first : first + self.batch_size]
            running: dict[int, _Running] = {}
            for position, conversation in enumerate(batch, first):
                running[position] = self._begun(conversation, decoding)
            while running:
                for speaker in (PLANNER, LANGUAGE):
                    waiting = {number: one for number, one in running.items() if one.prompt.to == speaker}
                    for number, answer in self._round(speaker, waiting):
                        del running[number]
                        yield number, answer

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        """The next answer as it comes, after experts and planner; `trace` has its calls then. Raises as `arriving` does."""
        self.trace = ()  # not another answer's, where this one is given up
        one = self._begun(conversation, decoding)
        while one.prompt.to != LANGUAGE:
            begin = perf_counter()
            (reply,) = self.models[one.prompt.to].answers([one.prompt.conversation], one.prompt.decoding)
            one.inquiry.note(one.prompt, reply, perf_counter() - begin)
            one.prompt = one.talk.send(reply)
        begin, parts = perf_counter(), []
        for part in self.models[LANGUAGE].stream(one.prompt.conversation, one.prompt.decoding):
            parts.append(part)
            yield part
        one.inquiry.note(one.prompt, "".join(parts), perf_counter() - begin)
        self.trace = tuple(one.inquiry.calls)

    def _begun(self, conversation: Conversation, decoding: Decoding) -> _Running:
        """A question after the first experts, at its first prompt."""
        inquiry = Inquiry(conversation, self.experts, decoding, self._findings)
        talk = self.policy.talk(inquiry)
        return _Running(inquiry, talk, next(talk))

    def _round(self, speaker: Speaker, waiting: Mapping[int, _Running]) -> Iterator[tuple[int, TracedAnswer]]:
        """Answer the prompts that wait for one of the two; yields each question that has come to its end.

        Prompts that choose words in different ways are answered apart.
        """
        for decoding in dict.fromkeys(one.prompt.decoding for one in waiting.values()):
            group = {number: one for number, one in waiting.items() if one.prompt.decoding == decoding}
            begin = perf_counter()
            replies = self.models[speaker].answers([one.prompt.conversation for one in group.values()], decoding)
            seconds = (perf_counter() - begin) / len(group)
            for (number, one), reply in zip(group.items(), replies, strict=True):
                one.inquiry.note(one.prompt, reply, seconds)
                try:
                    one.prompt = one.talk.send(reply)
                except StopIteration as end:
                    yield number, TracedAnswer(end.value, one.inquiry.calls)
