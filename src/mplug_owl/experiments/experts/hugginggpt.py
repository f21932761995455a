"""HuggingGPT (arXiv 2303.17580): a plan with dependencies first, then models for its tasks, then their work, then the answer.

From the paper: the plan is a JSON list of tasks, each with `task`, `id`, `dep` (the tasks it waits for) and `args`, in which
`<GENERATED>-ID` stands for what a task has made; where several models can do a task, one is selected; tasks are done in the
order of their dependencies; the answer is made from all results. Ours: models are selected among the experts that are there,
not from a hub; and a plan that cannot be read is asked for once more, with what was wrong, and then done without.
"""

import json
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from mplug_owl.chat import Decoding
from mplug_owl.conversation import Conversation
from mplug_owl.experiments.experts import rules
from mplug_owl.experiments.experts.answering import Wording, dialogue, respond
from mplug_owl.experiments.experts.expert import Expert
from mplug_owl.experiments.experts.inquiry import PLANNER, Fault, Inquiry, Prompt, Request, Talk

PLANNING, SELECTING = Decoding(max_new_tokens=256), Decoding(max_new_tokens=64)
SYSTEM = "You plan which tasks have to be done, so that a question about pictures can be answered. You cannot see the pictures."
FORMAT = """Answer with a JSON list alone, a task an object:
[{"task": "zoom", "id": 0, "dep": [], "args": {"image": "picture-1", "text": "top left"}}, \
{"task": "read", "id": 1, "dep": [0], "args": {"image": "<GENERATED>-0"}}]
"dep" has the ids of the tasks that have to be done first. "image" is a picture's name, or <GENERATED>-ID for what a task in
"dep" has cut out. "text" are words to the task, where it takes any. An empty list needs nothing."""
MADE = re.compile(r"<GENERATED>-(\d+)")
# A plan that cannot be read is asked for once more.
TRIES = 2


@dataclass(frozen=True)
class PlannedTask:
    """One task of a plan: which kind of expert, its number, what it waits for, the picture and words to the expert."""

    kind: str
    id: int
    dep: tuple[int, ...]
    picture: str
    words: str = ""


@dataclass(frozen=True)
class HuggingGPT:
    """A plan with dependencies first.

    Args:
        by_rules: Whether a program plans; else a language model does, and selects among experts of one kind.
        wording: How findings are put before the language model.
        most: At most so many tasks.
        each: A task that takes what another has cut out looks at so many pictures of it at most.
    """

    by_rules: bool = True
    wording: Wording = "report"
    most: int = 8
    each: int = 16

    def talk(self, inquiry: Inquiry) -> Talk:
        """The answer to one question."""
        plan: list[PlannedTask] = []
        if inquiry.given:
            plan = ruled_plan(inquiry) if self.by_rules else (yield from self._planned(inquiry))
        made: dict[int, tuple[str, ...]] = {}
        for task in in_order(plan):
            pictures = _pictures(task, made)[: self.each]
            if not pictures:  # what it waits for has cut out nothing
                continue
            expert = yield from self._selected(inquiry, task)
            for picture in pictures:
                cut = inquiry.ask(Request(expert.name, picture, task.words))
                made[task.id] = made.get(task.id, ()) + cut
        return (yield from respond(inquiry, self.wording))

    def _planned(self, inquiry: Inquiry) -> Generator[Prompt, str, list[PlannedTask]]:
        """The language model's plan; an empty one where none of its replies can be read."""
        prompt = _plan_prompt(inquiry)
        for _ in range(TRIES):
            reply = yield Prompt(PLANNER, prompt, PLANNING)
            try:
                return read_plan(reply, inquiry, self.most)
            except Fault as problem:
                inquiry.fault(problem)
                prompt = prompt.said("assistant", reply).said(
                    "user", f"That cannot be followed: {problem}. Write the list again."
                )
        return []

    def _selected(self, inquiry: Inquiry, task: PlannedTask) -> Generator[Prompt, str, Expert]:
        """Which of several experts of a kind does a task: the language model says; the first where it cannot be understood."""
        able = inquiry.of_kind(task.kind)
        if self.by_rules or len(able) == 1:
            return able[0]
        described = "\n".join(f"{expert.name}: {expert.words}" for expert in able)
        words = (
            f'For the task {task.kind} there are\n{described}\nAnswer with JSON alone, {{"id": "{able[0].name}"}} or another.'
        )
        reply = yield Prompt(PLANNER, _plan_prompt(inquiry, words), SELECTING)
        try:
            chosen = _json(reply)
            name = chosen.get("id") if isinstance(chosen, dict) else None
            if not isinstance(name, str) or name not in {expert.name for expert in able}:
                raise Fault(f"id is {name!r:.60}; expected one of {', '.join(expert.name for expert in able)}")
        except Fault as problem:
            inquiry.fault(Fault(f"{problem}; the first one was taken"))
            return able[0]
        return inquiry.experts[name]


