"""transformers' Auto classes know the owl whoever imports what first, and `import mplug_owl` costs next to nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

# What a program that imports the package, or asks `owl` for help, has no use for yet.
HEAVY = ("torch", "transformers", "numpy", "peft", "accelerate", "scipy", "pandas", "datasets", "pyarrow")


def run(program: str, *arguments: str, cwd: Path | None = None) -> list[str]:
    """The lines that a program of Python prints in a process of its own, warnings being errors."""
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd).stdout.splitlines()


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = run("import sys, mplug_owl; mplug_owl.UserError, dir(mplug_owl); print(*sys.modules)")[0].split()
    assert "mplug_owl.conversation" in loaded
    assert not set(HEAVY) & set(loaded)


@pytest.fixture
def sham(tmp_path: Path) -> Path:
    """A folder whose `transformers` has Auto classes in the middle of another module, and what stands for our modules."""
    auto = tmp_path / "transformers" / "models" / "auto"
    auto.mkdir(parents=True)
    for folder in (auto, auto.parent, auto.parent.parent):
        (folder / "__init__.py").touch()
    (auto / "configuration_auto.py").touch()
    (tmp_path / "transformers" / "outer.py").write_text("import transformers.models.auto.configuration_auto\nready = True\n")
    (tmp_path / "transformers" / "broken.py").write_text("raise ImportError('an extra is missing')\n")
    (tmp_path / "ours.py").write_text("from transformers.outer import ready\nprint('registered', ready)\n")
    return tmp_path


SHAM = """
import sys
sys.path.insert(0, ".")
import mplug_owl.registration as registration
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, registration.WhenImported)]
registration.REGISTERED = ("ours",)
"""


def test_ours_are_imported_once_when_the_outermost_import_is_over(sham: Path) -> None:
    """In the middle of it `transformers.outer` would have no `ready`."""
    said = run(
        SHAM + "registration.register(); registration.register(); import transformers; print('not yet')\n"
        "import transformers.outer; print('after'); import transformers.models.auto.configuration_auto\n"
        "print([finder for finder in sys.meta_path if isinstance(finder, registration.WhenImported)])\n"
        "print(type(transformers.outer.__loader__).__name__, type(transformers.outer.__spec__.loader).__name__)",
        cwd=sham,
    )
    assert said == ["not yet", "registered True", "after", "[]", "SourceFileLoader SourceFileLoader"]


def test_a_module_that_cannot_be_imported_does_not_end_the_watch(sham: Path) -> None:
    said = run(
        SHAM + "registration.register()\ntry:\n    import transformers.broken\nexcept ImportError as error:\n    print(error)\n"
        "import transformers.outer",
        cwd=sham,
    )
    assert said == ["an extra is missing", "registered True"]


def test_where_the_auto_classes_are_there_already_ours_are_registered_at_once(sham: Path) -> None:
    said = run(SHAM + "import transformers.outer; print('there'); registration.register()", cwd=sham)
    assert said == ["there", "registered True"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import mplug_owl; from transformers import AutoConfig",
        "import mplug_owl; from transformers import AutoProcessor",
        "import mplug_owl; from transformers import LlamaForCausalLM",
        "import mplug_owl; from transformers import pipeline",
        "import mplug_owl; import transformers.modeling_utils",
        "import mplug_owl; import peft",
        "import mplug_owl.model.config",
        "import mplug_owl.train.run",
        "from transformers import AutoModel; import mplug_owl",
        "import transformers; import mplug_owl",
    ],
)
def test_an_owl_opens_by_the_auto_classes_in_whatever_order_they_are_imported(imports: str) -> None:
    said = run(
        f"{imports}\nfrom importlib.resources import files\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        "folder = str(files('mplug_owl') / 'assets' / 'owl-tiny')\n"
        "opened = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)\n"
        "print(*(type(one).__name__ for one in opened))"
    )
    assert said == ["MplugOwlProcessor MplugOwlForConditionalGeneration"]
