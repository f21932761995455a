"""Who answers under a name."""

import sys
from pathlib import Path

import pytest

from mplug_owl.chat import Chat, EndpointChatModel, OwlChatModel, find
from mplug_owl.errors import UserError
from tests.chat.server import MODEL, serving, streams
from tests.tiny import tiny_config, tiny_owl, tiny_processor


def test_a_folder_is_a_model_of_ours(tmp_path: Path) -> None:
    model = tiny_owl(tiny_config())
    model.save_pretrained(tmp_path)
    tiny_processor(model).save_pretrained(tmp_path)
    assert isinstance(find(str(tmp_path), "cpu"), OwlChatModel)


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
