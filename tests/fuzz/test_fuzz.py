"""A few hundred odd records in every run of the tests; `python -m tests.fuzz` reads 20,000."""

import pytest

from mplug_owl.data.sources import store
from mplug_owl.model.processor import MplugOwlProcessor
from tests.fuzz.__main__ import fuzz
from tests.fuzz.files import KINDS


@pytest.fixture(autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache of the user's, no network and no waiting for it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(store, "PAUSES", ())


def test_odd_records_are_learned_from_or_said_to_be_bad(processor: MplugOwlProcessor) -> None:
    outcomes, offenders = fuzz(600, seed=1, processor=processor)
    assert offenders == []
    assert {kind for kind, _ in outcomes} == set(KINDS)
    assert min(sum(outcomes[kind, outcome] for kind in KINDS) for outcome in ("learned from", "BadSample")) > 50


def test_a_mistake_of_ours_is_an_offender(processor: MplugOwlProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*how: object) -> None:
        raise ValueError("zip() argument 2 is shorter than argument 1")

    monkeypatch.setattr("mplug_owl.data.examples.encode", mistaken)
    _, offenders = fuzz(60, seed=1, processor=processor, kinds=["pictures"])
    assert offenders
    assert all("zip() argument 2 is shorter" in offender for offender in offenders)
