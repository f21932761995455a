"""One question under way: which pictures there are, which experts were asked, what they found, and who said what when."""

import hashlib
from collections import OrderedDict
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Literal

from PIL import Image

from mplug_owl.chat import Decoding
from mplug_owl.chat.trace import Call
from mplug_owl.conversation import Conversation
from mplug_owl.errors import BadSample, UserError
from mplug_owl.experiments.experts.expert import Expert, Finding
from mplug_owl.model.images import open_image

Speaker = Literal["planner", "language model"]
PLANNER: Speaker = "planner"
LANGUAGE: Speaker = "language model"
# So many findings are kept for later turns about the same pictures.
KEPT = 256


class Fault(Exception):  # noqa: N818  (a reply has a fault; nothing of ours failed)
    """A planner's reply that cannot be followed. The message says to the planner what was wrong."""


@dataclass(frozen=True)
class Request:
    """What a planner wants: an expert shown a picture, by their names, and words to that expert."""

    expert: str
    picture: str
    words: str = ""

    def __str__(self) -> str:
        return f"{self.expert}: {self.picture}" + (f", {self.words}" if self.words else "")


@dataclass(frozen=True)
class Prompt:
    """What a policy wants said: by the planner, or by the language model as the answer."""

    to: Speaker
    conversation: Conversation
    decoding: Decoding


# A policy under way: it gives prompts, is sent the replies, and returns the answer.
Talk = Generator[Prompt, str, str]


class Findings:
    """What experts found, kept for later turns about the same pictures; the oldest are forgotten first."""

    def __init__(self, most: int = KEPT) -> None:
        self.most = most
        self._kept: OrderedDict[tuple[str, bytes, str], Finding] = OrderedDict()

    def look(self, expert: Expert, picture: Image.Image, words: str) -> tuple[Finding, bool]:
        """An expert's finding, and whether it was known. Raises what the expert raises."""
        digest = hashlib.blake2b(picture.tobytes(), digest_size=16).digest() + repr((picture.size, picture.mode)).encode()
        key = (expert.name, digest, words)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key], True
        found = self._kept[key] = expert.look(picture, words)
        if len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return found, False


@dataclass
class Inquiry:
    """What is known of one question so far.

    Args:
        talk: The conversation; its last message is asked.
        experts: By their names.
        decoding: How the answer's words are chosen.
        findings: What is kept between questions.
    """

    talk: Conversation
    experts: Mapping[str, Expert]
    decoding: Decoding
    findings: Findings
    calls: list[Call] = field(default_factory=list)
    found: dict[Request, str] = field(default_factory=dict)
    pictures: dict[str, Image.Image] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, picture in enumerate(self.talk.pictures, 1):
            self.pictures[f"picture-{number}"] = open_image(picture.source)
        self.given = tuple(self.pictures)

    @property
    def question(self) -> str:
        """The words of the last message."""
        return self.talk.messages[-1].text if self.talk.messages else ""

    def of_kind(self, kind: str) -> list[Expert]:
        """The experts of this kind."""
        return [expert for expert in self.experts.values() if expert.kind == kind]

    def ask(self, request: Request) -> tuple[str, ...]:
        """Show an expert a picture; what it says is in `found` afterwards. Returns the names of the pictures that it cut out.

        Raises:
            Fault: There is no such expert or no such picture.
            UserError: The expert cannot work, such as a package that is missing.
        """
        expert, picture = self.experts.get(request.expert), self.pictures.get(request.picture)
        if expert is None:
            raise Fault(f"there is no expert {request.expert!r:.60}; there are {', '.join(self.experts)}")
        if picture is None:
            raise Fault(f"there is no picture {request.picture!r:.60}; there are {', '.join(self.pictures)}")
        begin = perf_counter()
        try:
            finding, known = self.findings.look(expert, picture, request.words)
        except (UserError, BadSample) as error:
            raise UserError(f"expert {expert.name}: {error}") from error
        self.calls.append(Call(expert.name, str(request), finding.words, perf_counter() - begin, known=known))
        self.found[request] = finding.words
        names = []
        for name, part in finding.parts:
            called, number = f"{request.picture}-{name}", 1
            while self.pictures.get(called, part) is not part:  # another expert's cut-out has the name
                number += 1
                called = f"{request.picture}-{name}-{number}"
            names.append(called)
            self.pictures[called] = part
        return tuple(names)

    def note(self, prompt: Prompt, reply: str, seconds: float) -> None:
        """Keep what a model was given and said."""
        self.calls.append(Call(prompt.to, prompt.conversation.prompt(), reply, seconds))

    def fault(self, problem: Fault) -> None:
        """Say what was wrong with the planner's last reply."""
        last = max(number for number, call in enumerate(self.calls) if call.to == PLANNER)
        self.calls[last] = replace(self.calls[last], fault=str(problem))
