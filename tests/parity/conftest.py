"""The goldens, one checkpoint after the other; each is loaded once."""

from typing import Any

import pytest

from benchmarks.parity import Golden, goldens
from tests.conftest import SHARED

GOLDENS = goldens(SHARED / "parity")


@pytest.fixture(scope="session", params=GOLDENS or [None], ids=lambda golden: golden.checkpoint.name if golden else "none")
def golden(request: Any) -> Golden:
    """One of the original's checkpoints and what the original computed with it."""
    if request.param is None:
        pytest.skip(f"{SHARED / 'parity'} is not here")
    return request.param


@pytest.fixture
def tokenized(golden: Golden) -> Golden:
    """A golden that says how its tokenizer treats awkward strings."""
    if "tokenizer" not in golden.facts:
        pytest.skip("this golden has no tokenizer cases")
    return golden
