"""Who works with whom, from the name that a user types; and the whole way through `owl eval`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mplug_owl.chat import OwlChatModel
from mplug_owl.errors import UserError
from mplug_owl.eval.exam_folder import read_exam
from mplug_owl.experiments.experts import spec as specs
from mplug_owl.experiments.experts.mm_react import MMReact
from mplug_owl.experiments.experts.reading import RapidReader, SceneReader
from mplug_owl.experiments.experts.spec import Spec, examinee, open_experts
from mplug_owl_cli import app
from tests.eval.owleval import folder_of
from tests.experiments.experts.stubs import Repeater, Stub
from tests.html import Page

NAME = "experts:mm-react?read=rapidocr&caption=owl-tiny#language:tiny-language"


def test_a_name_says_who_works_with_whom() -> None:
    found = Spec.from_name("experts:hugginggpt?caption=runs/a%26b/model&read=drawn:owl-tiny&planner=language#http://here/v1#m")
    assert found == Spec(
        "hugginggpt", (("caption", "runs/a&b/model"), ("read", "drawn:owl-tiny")), "http://here/v1#m", planner="language"
    )
    assert found.title == "hugginggpt (a&b+owl-tiny, planned by language) m"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("experts:", "no policy ''; there are visual-chatgpt, mm-react, hugginggpt"),
        ("experts:react?read=rapidocr#m", "no policy 'react'"),
        ("experts:mm-react?read=rapidocr", "names no language model"),
        ("experts:mm-react#m", "names no expert"),
        ("experts:mm-react?smell=x#m", "no option 'smell=x'"),
        ("experts:mm-react?read#m", "no option 'read'"),
        ("experts:mm-react?read=rapidocr&words=poem#m", "expected report or facts"),
        ("experts:mm-react?read=rapidocr&planner=language&planner=rules#m", "names planner twice"),
    ],
)
def test_a_name_that_is_wrong_says_where(name: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem.replace("?", r"\?")):
        Spec.from_name(name)


def test_weights_change_with_the_spec_and_with_folders(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    name = f"experts:mm-react?caption={tmp_path}#language:tiny-language"
    first = examinee(name).weights
    assert first == examinee(name).weights != examinee(f"{name}x").weights
    (tmp_path / "model.safetensors").write_bytes(b"12")
    assert first != examinee(name).weights
    with pytest.raises(UserError, match="leave it out"):
        examinee(name, quantized=True)


def test_everybody_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def find(name: str, device: str | None) -> Repeater:
        opened.append((name, device))
        return Repeater()

    monkeypatch.setattr(specs, "find", find)
    name = "experts:mm-react?read=rapidocr&read=drawn:a&caption=a&tag=drawn&detect=drawn&planner=a#b"
    model = open_experts(Spec.from_name(name), "cpu")
    assert sorted(opened) == [("a", "cpu"), ("b", "cpu")]
    assert list(model.experts) == ["read", "read-2", "caption", "tag", "detect", "zoom"]
    assert isinstance(model.experts["read"], RapidReader)
    assert isinstance(model.experts["read-2"], SceneReader)
    assert isinstance(model.policy, MMReact)
    assert not model.policy.by_rules
    assert model.models["planner"] is not model.models["language model"]
    assert model.experts["caption"].question == specs.CAPTION


def test_an_owl_is_shown_the_picture_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs, "find", lambda name, device: object.__new__(OwlChatModel))
    model = open_experts(Spec.from_name("experts:visual-chatgpt?caption=a#b"))
    assert model.experts["caption"].question == ""


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Stub:
    """RapidOCR and language models are stubs."""
    reader = Stub("read", "<b>OPEN</b> & more")
    monkeypatch.setattr(specs, "find", lambda name, device: Repeater())
    monkeypatch.setattr(specs, "RapidReader", lambda called: reader)
    return reader


def test_owleval_is_answered_with_traces_kept_and_shown(stubbed: Stub, tmp_path: Path) -> None:
    data, out = folder_of(tmp_path), tmp_path / "out"
    command = ["eval", "experts:mm-react?read=rapidocr#m", "owleval", "--data", str(data), "--out", str(out)]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0
    assert "What 4 answers took" in done.output
    assert "Not graded yet" in done.output
    rows = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert {row["question_id"]: [call["to"] for call in row["trace"]] for row in rows} == {
        number: ["read", "language model"] for number in "1234"
    }
    assert len(stubbed.shown) == 2
    page = Page((out / "traces.html").read_text())
    assert page.open == []
    assert "<b>OPEN</b> & more" in page.words
    assert "known before" in page.words
    assert page.sources
    assert all(source.startswith("data:image/jpeg") for source in page.sources)
    # The same command again asks nothing, and shows the same.
    again = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "What 4 answers took" in again.output
    assert len(stubbed.shown) == 2
    exam = read_exam([str(out)])
    assert all(answer.trace for answer in exam.answers)


def test_the_drawn_world_shows_how_wrong_answers_came_about(stubbed: Stub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["eval", "experts:visual-chatgpt?read=rapidocr#m", "scenes", "--limit", "1", "--out", str(out)]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    words = Page((out / "wrong.html").read_text()).words
    assert "<b>OPEN</b> & more" in words
    assert "What the programs found" in words
