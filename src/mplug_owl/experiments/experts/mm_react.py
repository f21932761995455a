"""MM-REACT (arXiv 2303.11381): a dialogue of thought and action.

From the paper: a picture is a name that stands for it; the language model writes a thought and calls experts by a watchword,
`Assistant,`, several in one turn where it likes; what they see comes back as the next turn of the same dialogue; a turn without
the watchword ends it. Ours: the watchword is followed by an expert's name and a picture's, not by a sentence that has to be
understood; and the answer is asked for by itself, by the prompt of `answering`.
"""

import re
from dataclasses import dataclass

from mplug_owl.chat import Decoding
from mplug_owl.conversation import Conversation
from mplug_owl.experiments.experts import rules
from mplug_owl.experiments.experts.answering import Wording, dialogue, respond
from mplug_owl.experiments.experts.inquiry import PLANNER, Fault, Inquiry, Prompt, Request, Talk

PLANNING = Decoding(max_new_tokens=128, stop=("Observation:",))
SYSTEM = "You find out what a picture shows by asking Assistant, who can see it. You cannot see it."
FORMAT = """Write a thought first, on a line that begins with Thought:
Then, for each thing you want to know, write a line of this form:
Assistant, EXPERT, PICTURE
Write only the thought, and no line to Assistant, when enough is known."""
ACTION = re.compile(r"Assistant, *([^,\n]+), *([^,\n]+?)(?:, *([^\n]*))?")


@dataclass(frozen=True)
class MMReact:
    """A dialogue of thought and action.

    Args:
        by_rules: Whether a program plans; else a language model does.
        wording: How findings are put before the language model.
        most: At most so many turns.
    """

    by_rules: bool = True
    wording: Wording = "report"
    most: int = 4

    def talk(self, inquiry: Inquiry) -> Talk:
        """The answer to one question."""
        turns = _opening(inquiry)
        for _ in range(self.most if inquiry.given else 0):
            observations = []
            try:
                if self.by_rules:
                    requests = rules.actions(inquiry)
                else:
                    reply = yield Prompt(PLANNER, turns, PLANNING)
                    turns = turns.said("assistant", reply)
                    requests = read_actions(reply)
                if not requests:
                    break
                for request in requests:
                    observations.append(_observe(inquiry, request))
            except Fault as problem:
                inquiry.fault(problem)
                observations.append(str(problem))
            turns = turns.said("user", "\n".join(f"Observation: {words}" for words in observations))
        return (yield from respond(inquiry, self.wording))


def read_actions(reply: str) -> list[Request]:
    """What a turn asks of experts; nothing where it is a thought alone.

    Raises:
        Fault: There is no thought, or a line to Assistant has another form.

    Example:
        >>> read_actions("Thought: I need its words.\\nAssistant, read, picture-1")
        [Request(expert='read', picture='picture-1', words='')]
    """
    lines = [line.strip() for line in reply.strip().splitlines() if line.strip()]
    if not lines or not lines[0].startswith("Thought:"):
        raise Fault("that reply does not begin with Thought:")
    requests = []
    for line in lines[1:]:
        if not line.startswith("Assistant,"):
            raise Fault(f"the line {line!r:.60} is neither the thought nor to Assistant")
        if (found := ACTION.fullmatch(line)) is None:
            raise Fault(f"the line {line!r:.60} has another form than Assistant, EXPERT, PICTURE")
        requests.append(Request(found[1].strip(), found[2].strip(), (found[3] or "").strip()))
    return requests


def _observe(inquiry: Inquiry, request: Request) -> str:
    """What an expert says, with its name and the names of what it cut out."""
    made = inquiry.ask(request)
    return f"{request.expert} of {request.picture}: {inquiry.found[request] or 'nothing found'}" + (
        f" New pictures: {', '.join(made)}." if made else ""
    )


def _opening(inquiry: Inquiry) -> Conversation:
    """The first turn: who can be asked, which pictures there are, what was said and what is asked now."""
    experts = "\n".join(f"{expert.name}: {expert.words}" for expert in inquiry.experts.values())
    words = (
        f"Assistant's experts:\n{experts}\n\nPictures: {', '.join(inquiry.given)}\n\n{FORMAT}\n\n"
        f"{dialogue(inquiry)}Question: {inquiry.question}"
    )
    return Conversation((), SYSTEM, name="planner").said("user", words)
