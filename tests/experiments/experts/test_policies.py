"""Three policies over one set of experts: what each lets its planner do, by rules and by scripted language models."""

import json

import pytest

from mplug_owl.chat import Decoding, arriving
from mplug_owl.chat.trace import trace_of
from mplug_owl.conversation import Conversation
from mplug_owl.errors import UserError
from mplug_owl.experiments.experts.expert import Finding, Zoom
from mplug_owl.experiments.experts.hugginggpt import HuggingGPT, in_order, read_plan
from mplug_owl.experiments.experts.inquiry import Fault, Findings, Inquiry, Request
from mplug_owl.experiments.experts.mm_react import MMReact, read_actions
from mplug_owl.experiments.experts.model import ExpertsChatModel, Policy
from mplug_owl.experiments.experts.visual_chatgpt import VisualChatGPT, read_step
from tests.experiments.experts.stubs import Repeater, Scripted, Stub, about

GREEDY = Decoding(max_new_tokens=8)


def made(policy: Policy, *experts: Stub, planner: Scripted | None = None) -> ExpertsChatModel:
    return ExpertsChatModel(policy, [*experts, Zoom()], Repeater(), planner)


def called(answer: str) -> list[str]:
    return [call.request if call.to not in ("planner", "language model") else call.to for call in trace_of(answer)]


def everybody() -> tuple[Stub, ...]:
    return (Stub("caption", "a shop"), Stub("read", "OPEN"), Stub("tag", "street"), Stub("detect", "door at the centre"))


@pytest.mark.parametrize(
    ("policy", "calls"),
    [
        (VisualChatGPT(), ["caption: picture-1", "detect: picture-1", "read: picture-1"]),
        (MMReact(), ["caption: picture-1", "detect: picture-1", "read: picture-1"]),
        (HuggingGPT(), ["caption: picture-1", "detect: picture-1", "read: picture-1"]),
    ],
)
def test_rules_plan_for_each_policy_in_its_form(policy: Policy, calls: list[str]) -> None:
    (answer,) = made(policy, *everybody()).answers([about("What is written at the top?")], GREEDY)
    assert called(answer) == [*calls, "language model"]
    words = trace_of(answer)[-1].request
    assert "a shop" in words
    assert "OPEN" in words
    assert "street" not in words


def test_a_part_is_enlarged_where_reading_the_whole_found_nothing() -> None:
    """Which a chain sees, and a plan does not."""
    reader = Stub("read", "")
    (answer,) = made(VisualChatGPT(), reader).answers([about("Read the word at the bottom right.")], GREEDY)
    assert called(answer)[:-1] == ["read: picture-1", "zoom: picture-1, bottom right", "read: picture-1-bottom-right"]
    assert [max(size) for size, _ in reader.shown] == [30, 640]
    (answer,) = made(VisualChatGPT(), Stub("read", "")).answers([about("Read the word in the Center.")], GREEDY)
    assert called(answer)[1] == "zoom: picture-1, centre"
    (planned,) = made(HuggingGPT(), Stub("read", "")).answers([about("Read the word at the bottom right.")], GREEDY)
    assert called(planned)[:-1] == ["read: picture-1"]


def test_visual_chatgpt_describes_each_picture_first_and_chains_what_tools_cut_out() -> None:
    planner = Scripted(
        "Thought: Do I need to use a tool? Yes\nAction: detect\nAction Input: picture-1",
        "Thought: Do I need to use a tool? Yes\nAction: read\nAction Input: picture-1-door-1",
        "Thought: Do I need to use a tool? No",
    )
    reader = Stub("read", "PULL")
    model = made(
        VisualChatGPT(by_rules=False), *everybody()[:1], reader, Stub("detect", "door", cuts=("door-1",)), planner=planner
    )
    (answer,) = model.answers([about("What does the door say?")], GREEDY)
    assert called(answer) == [
        *(
            "caption: picture-1",
            "planner",
            "detect: picture-1",
            "planner",
            "read: picture-1-door-1",
            "planner",
            "language model",
        )
    ]
    assert reader.shown == [((5, 5), "")]
    assert "Observation: door New pictures: picture-1-door-1." in planner.heard[1].messages[0].text
    assert ["picture-1: a shop\n" in talk.messages[0].text for talk in planner.heard] == [True, True, True]
    assert "Text in picture-1-door-1: PULL" in trace_of(answer)[-1].request


