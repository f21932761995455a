"""Doors for other programs: their entry points lead here, and nothing of ours imports it."""

from typing import Any


def lmms_eval_manifest() -> Any:
    """What lmms-eval's entry point asks for: which name leads to which class. Nothing heavy is imported before it is wanted."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="mplug_owl", chat_class_path="mplug_owl.integrations.lmms_eval.MplugOwl")
