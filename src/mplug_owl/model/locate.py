"""What a name refers to: a folder, a finished run, a LoRA adapter and its base, what comes with the package, the hub."""

import json
import os
from importlib.resources import files
from pathlib import Path

from mplug_owl.errors import UserError
from mplug_owl.model import checkpoints

# What comes with the package: an owl of a drawn world, the two modules it was made of, and eyes for SmolLM2.
BUNDLED = ("owl-tiny", "owl-smol", "tiny-language", "tiny-vision")
ADAPTER_CONFIG = "adapter_config.json"
EYES_BASE = "base.json"
# Where a run goes that nobody has given a folder.
RUNS = Path("runs")


def locate(name: str | os.PathLike[str]) -> str:
    """The folder that a name refers to, or the hub id that it is.

    Raises:
        UserError: There is no such folder, or it holds no model.
    """
    text, folder = str(name), Path(name)
    if text in BUNDLED and not folder.exists():
        return bundled(text)
    if (folder / "model" / "config.json").is_file():
        return str(folder / "model")
    if folder.is_dir():
        if not any((folder / file).is_file() for file in ("config.json", ADAPTER_CONFIG)):
            raise UserError(_no_config(folder))
        return str(folder)
    # A folder's name that is mistyped looks like a hub id; where the folder above it is here, or is that of runs, it is none.
    if folder.exists() or not _is_hub_id(text) or folder.parent.is_dir() or folder.parent == RUNS:
        raise UserError(f"{text}: no such folder; expected an owl's folder, a finished run, or a hub id OWNER/NAME")
    return text


def bundled(name: str) -> str:
    """The folder of what comes with the package under this name; any other name as it is."""
    return str(files("mplug_owl") / "assets" / name) if name in BUNDLED else name


def is_adapter(where: str) -> bool:
    """Whether what was located is a LoRA adapter."""
    return Path(where, ADAPTER_CONFIG).is_file()


def are_eyes(where: str) -> bool:
    """Whether what was located is f_V and f_K alone, which `mplug_owl.model.eyes` joins to their language model."""
    return Path(where, EYES_BASE).is_file()


def base_of(adapter: str | os.PathLike[str]) -> str:
    """The model that an adapter was trained on, located.

    Its adapter_config.json names one that comes with the package, a hub id, or a path. A path is looked for in the adapter's
    folder first, then in every folder above it and from here: so a tree of runs may be moved. What was a folder is never
    asked of the hub, where somebody else's model may have its name.

    Raises:
        UserError: The adapter names no base, or one that is not here.
    """
    folder, file = Path(adapter).resolve(), Path(adapter, ADAPTER_CONFIG)
    checkpoints.refuse_pointers(folder)
    try:
        name = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file}: damaged; expected the JSON object that peft saves") from error
    if not name:
        raise UserError(f"{file}: names no base_model_name_or_path, the model to put the adapter on")
    if name in BUNDLED:
        return bundled(name)
    path = Path(name).expanduser()
    for above in (folder, *folder.parents, Path.cwd()):
        if (above / path).is_dir():
            return locate((above / path).resolve())
    if path.parts[-3:-1] == ("mplug_owl", "assets") and path.name in BUNDLED:  # another installation's folder
        return bundled(path.name)
    if not _is_hub_id(name) or path.parts[0] in {above.name for above in folder.parents}:
        raise UserError(f"{adapter}: its base {name} is not here; write its path into base_model_name_or_path of {file}")
    return str(name)


def standing_on(where: str) -> list[str]:
    """What was located; where it is an adapter, then its base, that one's base if it is an adapter too, and so on.

    Raises:
        UserError: A base is not here, or an adapter stands on itself.
    """
    found = [where]
    while is_adapter(found[-1]):
        base = base_of(found[-1])
        if Path(base).exists() and any(Path(base).samefile(one) for one in found):
            raise UserError(
                f"{Path(found[-1], ADAPTER_CONFIG)}: its base_model_name_or_path leads back to {base}; name a model"
            )
        found.append(base)
    return found


def adapter_base(base: str | os.PathLike[str], adapter: str | os.PathLike[str]) -> str:
    """How an adapter in the folder `adapter` names its base: as the package or the hub does, or by the path between them.

    Such a path begins with a dot, so nobody takes it for a hub id.
    """
    path = Path(base)
    if path.is_dir() and path.resolve() == Path(bundled(path.name)).resolve():
        return path.name
    if str(base) in BUNDLED or not path.is_dir():
        return str(base)
    between = os.path.relpath(path.resolve(), Path(adapter).resolve())
    return between if between.startswith(".") else os.path.join(".", between)  # noqa: PTH118  (pathlib drops the dot)


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _no_config(folder: Path) -> str:
    expected = f"{folder}: no config.json in it or in {folder}/model; expected an owl's folder or a finished run"
    if any((folder / file).is_file() for file in checkpoints.WEIGHT_FILES) and checkpoints.is_wrapped(folder):
        return f"{folder}: {checkpoints.WRAPPED_CHECKPOINT}: owl convert BASE NEW --adapter {folder}"
    return expected