def test_mm_react_is_a_dialogue_with_several_actions_a_turn() -> None:
    planner = Scripted(
        "Thought: Both may help.\nAssistant, caption, picture-1\nAssistant, zoom, picture-2, top left",
        "Thought: Now its words.\nAssistant, read, picture-2-top-left",
        "Thought: That is enough.",
    )
    model = made(MMReact(by_rules=False), *everybody(), planner=planner)
    (answer,) = model.answers([about("Compare them.", pictures=2)], GREEDY)
    assert called(answer)[:5] == [
        "planner",
        "caption: picture-1",
        "zoom: picture-2, top left",
        "planner",
        "read: picture-2-top-left",
    ]
    roles = [message.role for message in planner.heard[2].messages]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert planner.heard[2].messages[-1].text == "Observation: read of picture-2-top-left: OPEN"


def test_mm_react_by_rules_asks_the_rest_where_all_found_nothing() -> None:
    (answer,) = made(MMReact(), Stub("caption", ""), Stub("read", ""), Stub("tag", "street")).answers([about("Hm?")], GREEDY)
    assert called(answer) == ["caption: picture-1", "read: picture-1", "tag: picture-1", "language model"]


PLAN = [
    {"task": "read", "id": 1, "dep": [0], "args": {"image": "<GENERATED>-0"}},
    {"task": "zoom", "id": 0, "dep": [-1], "args": {"image": "picture-1", "text": "top"}},
]


def test_hugginggpt_plans_first_selects_and_works_in_the_order_of_dependencies() -> None:
    planner = Scripted(f"```json\n{json.dumps(PLAN)}\n```", '{"id": "read-2", "reason": "small print"}')
    first, second = Stub("read", "BAD"), Stub("read", "GOOD", "read-2")
    (answer,) = made(HuggingGPT(by_rules=False), first, second, planner=planner).answers([about("Read it.")], GREEDY)
    assert called(answer) == ["planner", "zoom: picture-1, top", "planner", "read-2: picture-1-top", "language model"]
    assert not first.shown
    assert "GOOD" in trace_of(answer)[-1].request


def test_a_plan_that_cannot_be_read_is_asked_for_once_more_and_then_done_without() -> None:
    planner = Scripted("I would read it.", json.dumps(PLAN), "{}", "[1]")
    model = made(HuggingGPT(by_rules=False), Stub("read", "OPEN"), planner=planner)
    (first,) = model.answers([about("Read it.")], GREEDY)
    assert [call.fault for call in trace_of(first)] == ["it is no JSON (JSONDecodeError)", "", "", "", ""]
    assert "it is no JSON" in planner.heard[1].messages[-1].text
    (second,) = model.answers([about("And now?")], GREEDY)
    assert called(second) == ["planner", "planner", "language model"]
    assert all(call.fault for call in trace_of(second)[:2])
    assert "Nothing was found." in trace_of(second)[-1].request


@pytest.mark.parametrize("reply", ['{"id": ["read-2"]}', '{"id": {}}', '{"id": 2}', "[]"])
def test_a_selection_that_cannot_be_read_takes_the_first_and_the_trace_says_so(reply: str) -> None:
    planner = Scripted(json.dumps(PLAN), reply)
    model = made(HuggingGPT(by_rules=False), Stub("read", "OPEN"), Stub("read", "SHUT", "read-2"), planner=planner)
    (answer,) = model.answers([about("Read it.")], GREEDY)
    assert called(answer) == ["planner", "zoom: picture-1, top", "planner", "read: picture-1-top", "language model"]
    assert "the first one was taken" in trace_of(answer)[2].fault


def test_a_plan_whose_tasks_cut_out_more_and_more_pictures_ends() -> None:
    detector = Stub("detect", "things", cuts=tuple(f"thing-{number}" for number in range(40)))
    plan = [
        {
            "task": "detect",
            "id": n,
            "dep": [n - 1] if n else [],
            "args": {"image": f"<GENERATED>-{n - 1}" if n else "picture-1"},
        }
        for n in range(3)
    ]
    model = made(HuggingGPT(by_rules=False, each=5), detector, planner=Scripted(json.dumps(plan)))
    (answer,) = model.answers([about("What is there?")], GREEDY)
    assert called(answer).count("planner") == 1
    assert len([call for call in trace_of(answer) if call.to == "detect"]) == 1 + 5 + 5


