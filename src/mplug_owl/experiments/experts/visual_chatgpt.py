"""Visual ChatGPT (arXiv 2303.04671): tools in a chain on one picture, one at a time, each after the last one's result.

From the paper: pictures have names, and the planner is strict about them; a new picture is described as it comes in; the
planner thinks whether it needs a tool, names one and its input, and observes what comes back; what a tool cuts out is a new
picture with a name of its own, which the next tool may take. Ours: the answer is asked for by itself, by the prompt of
`answering`, so that the policies differ in their planning alone; and the tools are those that see, none that paints.
"""

import re
from collections.abc import Generator
from dataclasses import dataclass

from mplug_owl.chat import Decoding
from mplug_owl.conversation import Conversation
from mplug_owl.experiments.experts import rules
from mplug_owl.experiments.experts.answering import Wording, dialogue, respond
from mplug_owl.experiments.experts.inquiry import PLANNER, Fault, Inquiry, Prompt, Request, Talk

PLANNING = Decoding(max_new_tokens=96, stop=("Observation:",))
SYSTEM = "You decide which tool to use next, so that a question about a picture can be answered. You cannot see the picture."
FORMAT = """Write exactly three lines to use a tool:
Thought: Do I need to use a tool? Yes
Action: the tool's name
Action Input: the picture's name, then a comma and words to the tool where it takes any
Write exactly one line when enough is known:
Thought: Do I need to use a tool? No"""
NEEDS = re.compile(
    r"\s*Thought: Do I need to use a tool\? Yes\s*\n\s*Action: (?P<tool>[^\n]+)\n\s*Action Input: (?P<picture>[^\n,]+)"
    r"(?:, *(?P<words>[^\n]*))?\s*"
)
NEEDS_NONE = re.compile(r"\s*Thought: Do I need to use a tool\? No\b.*", re.DOTALL)


@dataclass(frozen=True)
class VisualChatGPT:
    """Tools in a chain.

    Args:
        by_rules: Whether a program plans; else a language model does.
        wording: How findings are put before the language model.
        most: At most so many tools, and replies that cannot be read.
    """

    by_rules: bool = True
    wording: Wording = "report"
    most: int = 6

    def talk(self, inquiry: Inquiry) -> Talk:
        """The answer to one question."""
        describers = inquiry.of_kind("caption")
        for picture in inquiry.given if describers else ():
            inquiry.ask(Request(describers[0].name, picture))
        steps: list[str] = []
        for _ in range(self.most if inquiry.given else 0):
            try:
                request = rules.chain(inquiry) if self.by_rules else (yield from self._planned(inquiry, steps))
                if request is None:
                    break
                made = inquiry.ask(request)
            except Fault as problem:
                inquiry.fault(problem)
                steps.append(f"Observation: {problem}")
                continue
            cut = f" New pictures: {', '.join(made)}." if made else ""
            steps.append(f"Observation: {inquiry.found[request] or 'nothing found'}{cut}")
        return (yield from respond(inquiry, self.wording))

    def _planned(self, inquiry: Inquiry, steps: list[str]) -> Generator[Prompt, str, Request | None]:
        """The language model's next tool; its reply becomes a step."""
        reply = yield Prompt(PLANNER, _prompt(inquiry, steps), PLANNING)
        steps.append(reply.strip())
        return read_step(reply)


def read_step(reply: str) -> Request | None:
    """The tool that a reply asks for, None where it needs none.

    Raises:
        Fault: The reply has another form.

    Example:
        >>> read_step("Thought: Do I need to use a tool? Yes\\nAction: zoom\\nAction Input: picture-1, top left")
        Request(expert='zoom', picture='picture-1', words='top left')
    """
    if NEEDS_NONE.fullmatch(reply):
        return None
    if (found := NEEDS.fullmatch(reply)) is None:
        raise Fault("that reply has another form than the one asked for, three lines or one")
    return Request(found["tool"].strip(), found["picture"].strip(), (found["words"] or "").strip())


def _prompt(inquiry: Inquiry, steps: list[str]) -> Conversation:
    """The planner's prompt: tools, pictures with their descriptions, what was said, and the steps so far."""
    tools = "\n".join(f"{expert.name}: {expert.words}" for expert in inquiry.experts.values())
    captions = {name for name, expert in inquiry.experts.items() if expert.kind == "caption"}
    described = {request.picture: words for request, words in inquiry.found.items() if request.expert in captions}
    pictures = "\n".join(f"{name}" + (f": {described[name]}" if described.get(name) else "") for name in inquiry.given)
    words = (
        f"Tools:\n{tools}\n\nPictures:\n{pictures}\n\n{FORMAT}\n\n{dialogue(inquiry)}Question: {inquiry.question}\n"
        + "\n".join(steps)
    ).rstrip()
    return Conversation((), SYSTEM, name="planner").said("user", words)
