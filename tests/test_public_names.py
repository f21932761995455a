"""The names that users type. Changing one breaks somebody's program: it needs a line in CHANGELOG.md."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

import mplug_owl
from mplug_owl.train import run
from tests.tiny import tiny_config, tiny_processor

NAMES = [
    "BadSample",
    "Chat",
    "ChatModel",
    "Conversation",
    "Decoding",
    "Encoding",
    "LoRA",
    "Message",
    "Modules",
    "MplugOwlConfig",
    "MplugOwlForConditionalGeneration",
    "MplugOwlModel",
    "MplugOwlProcessor",
    "MplugOwlVisionConfig",
    "MplugOwlVisualAbstractorConfig",
    "Optimizer",
    "Owl",
    "OwlChatModel",
    "Picture",
    "Recipe",
    "Schedule",
    "Trainable",
    "UserError",
    "VisualAbstractor",
    "evaluate",
    "load",
    "read",
    "train",
]


def test_these_are_the_public_names() -> None:
    assert mplug_owl.__all__ == NAMES == sorted(NAMES)
    assert set(NAMES) <= set(dir(mplug_owl))


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = mplug_owl.trian


def test_training_is_its_room_called() -> None:
    """`mplug_owl.train` is the room as soon as one of its files is imported; either way it can be called."""
    assert callable(mplug_owl.train)
    assert _plain(mplug_owl.train) == _plain(run.train)


def public(name: str) -> Any:
    """What a name is used for: `train` is its room or its function, whatever was imported before."""
    return run.train if name == "train" else getattr(mplug_owl, name)


def _plain(function: object) -> str:
    """A signature, whether its types are written as text or not."""
    return re.sub(r"'|mplug_owl\.train\.\w+\.", "", str(inspect.signature(function)))


def test_what_is_not_used_is_not_imported() -> None:
    program = (
        "import sys, mplug_owl\n"
        "heavy = ('gradio', 'matplotlib', 'peft', 'typer')\n"
        "print([name for name in heavy if name in sys.modules], 'mplug_owl.train.recipe' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "[] False\n"
    assert mplug_owl.Recipe.__module__ == "mplug_owl.train.recipe"


@pytest.mark.parametrize("name", NAMES)
def test_each_is_there_and_explains_itself(name: str) -> None:
    assert getattr(mplug_owl, name).__doc__


def test_the_auto_classes_know_the_owl(tmp_path: Path) -> None:
    assert isinstance(AutoConfig.for_model("mplug-owl"), mplug_owl.MplugOwlConfig)
    model = AutoModelForImageTextToText.from_config(tiny_config())
    assert isinstance(model, mplug_owl.MplugOwlForConditionalGeneration)
    assert isinstance(AutoModel.from_config(tiny_config()), mplug_owl.MplugOwlModel)
    model.save_pretrained(tmp_path)
    tiny_processor(model).save_pretrained(tmp_path)
    assert isinstance(AutoModelForImageTextToText.from_pretrained(tmp_path), mplug_owl.MplugOwlForConditionalGeneration)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), mplug_owl.MplugOwlProcessor)


@pytest.mark.parametrize("name", [name for name in NAMES if inspect.isfunction(public(name))])
def test_a_function_says_what_it_takes_raises_and_how_it_is_used(name: str) -> None:
    said = inspect.getdoc(public(name)) or ""
    assert all(f"{part}:" in said for part in ("Args", "Raises", "Example"))


@pytest.mark.parametrize("name", NAMES)
def test_no_signature_says_any(name: str) -> None:
    """So that an editor completes what is typed. What transformers calls itself is not typed by people."""
    found = public(name)
    callables = [found] if not inspect.isclass(found) else [function for _, function in _own_methods(found)]
    for function in callables:
        hints = inspect.get_annotations(function)
        assert not [part for part, hint in hints.items() if "Any" in re.findall(r"\w+", str(hint))], function


def _own_methods(found: type) -> list[tuple[str, FunctionType]]:
    """The methods that people call, those of the class itself."""
    return [(name, method) for name, method in vars(found).items() if isinstance(method, FunctionType) and name[0] != "_"]