def test_a_task_that_has_no_picture_asks_nobody_who_could_do_it() -> None:
    plan = [{**PLAN[1], "args": {"image": "picture-1", "text": "nowhere"}}, PLAN[0]]
    model = made(HuggingGPT(by_rules=False), Stub("read", "A"), Stub("read", "B", "read-2"), planner=Scripted(json.dumps(plan)))
    (answer,) = model.answers([about("Read it.")], GREEDY)
    assert called(answer) == ["planner", "zoom: picture-1, nowhere", "language model"]


def test_cut_outs_of_two_experts_that_are_called_alike_are_two_pictures() -> None:
    one, other = Stub("detect", "door", cuts=("door-1",)), Stub("detect", "a door", "detect-2", cuts=("door-1",))
    asked = Inquiry(about("Read it."), {"detect": one, "detect-2": other}, GREEDY, Findings())
    names = [asked.ask(Request(name, "picture-1")) for name in ("detect", "detect-2", "detect")]
    assert names == [("picture-1-door-1",), ("picture-1-door-1-2",), ("picture-1-door-1",)]
    assert asked.pictures["picture-1-door-1"] is not asked.pictures["picture-1-door-1-2"]


def test_a_streamed_answer_that_is_given_up_leaves_no_other_s_trace() -> None:
    model = made(VisualChatGPT(), *everybody())
    list(model.stream(about("Is it open?"), GREEDY))
    next(model.stream(about("And today?"), GREEDY))
    assert model.trace == ()


@pytest.mark.parametrize("policy", [VisualChatGPT(by_rules=False), MMReact(by_rules=False)])
def test_a_reply_that_cannot_be_followed_is_answered_with_what_was_wrong(policy: Policy) -> None:
    good, none = {
        VisualChatGPT: (
            "Thought: Do I need to use a tool? Yes\nAction: {}\nAction Input: {}",
            "Thought: Do I need to use a tool? No",
        ),
        MMReact: ("Thought: I do.\nAssistant, {}, {}", "Thought: Enough."),
    }[type(policy)]
    planner = Scripted("Sure!", good.format("smell", "picture-1"), good.format("read", "picture-7"), none)
    (answer,) = made(policy, Stub("read", "OPEN"), planner=planner).answers([about("Read it.")], GREEDY)
    faults = [call.fault for call in trace_of(answer)]
    assert faults[0]
    assert faults[1] == "there is no expert 'smell'; there are read, zoom"
    assert faults[2] == "there is no picture 'picture-7'; there are picture-1"
    assert faults[3:] == ["", ""]
    assert faults[1] in planner.heard[2].prompt()


@pytest.mark.parametrize("policy", [VisualChatGPT(by_rules=False), MMReact(by_rules=False)])
def test_a_planner_that_never_ends_is_ended(policy: Policy) -> None:
    planner = Scripted(*["nonsense"] * 20)
    (answer,) = made(policy, Stub("read", "OPEN"), planner=planner).answers([about("Read it.")], GREEDY)
    assert called(answer).count("planner") == policy.most
    assert answer == "Read it."


def test_without_a_picture_nobody_is_asked_but_the_language_model() -> None:
    planner = Scripted()
    for policy in (VisualChatGPT(by_rules=False), MMReact(by_rules=False), HuggingGPT(by_rules=False)):
        (answer,) = made(policy, *everybody(), planner=planner).answers(
            [Conversation(()).said("user", "Three and four?")], GREEDY
        )
        assert (answer, called(answer)) == ("Three and four?", ["language model"])


def test_many_questions_advance_side_by_side_and_each_gets_its_own_findings() -> None:
    planner = Scripted(*["Thought: I look.\nAssistant, read, picture-1"] * 3, *["Thought: Enough."] * 3)
    model = made(MMReact(by_rules=False), Stub("read", "OPEN"), planner=planner)
    talks = [about(f"Read {number}.", colour=(number, 0, 0)) for number in range(3)]
    answers = dict(arriving(model, talks, GREEDY))
    assert answers == {0: "Read 0.", 1: "Read 1.", 2: "Read 2."}
    assert planner.batches == [3, 3]


