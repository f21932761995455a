"""An owl in lmms-eval: beside a stand-in for the package here, and in the real one where an environment with it is named."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mplug_owl import OwlChatModel, load
from mplug_owl.chat import Decoding
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.eval.answer import ask
from mplug_owl.eval.tasks.scenes import DrawnWorld
from mplug_owl.integrations.lmms_tasks import messages, write_tasks

REAL = "LMMS_EVAL_ENVIRONMENT"


class Lmms:
    """What lmms-eval's base class has, as far as ours needs it."""

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Our module, imported beside a stand-in for lmms-eval."""
    for name, attributes in {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {"Instance": SimpleNamespace},
        "lmms_eval.api.model": {"lmms": Lmms},
    }.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    yield importlib.import_module("mplug_owl.integrations.lmms_eval")
    sys.modules.pop("mplug_owl.integrations.lmms_eval")


def requests(folder: Path, name: str, model: Any, options: dict[str, Any]) -> list[SimpleNamespace]:
    """A request for each document of a task, as lmms-eval makes them: six arguments."""
    documents = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
    model.task_dict[name] = {"test": documents}
    return [SimpleNamespace(args=("", messages, options, number, name, "test")) for number in range(len(documents))]


def test_it_answers_as_owl_eval_does(plugin: ModuleType, tmp_path: Path) -> None:
    world = DrawnWorld()
    names = write_tasks(world, world.conditions[0], tmp_path, limit=18, tokens=48)
    model = plugin.MplugOwl(pretrained="owl-tiny", device="cpu", batch_size="4", max_batch_size=None)
    said: dict[str, tuple[str, ...]] = {}
    for name, answer in zip(names, (model.generate_until, model.generate_until_multi_round), strict=True):
        several = requests(tmp_path, name, model, {"max_new_tokens": 48, "do_sample": False, "until": []})
        for request, answers in zip(several, answer(several), strict=True):
            document = model.task_dict[name]["test"][request.args[3]]
            said[document["question_id"]] = tuple(answers) if isinstance(answers, list) else (answers,)
    expected = ask(OwlChatModel(load("owl-tiny", device="cpu")), world.questions("seen", 3, 0)[:18], world.conditions[0])
    assert said == {answer.question.id: answer.turns for answer in expected}
    assert any(len(turns) > 1 for turns in said.values())


@pytest.mark.parametrize(
    ("options", "decoding"),
    [
        ({}, Decoding(top_p=1.0)),
        ({"max_new_tokens": 8, "temperature": 0, "top_p": None, "num_beams": 1}, Decoding(max_new_tokens=8, top_p=1.0)),
        ({"until": ["\n\n", ""], "do_sample": False, "temperature": 0.7}, Decoding(stop=("\n\n",), top_p=1.0)),
        ({"until": "END", "temperature": 0.5, "top_p": 0.8}, Decoding(stop=("END",), temperature=0.5, top_p=0.8)),
        ({"do_sample": True}, Decoding(temperature=1.0, top_p=1.0)),
    ],
)
def test_a_tasks_options_are_a_decoding(plugin: ModuleType, options: dict, decoding: Decoding) -> None:
    assert plugin.decoding_of(options) == decoding


def test_what_fails_ends_the_process(plugin: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """lmms-eval prints an Exception and exits with 0."""
    with pytest.raises(SystemExit) as ended:
        plugin.MplugOwl(pretrained="/nowhere/at/all")
    assert ended.value.code == 2
    assert "mplug_owl: /nowhere/at/all: no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        plugin.MplugOwl(pretrained="owl-tiny", beams=3)
    assert "model_args beams: unknown" in capsys.readouterr().err
    model = plugin.MplugOwl(pretrained="owl-tiny", device="cpu")
    with pytest.raises(SystemExit):
        model.loglikelihood([])
    video = [{"role": "user", "content": [{"type": "video", "url": "film.mp4"}, {"type": "text", "text": "What?"}]}]
    model.task_dict["films"] = {"test": [{}]}
    with pytest.raises(SystemExit):
        model.generate_until([SimpleNamespace(args=("", lambda document: video, {}, 0, "films", "test"))])
    assert "films, document 0: message 0, part 0 is of type 'video'" in capsys.readouterr().err

    def broken(document: object) -> None:
        raise KeyError("turns")

    with pytest.raises(SystemExit) as ended:
        model.generate_until([SimpleNamespace(args=("", broken, {}, 0, "films", "test"))])
    assert ended.value.code == 1
    assert "KeyError: 'turns'" in capsys.readouterr().err


def test_a_chat_of_a_task_is_the_conversation_of_owl_eval(tmp_path: Path) -> None:
    """The picture on a line of its own, under the same system sentence."""
    world = DrawnWorld()
    question = world.questions("seen", 1, 0)[0]
    assert question.picture is not None
    picture = question.picture()
    picture.save(tmp_path / "scene.png")
    chat = messages({"file": str(tmp_path / "scene.png"), "turns": [question.text]})
    ours = Conversation(()).said("user", Picture(picture)).said("user", question.text)
    assert Conversation.from_chat(chat).prompt() == ours.prompt()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_real_package_gives_the_same_score(processes: int, tmp_path: Path) -> None:
    """50 questions of the drawn world: docs/other-harnesses.md says how to make the environment."""
    if REAL not in os.environ:
        pytest.skip(f"{REAL} names no environment with lmms-eval; docs/other-harnesses.md says how to make one")
    world, programs = DrawnWorld(), Path(os.environ[REAL]) / "bin"
    names = write_tasks(world, world.conditions[0], tmp_path / "tasks", limit=50, tokens=48)
    start = [str(programs / "torchrun"), "--nproc_per_node", "2"] if processes == 2 else [str(programs / "python")]
    told = ["--model", "mplug_owl", "--model_args", "pretrained=owl-tiny", "--tasks", ",".join(names), "--device", "cpu"]
    where = ["--include_path", str(tmp_path / "tasks"), "--batch_size", "16", "--output_path", str(tmp_path / "out")]
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    subprocess.run([*start, "-m", "lmms_eval", "eval", *told, *where], check=True, env=environment, cwd=tmp_path)
    (found,) = (tmp_path / "out").rglob("*_results.json")
    results = json.loads(found.read_text("utf-8"))["results"]
    expected = ask(OwlChatModel(load("owl-tiny", device="cpu")), world.questions("seen", 9, 0)[:50], world.conditions[0])
    for name, dialogues in zip(names, (False, True), strict=True):
        several = [grade for grade in world.grader.grades(expected) if (len(grade.answer.turns) > 1) == dialogues]
        right = sum(bool(grade.correct) for grade in several)
        assert results[name]["exact_match,none"] == pytest.approx(right / len(several))
