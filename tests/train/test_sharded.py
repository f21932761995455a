"""Weights in shares: as many passes everywhere, a picture in each, and what cannot be done so is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mplug_owl.data.encode import Encoding
from mplug_owl.data.examples import Examples
from mplug_owl.data.loader import StepDataset
from mplug_owl.data.mixture import Mixture
from mplug_owl.errors import UserError
from mplug_owl.train import session, sharded
from mplug_owl.train.exam import Exam
from mplug_owl.train.sharded import equalise_passes
from tests.school import initial_model, lesson, lessons


@pytest.mark.parametrize("weigh", ["tokens", "answers"])
@pytest.mark.parametrize("room", [None, 512])
def test_what_is_added_to_words_alone_changes_no_loss(weigh: str, room: int | None, tmp_path: Path) -> None:
    encoding = Encoding(max_tokens=256, weigh=weigh, pack=room)
    sources = lessons(tmp_path, "text")
    owl = initial_model(lesson(encoding=encoding), sources)
    mixture = Mixture([len(sources[0])], [None], 4, 0)
    batches = StepDataset(Examples(sources, owl.processor, encoding, 0), mixture, 2)[0].batches
    many = equalise_passes(batches, len(batches) + 1, True, owl.model)
    items = torch.tensor(10)
    owl.model.requires_grad_(False)
    before = [float(owl.model(**batch.inputs, num_items_in_batch=items).loss) for batch in batches]
    after = [float(owl.model(**batch.inputs, num_items_in_batch=items).loss) for batch in many]
    assert all(batch.pixel_values is not None for batch in many)
    assert after == pytest.approx([*before, 0.0], rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "exam", "told"),
    [
        ({"language": "lora", "text_distillation": True}, None, "text_distillation: parts passes"),
        ({"language": "lora", "base": "int8"}, None, "base=int8: FSDP cannot split quantised weights"),
        ({}, Exam(1, lambda owl: {}), "an exam in the middle of a run needs a whole model"),
    ],
)
def test_what_cannot_be_done_in_shares_is_refused(fields: dict, exam: Exam | None, told: str, monkeypatch) -> None:
    monkeypatch.setattr(session, "is_sharded", lambda accelerator: True)
    with pytest.raises(UserError, match=told):
        session._on_device(None, None, None, lesson(**fields), exam)


def test_fsdps_first_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate's default, of whose settings offloading would have been left out in silence."""
    monkeypatch.setattr(sharded, "init_device_mesh", lambda *given: None)
    state = SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=1, cpu_offload=None, reshard_after_forward=None))
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=2, state=state)
    with pytest.raises(UserError, match=r"^fsdp_version is 1; weights are shared by FSDP2: launch with --fsdp_version 2$"):
        sharded.shard(accelerator, torch.nn.Linear(2, 2))
