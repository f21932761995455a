"""Who answers under a name."""

import sys
from pathlib import Path

import pytest
import torch

from mplug_owl.chat import Chat, EndpointChatModel, OwlChatModel, find
from mplug_owl.errors import UserError
from mplug_owl.model.load import load
from mplug_owl.model.small_weights import PackedLinear
from tests.chat.server import MODEL, serving, streams
from tests.tiny import tiny_config, tiny_owl, tiny_processor


def test_a_folder_is_a_model_of_ours(tmp_path: Path) -> None:
    model = tiny_owl(tiny_config())
    model.save_pretrained(tmp_path)
    tiny_processor(model).save_pretrained(tmp_path)
    assert isinstance(find(str(tmp_path), "cpu"), OwlChatModel)


def test_bf16_weights_are_laid_out_on_a_cpu_and_fp32_ones_stay(tmp_path: Path) -> None:
    model = tiny_owl(tiny_config())
    model.save_pretrained(tmp_path)
    tiny_processor(model).save_pretrained(tmp_path)

    def head(dtype: str) -> type:
        found = find(str(tmp_path), "cpu", dtype)
        assert isinstance(found, OwlChatModel)
        return type(found.model.lm_head)

    takes_it = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert head("bfloat16") is (PackedLinear if takes_it else torch.nn.Linear)
    assert head("auto") is torch.nn.Linear  # the file's own, fp32
    load(str(tmp_path)).model.bfloat16().save_pretrained(tmp_path)
    assert head("auto") is (PackedLinear if takes_it else torch.nn.Linear)
    assert head("float32") is torch.nn.Linear


def test_an_address_is_a_server() -> None:
    pytest.importorskip("openai", reason="servers are asked by the extra `eval`")
    with serving(lambda question, tried: streams("Hel", "lo.")) as server:
        found = find(f"{server.address}?retries=0#{MODEL}")
        assert isinstance(found, EndpointChatModel)
        assert found.endpoint.retries == 0
        assert Chat(found).ask("Hello?") == "Hello."


@pytest.mark.parametrize(
    ("name", "device", "words"),
    [
        ("http://localhost/v1#m", "cpu", "leave --device cpu out"),
        ("http://localhost/v1", None, "#MODEL"),
        ("nowhere", None, "no such folder"),
    ],
)
def test_a_name_that_is_none_is_an_error(name: str, device: str | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        find(name, device)


def test_a_server_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install 'mplug-owl\[eval\]'"):
        find("http://localhost/v1#m")
