"""The examples in the docstrings of the model's public names are what they say."""

import doctest
import importlib

import pytest

ROOMS = ("abstractor", "build", "config", "load", "owl", "processor")


@pytest.mark.parametrize("room", ROOMS)
def test_examples_in_docstrings_run(room: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(f"mplug_owl.model.{room}"))
    assert tried
    assert not failed