def test_what_was_found_in_a_picture_is_known_in_the_next_turn() -> None:
    reader = Stub("read", "OPEN")
    model = made(MMReact(), reader)
    talk = about("Read it.")
    (first,) = model.answers([talk], GREEDY)
    (second,) = model.answers([talk.said("assistant", first).said("user", "And the number?")], GREEDY)
    assert len(reader.shown) == 1
    assert [call.known for call in trace_of(first)] == [False, False]
    assert [call.known for call in trace_of(second)] == [True, False]
    heard = model.models["language model"].heard[-1]
    assert [message.text for message in heard.messages[:2]] == ["Read it.", "Read it."]


def test_findings_are_forgotten_oldest_first() -> None:
    reader, findings = Stub("read", "OPEN"), Findings(most=2)
    pictures = [about("", colour=(number, 0, 0)).pictures[0].source for number in range(3)]
    for picture in (*pictures, pictures[2], pictures[0]):
        findings.look(reader, picture, "")
    assert len(reader.shown) == 4


def test_a_streamed_answer_is_the_whole_one_and_leaves_its_trace() -> None:
    model = made(VisualChatGPT(), *everybody())
    (answer,) = model.answers([about("Is it open today?")], GREEDY)
    streamed = made(VisualChatGPT(), *everybody())
    assert " ".join(streamed.stream(about("Is it open today?"), GREEDY)) == answer
    assert [call.to for call in streamed.trace] == [call.to for call in trace_of(answer)]


def test_facts_stand_where_the_picture_stood() -> None:
    model = made(MMReact(wording="facts"), Stub("detect", "large red circle top left"))
    model.answers([Conversation(()).said("user", *about("").pictures).said("user", "Where is the circle?")], GREEDY)
    heard = model.models["language model"].heard[0]
    assert heard == Conversation(()).said("user", "large red circle top left").said("user", "Where is the circle?")


def test_an_expert_that_cannot_work_is_named() -> None:
    class Broken(Stub):
        def look(self, picture: object, request: str) -> Finding:
            raise UserError("its package is missing")

    with pytest.raises(UserError, match="expert read: its package is missing"):
        made(MMReact(), Broken("read", "")).answers([about("Read it.")], GREEDY)


def inquiry() -> Inquiry:
    return Inquiry(about("Read it."), {"read": Stub("read", "OPEN"), "zoom": Zoom()}, GREEDY, Findings())


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"task": "paint"}, "there is no task 'paint'"),
        ({"id": "1"}, "an id is no number"),
        ({"dep": [7]}, "waits for 7"),
        ({"dep": []}, "not in its dep"),
        ({"args": {"image": "picture-9"}}, "there is no picture 'picture-9'"),
        ({"args": {"picture": "picture-1"}}, "args is no object"),
        ({"args": {"image": "<GENERATED>-0", "text": None}}, "args holds something else than words"),
        ({"id": 0}, "two tasks have one id"),
        ({"more": 1}, "has the keys"),
    ],
)
def test_a_plan_is_read_strictly(changed: dict[str, object], problem: str) -> None:
    with pytest.raises(Fault, match=problem):
        read_plan(json.dumps([{**PLAN[0], **changed}, PLAN[1]]), inquiry(), 8)


def test_a_plan_in_a_circle_or_too_long_is_refused() -> None:
    circle = [PLAN[0], {**PLAN[1], "dep": [1]}]
    with pytest.raises(Fault, match="in a circle"):
        read_plan(json.dumps(circle), inquiry(), 8)
    with pytest.raises(Fault, match="at most 1"):
        read_plan(json.dumps(PLAN), inquiry(), 1)
    assert [task.id for task in in_order(read_plan(json.dumps(PLAN), inquiry(), 8))] == [0, 1]


@pytest.mark.parametrize(
    "reply", ["", "Action: read", "Thought: Do I need to use a tool? Maybe", "Thought: Do I need to use a tool? Yes"]
)
def test_a_step_is_read_strictly(reply: str) -> None:
    with pytest.raises(Fault):
        read_step(reply)


@pytest.mark.parametrize("reply", ["", "Assistant, read, picture-1", "Thought: x\nread it", "Thought: x\nAssistant, read"])
def test_actions_are_read_strictly(reply: str) -> None:
    with pytest.raises(Fault):
        read_actions(reply)


def test_what_two_experts_name_alike_is_told_once() -> None:
    model = made(
        MMReact(wording="facts"), Stub("caption", "13 at the top, Large red square."), Stub("detect", "large red square, star")
    )
    (answer,) = model.answers([about("How many things?")], GREEDY)
    assert "13 at the top, Large red square, star\n" in trace_of(answer)[-1].request
