"""`owl chat` answers without modules that it has no use for, says the same, and what is left out is there for whoever asks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mplug_owl.scenes import scene

# A second of imports each or so: the compiler, several processes, losses of object detection.
LEFT_OUT = ("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.distributed.fsdp", "scipy", "peft")


def run(program: str, *arguments: str) -> list[str]:
    """The lines that a program of Python prints in a process of its own."""
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return done.stdout.splitlines()


CHAT = """
import sys
sys.argv[0] = "owl"
import mplug_owl_cli
try:
    mplug_owl_cli.main()
except SystemExit as ended:
    assert not ended.code
print(*sys.modules)
"""

# Afterwards, and in the middle: the stand-in gives way to the real compiler, no part of it is loaded twice.
ASKED = """
import sys
from mplug_owl_cli.one_process import StandIn, one_process
with one_process():
    import torch
    from transformers import masking_utils
    import transformers.models
    assert isinstance(sys.modules["torch._dynamo"], StandIn)
    if sys.argv[1] == "inside":
        import torch._dynamo.config as part
        assert part is torch._dynamo.config and not isinstance(torch._dynamo, StandIn)
    if sys.argv[1] == "mode":
        masking_utils.TransformGetItemToIndex()
        assert not isinstance(sys.modules["torch._dynamo"], StandIn)
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item() == 2
assert not any(isinstance(module, StandIn) for module in sys.modules.values())
import scipy.optimize, torch.distributed.tensor
assert torch.distributed.is_available.__module__ == "torch.distributed"
print(sum(map(len, transformers.models._import_structure.values())))
"""


def test_a_chat_imports_no_compiler_and_answers(tmp_path: Path) -> None:
    scene(1).draw().save(picture := tmp_path / "scene.png")
    answer, modules = run(CHAT, "chat", "owl-tiny", "--image", str(picture), "How many things are there?")[-2:]
    assert answer == "1"
    assert not set(LEFT_OUT) & set(modules.split())


@pytest.mark.slow
@pytest.mark.parametrize("when", ["inside", "afterwards", "mode"])
def test_whoever_asks_for_more_gets_the_real_one(when: str) -> None:
    assert run(ASKED, when) == run("import transformers.models as m; print(sum(map(len, m._import_structure.values())))")


def test_nothing_happens_where_transformers_is_there_already() -> None:
    import transformers.modeling_utils  # noqa: F401

    from mplug_owl_cli.one_process import StandIn, one_process

    with one_process():
        assert not any(isinstance(module, StandIn) for module in sys.modules.values())
