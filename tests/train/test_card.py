"""The model card: true to the run it is about, and readable by the hub."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError

from mplug_owl import MplugOwlForConditionalGeneration
from mplug_owl.model.build import Modules
from mplug_owl.train import card, metrics
from mplug_owl.train.run import open_data
from tests.school import initial_model, lesson, lessons, quietly, small


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; half of what it learned is LoRA's."""
    folder = tmp_path_factory.mktemp("run")
    lessons(folder / "data")
    recipe = lesson("frozen", "full", "lora", steps=3, data=(f"chat:{folder}/data/chats.jsonl",))
    sources, _ = open_data(recipe.data)
    quietly(recipe, initial_model(recipe, sources), sources, folder / "out")
    return folder / "out"


def rows(page: str, section: str) -> dict[str, list[str]]:
    """The table in a section of a card, by its first column."""
    body = page.split(f"## {section}\n")[1].split("\n## ")[0]
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in body.splitlines() if line.startswith("|")]
    return {first: rest for first, *rest in cells[2:]}


def test_it_says_what_happened(run: Path) -> None:
    page = (run / "model" / "README.md").read_text()
    learned = rows(page, "Who learned")
    assert learned["f_V vision"] == ["frozen", "11,792", "0"]
    assert learned["f_K abstractor"][0] == "full"
    assert learned["f_L language"] == ["LoRA", "26,464", "256"]
    assert rows(page, "Data") == {"chat:chats.jsonl": ["8"]}
    told = rows(page, "Recipe")
    assert told["optimizer.lr"] == ["0.01"]
    assert told["trainable.language"] == ["lora"]
    assert told["data"] == ['["chat:chats.jsonl"]']
    assert told["frozen_bf16"] == ["false"]
    last = metrics.read(run / "metrics.jsonl")[-1]
    assert f"{last['loss']:.3f} at step 3." in page
    assert rows(page, "Made with")["torch"] == [torch.__version__]
    assert re.search(r"ended on 20\d\d-\d\d-\d\d", page)
    assert "owl chat MODEL" in page


def test_the_curve_lies_beside_it(run: Path) -> None:
    assert "](curve.png)" in (run / "model" / "README.md").read_text()
    assert (run / "model" / "curve.png").read_bytes() == (run / "curve.png").read_bytes()


def test_no_folder_of_the_machine_is_in_it(run: Path) -> None:
    assert str(run.parent) not in (run / "model" / "README.md").read_text()


def test_the_hub_reads_its_header(run: Path) -> None:
    header = ModelCard.load(run / "model" / "README.md").data
    assert (header.library_name, header.pipeline_tag) == ("transformers", "image-text-to-text")
    assert header.base_model is None  # made from scratch
    assert header.license is None  # for its owner to choose


@pytest.mark.parametrize(
    ("fields", "bases"),
    [
        (
            {"modules": Modules(small, vision="openai/clip", language="huggyllama/llama-7b")},
            ["openai/clip", "huggyllama/llama-7b"],
        ),
        ({"modules": Modules(small, vision="openai/clip", vocabulary=300)}, ["openai/clip"]),
        ({"init_from": "someone/owl"}, ["someone/owl"]),
        ({"init_from": "runs/mine/model"}, []),
        ({"init_from": "{run}"}, []),
    ],
)
def test_what_it_came_from_is_named_where_the_hub_has_it(run: Path, fields: dict, bases: list[str]) -> None:
    if "init_from" in fields:
        fields = {"init_from": fields["init_from"].format(run=run)}
    card.write(run, replace(lesson(), **fields), [], [])
    page = (run / "model" / "README.md").read_text()
    assert (ModelCard(page).data.base_model or []) == bases
    assert str(run) not in page


def test_pushing_to_the_hub_sends_the_model(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: the hub's client says what it would send."""
    sent: dict[str, int] = {}

    class Repository(str):
        repo_id = "someone/owl"

    def commit(self, repo_id: str, operations: list[CommitOperationAdd], **_) -> str:
        sent.update({operation.path_in_repo: operation.upload_info.size for operation in operations})
        return repo_id

    def no_card(*_, **__):
        raise EntryNotFoundError("none yet")

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: Repository(repo_id))
    monkeypatch.setattr(HfApi, "create_commit", commit)
    monkeypatch.setattr(ModelCard, "load", no_card)
    MplugOwlForConditionalGeneration.from_pretrained(run / "model").push_to_hub("someone/owl")
    assert {"config.json", "model.safetensors", "README.md"} <= sent.keys()
    assert sent["model.safetensors"] == (run / "model" / "model.safetensors").stat().st_size
