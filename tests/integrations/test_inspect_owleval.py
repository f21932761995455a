"""OwlEval in inspect-ai, against a stub server, where an environment with inspect-ai is named."""

import os
import subprocess
from pathlib import Path

import pytest

from mplug_owl.eval.read_answers import read_answers
from mplug_owl.eval.tasks.owleval import OwlEval
from tests.chat.server import Handler, completion, refuses, serving, words_for
from tests.eval.owleval import folder_of

REAL = "INSPECT_ENVIRONMENT"
ROOT = Path(__file__).parents[2]


def good(handler: Handler, question: str) -> None:
    """An answer with all that inspect-ai wants of one."""
    handler.send({**completion(words_for(question)), "model": "parrot", "created": 0})


@pytest.fixture
def programs() -> Path:
    if REAL not in os.environ:
        pytest.skip(f"{REAL} names no environment with inspect-ai; docs/other-harnesses.md says how to make one")
    return Path(os.environ[REAL]) / "bin"


def run(programs: Path, address: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Ask a server OwlEval's questions, and get the answers out of the log."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OWL_BASE_URL": address, "OWL_API_KEY": "none", "PATH": f"{programs}:{os.environ['PATH']}"}
    asking = [str(programs / "inspect"), "eval", "examples/inspect_owleval.py", "-T", f"data={folder}"]
    told = ["--model", "openai-api/owl/parrot", "--log-dir", str(folder / "logs"), "--display", "none", "--max-retries", "0"]
    subprocess.run([*asking, *told], cwd=ROOT, env=environment, capture_output=True, check=False)
    (log,) = (folder / "logs").glob("*.eval")
    reading = [str(programs / "python"), "examples/inspect_owleval.py", str(log)]
    return subprocess.run(reading, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_answers_come_back_as_a_file_that_owl_eval_reads(programs: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    with serving(lambda question, tried: good) as server:
        told = run(programs, server.address, folder)
    assert told.returncode == 0, told.stderr
    (file := tmp_path / "answers.jsonl").write_text(told.stdout, "utf-8")
    task = OwlEval(folder)
    answers = read_answers(file, task)
    assert len(answers) == sum(len(task.questions(one.split)) for one in task.conditions)
    for answer in answers:
        assert answer.turns == tuple(words_for(words) for words, _ in answer.question.turns)
    pictures = [
        part
        for request in server.requests
        for message in request["messages"]
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]
    assert len(pictures) == len(server.requests)
    assert all(part["image_url"]["url"].startswith("data:image/jpeg;base64,") for part in pictures)
    assert all(request["temperature"] == 0 for request in server.requests)


@pytest.mark.slow
def test_a_server_that_fails_leaves_no_answers(programs: Path, tmp_path: Path) -> None:
    with serving(lambda question, tried: refuses(400)) as server:
        told = run(programs, server.address, folder_of(tmp_path))
    assert told.returncode == 1
    assert "its run ended with error; run it again" in told.stderr
    assert not told.stdout
