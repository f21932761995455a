"""A run beside a quantised language model: only what learns changes, and it is merged into unquantised weights."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mplug_owl.errors import UserError
from mplug_owl.model.load import load
from mplug_owl.train.reporter import Silent
from mplug_owl.train.run import train
from tests.school import lesson
from tests.world import write


@pytest.mark.parametrize(
    "kind",
    ["int8", pytest.param("nf4", marks=pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes"))],
)
def test_adapters_learn_beside_a_quantised_base_and_are_merged_into_the_whole_one(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "data", 4, seed=1)
    data = (f"chat:{tmp_path}/data/chats.jsonl",)
    base = train(lesson(steps=1, data=data), tmp_path / "base", reporter=Silent())
    made = replace(
        lesson(vision="frozen", abstractor="full", language="lora", steps=3, data=data, base=kind), init_from=str(base)
    )
    first, last = load(base, device="cpu").model, load(train(made, tmp_path / "run", reporter=Silent()), device="cpu").model
    before = dict(first.named_parameters())
    changed = {name for name, weight in last.named_parameters() if not torch.equal(weight, before[name])}
    language = {name for name in changed if name.startswith(("model.language_model.", "lm_head"))}
    assert {name.split(".")[-2] for name in language} == {"q_proj", "v_proj"}  # all others hold what they held, unquantised
    assert any(name.startswith("model.abstractor.") for name in changed)
    with pytest.raises(UserError, match="base=int8: quantised weights cannot learn"):
        lesson(language="full", base="int8")