def ruled_plan(inquiry: Inquiry) -> list[PlannedTask]:
    """The rules' plan: everything that the question needs, of every picture. Nothing in it waits for anything."""
    wanted = [(picture, kind) for picture in inquiry.given for kind in rules.wanted(inquiry)]
    return [PlannedTask(kind, number, (), picture) for number, (picture, kind) in enumerate(wanted)]


def read_plan(reply: str, inquiry: Inquiry, most: int) -> list[PlannedTask]:
    """The plan in a reply.

    Raises:
        Fault: It is no JSON list of tasks as asked for, names what there is not, waits in a circle, or is too long.
    """
    rows = _json(reply)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Fault("it is no JSON list of objects")
    if len(rows) > most:
        raise Fault(f"it has {len(rows)} tasks; at most {most} are done")
    plan = [_task(row, inquiry) for row in rows]
    ids = [task.id for task in plan]
    if len(set(ids)) < len(ids):
        raise Fault("two tasks have one id")
    for task in plan:
        if unknown := set(task.dep) - set(ids):
            raise Fault(f"task {task.id} waits for {min(unknown)}, which is no task")
        if (found := MADE.fullmatch(task.picture)) and int(found[1]) not in task.dep:
            raise Fault(f"task {task.id} takes <GENERATED>-{found[1]}, which is not in its dep")
    in_order(plan)
    return plan


def in_order(plan: Sequence[PlannedTask]) -> list[PlannedTask]:
    """The tasks, each after those it waits for. Raises Fault where they wait in a circle."""
    by_id = {task.id: task for task in plan}
    try:
        return [by_id[number] for number in TopologicalSorter({task.id: task.dep for task in plan}).static_order()]
    except CycleError as error:
        raise Fault("its tasks wait for one another in a circle") from error


def _task(row: dict[str, Any], inquiry: Inquiry) -> PlannedTask:
    if set(row) != {"task", "id", "dep", "args"}:
        raise Fault(f"a task has the keys {', '.join(map(str, row))}; expected task, id, dep and args")
    kind, number, dep, args = row["task"], row["id"], row["dep"], row["args"]
    if not isinstance(kind, str) or not inquiry.of_kind(kind):
        kinds = dict.fromkeys(expert.kind for expert in inquiry.experts.values())
        raise Fault(f"there is no task {kind!r:.60}; there are {', '.join(kinds)}")
    if not isinstance(number, int) or not isinstance(dep, list) or not all(isinstance(one, int) for one in dep):
        raise Fault("an id is no number, or dep no list of numbers")
    if not isinstance(args, dict) or not {"image"} <= set(args) <= {"image", "text"}:
        raise Fault('args is no object with "image" and, where a task takes words, "text"')
    if not all(isinstance(words, str) for words in args.values()):
        raise Fault("args holds something else than words")
    picture = args["image"]
    if picture not in inquiry.given and not MADE.fullmatch(picture):
        raise Fault(f"there is no picture {picture!r:.60}; there are {', '.join(inquiry.given)}")
    dep = [one for one in dep if one != -1]  # the paper's mark for none
    return PlannedTask(kind, number, tuple(dep), picture, args.get("text", ""))


def _pictures(task: PlannedTask, made: dict[int, tuple[str, ...]]) -> tuple[str, ...]:
    """The pictures that a task is about: one by its name, or all that another task has cut out."""
    found = MADE.fullmatch(task.picture)
    return made.get(int(found[1]), ()) if found else (task.picture,)


def _json(reply: str) -> Any:
    """A reply as JSON; the fence that chat models put around it is no part of it."""
    words = re.sub(r"^```(?:json)?\s*|\s*```$", "", reply.strip())
    try:
        return json.loads(words)
    except (ValueError, RecursionError) as error:
        raise Fault(f"it is no JSON ({type(error).__name__})") from error


def _plan_prompt(inquiry: Inquiry, words: str = "") -> Conversation:
    """The planner's prompt: kinds of tasks, pictures, form, what was said, the question; or other words after the question."""
    kinds: dict[str, str] = {}
    for expert in inquiry.experts.values():
        kinds.setdefault(expert.kind, expert.words)
    tasks = "\n".join(f"{kind}: {does}" for kind, does in kinds.items())
    asked = f"{dialogue(inquiry)}Question: {inquiry.question}"
    if words:
        return Conversation((), SYSTEM, name="planner").said("user", f"{asked}\n\n{words}")
    form = f"Tasks:\n{tasks}\n\nPictures: {', '.join(inquiry.given)}\n\n{FORMAT}"
    return Conversation((), SYSTEM, name="planner").said("user", f"{form}\n\n{asked}")
