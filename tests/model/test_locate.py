"""What a name refers to, above all an adapter's base."""

import json
import shutil
from pathlib import Path

import pytest

from mplug_owl.errors import UserError
from mplug_owl.model.locate import ADAPTER_CONFIG, BUNDLED, adapter_base, base_of, bundled, is_adapter, locate


def make(folder: Path, base: object = None) -> Path:
    """A folder with a config, or an adapter's that names a base."""
    folder.mkdir(parents=True)
    name, values = ("config.json", {}) if base is None else (ADAPTER_CONFIG, {"base_model_name_or_path": base})
    (folder / name).write_text(json.dumps(values))
    return folder


def test_folders_runs_bundled_models_and_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "runs" / "see" / "model")
    assert locate("runs/see") == locate("runs/see/model") == "runs/see/model"
    assert locate("owl-tiny") == bundled("owl-tiny")
    assert locate("OWNER/NAME") == "OWNER/NAME"
    make(tmp_path / "owl-tiny")
    assert locate("owl-tiny") == "owl-tiny"  # a folder of this name is meant before what comes along


@pytest.mark.parametrize("name", ["runs/sea", "./OWNER/NAME", "~/owl", "owl", "a/b/c", "runs"])
def test_a_mistyped_folder_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match=r"no such folder|no config\.json"):
        locate(name)


def test_where_nothing_has_run_a_run_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="runs/talk: no such folder"):
        locate("runs/talk")


def test_a_base_is_written_as_everybody_can_find_it(tmp_path: Path) -> None:
    see, adapter = make(tmp_path / "runs" / "see" / "model"), tmp_path / "runs" / "tell" / "model"
    assert adapter_base(see, adapter) == "../../see/model"
    assert adapter_base(adapter / "base", adapter) == str(adapter / "base")  # not there: left as it was given
    make(adapter / "base")
    assert adapter_base(adapter / "base", adapter) == "./base"
    assert adapter_base("OWNER/NAME", adapter) == "OWNER/NAME"
    for name in BUNDLED:
        assert adapter_base(name, adapter) == adapter_base(bundled(name), adapter) == name


def test_a_base_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    see = make(tmp_path / "runs" / "see" / "model")
    adapter = make(tmp_path / "runs" / "tell" / "model", adapter_base(see, tmp_path / "runs" / "tell" / "model"))
    older = make(tmp_path / "runs" / "older" / "model", "runs/see/model")  # by the folder that the training ran in
    assert is_adapter(str(adapter))
    monkeypatch.chdir("/")
    assert base_of(adapter) == base_of(older) == str(see)
    shutil.copytree(tmp_path / "runs", tmp_path / "moved" / "runs")
    assert base_of(tmp_path / "moved" / "runs" / "older" / "model") == str(tmp_path / "moved" / "runs" / "see" / "model")
    assert base_of(make(tmp_path / "a", "owl-tiny")) == bundled("owl-tiny")
    assert base_of(make(tmp_path / "b", "/gone/site-packages/mplug_owl/assets/owl-tiny")) == bundled("owl-tiny")
    assert base_of(make(tmp_path / "c", "OWNER/NAME")) == "OWNER/NAME"


@pytest.mark.parametrize("base", ["runs/see", "../see", "./see", "/gone/see", "/gone/owl-tiny", "runs/see/model"])
def test_a_base_that_is_gone_is_not_asked_of_the_hub(tmp_path: Path, base: str) -> None:
    """Somebody else's model could have its name there."""
    adapter = make(tmp_path / "runs" / "tell", base)
    with pytest.raises(UserError, match=rf"tell: its base {base} is not here; write its path into base_model_name_or_path of"):
        base_of(adapter)


def test_an_adapter_without_a_base_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names no base_model_name_or_path"):
        base_of(make(tmp_path / "a", ""))
    adapter = make(tmp_path / "b", "x")
    (adapter / "adapter_model.bin").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
    with pytest.raises(UserError, match=r"adapter_model\.bin: a git-lfs pointer"):
        base_of(adapter)
    (adapter / "adapter_model.bin").unlink()
    for words in ("", "[]", "{"):
        (adapter / ADAPTER_CONFIG).write_text(words)
        with pytest.raises(UserError, match=r"adapter_config\.json: damaged"):
            base_of(adapter)
