"""Clients that people use, against the command itself: each gets the words of `owl chat`.

openai comes with the extra `dev`, curl with the machine. The others live in environments of their own, which
docs/serving.md says how to make: CLIENTS_ENVIRONMENT (LangChain, LiteLLM), INSPECT_ENVIRONMENT, LMMS_EVAL_ENVIRONMENT.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mplug_owl import OwlChatModel, load
from mplug_owl.chat import Decoding
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.eval.answer import ask
from mplug_owl.eval.read_answers import read_answers
from mplug_owl.eval.tasks.owleval import OwlEval
from mplug_owl.eval.tasks.scenes import DrawnWorld
from mplug_owl.integrations.lmms_tasks import write_tasks
from mplug_owl.scenes import scene
from tests.eval.owleval import folder_of
from tests.serve.served import KEY, url

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
QUESTIONS = ("How many things are there?", "What do you see?")


@dataclass(frozen=True)
class Served:
    """A server, and what it has to say."""

    address: str
    picture: str
    expected: tuple[str, ...]

    @property
    def content(self) -> list[dict]:
        return [{"type": "image_url", "image_url": {"url": self.picture}}, {"type": "text", "text": QUESTIONS[0]}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "keys.txt").write_text(f"{KEY}\n")
    command = [sys.executable, "-m", "mplug_owl_cli", "serve", "owl-tiny", "--keys", str(folder / "keys.txt"), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    try:
        address = re.match(r"(http://\S+/v1) ", server.stdout.readline())
        assert address, "owl serve has ended"
        drawn, model = scene(20).draw(), OwlChatModel(load("owl-tiny", device="cpu"))
        talks = [Conversation(()).said("user", Picture(drawn), words) for words in QUESTIONS]
        yield Served(address[1], url(drawn), tuple(model.answers(talks, Decoding(max_new_tokens=48))))
    finally:
        server.terminate()
        assert server.wait(30) == 0
        server.stdout.close()


def test_openai(served: Served) -> None:
    """At once, as a stream with usage, several at once from an asynchronous program; its errors are its own classes."""
    openai = pytest.importorskip("openai")
    messages = [{"role": "user", "content": served.content}]
    with openai.OpenAI(base_url=served.address, api_key=KEY) as client:
        assert [model.id for model in client.models.list()] == ["owl-tiny"]
        assert client.models.retrieve("owl-tiny").owned_by == "mplug-owl"
        whole = client.chat.completions.create(model="owl-tiny", messages=messages, max_tokens=48)
        assert whole.choices[0].message.content == served.expected[0]
        assert whole.choices[0].finish_reason == "stop"
        options = {"stream": True, "stream_options": {"include_usage": True}, "max_completion_tokens": 48}
        with client.chat.completions.create(model="owl-tiny", messages=messages, **options) as stream:
            chunks = list(stream)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert said == served.expected[0]
        assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
        with pytest.raises(openai.BadRequestError, match="calls no tools"):
            client.chat.completions.create(model="owl-tiny", messages=messages, tools=[{"type": "function"}])
        with pytest.raises(openai.NotFoundError, match="no such model"):
            client.chat.completions.create(model="gpt", messages=messages)
    stranger = openai.OpenAI(base_url=served.address, api_key="x" * 32, max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    assert asyncio.run(_several(openai, served)) == list(served.expected) * 4


async def _several(openai, served: Served) -> list[str]:
    async with openai.AsyncOpenAI(base_url=served.address, api_key=KEY) as client:

        async def one(words: str) -> str:
            content = [served.content[0], {"type": "text", "text": words}]
            said = ""
            stream = await client.chat.completions.create(
                model="owl-tiny", messages=[{"role": "user", "content": content}], max_tokens=48, stream=True
            )
            async for chunk in stream:
                said += chunk.choices[0].delta.content or ""
            return said

        return await asyncio.gather(*map(one, QUESTIONS * 4))


def test_curl(served: Served, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not here")
    body = {"model": "owl-tiny", "messages": [{"role": "user", "content": served.content}], "max_tokens": 48}
    (tmp_path / "body.json").write_text(json.dumps(body))
    sent = ["-H", "Content-Type: application/json", "-d", f"@{tmp_path / 'body.json'}"]
    curl = ["curl", "--silent", "--noproxy", "*", f"{served.address}/chat/completions"]
    told = subprocess.run([*curl, "-H", f"Authorization: Bearer {KEY}", *sent], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout)["choices"][0]["message"]["content"] == served.expected[0]
    told = subprocess.run([*curl, *sent, "--write-out", "%{http_code}"], capture_output=True, text=True, check=True)
    assert told.stdout.endswith("401")


LANGCHAIN = """
import json, sys
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
address, key, content = sys.argv[1], sys.argv[2], json.load(sys.stdin)
model = ChatOpenAI(model="owl-tiny", base_url=address, api_key=key, max_tokens=48, max_retries=0, temperature=0)
message = [HumanMessage(content)]
print(json.dumps([model.invoke(message).content, "".join(part.text for part in model.stream(message))]))
"""
LITELLM = """
import json, sys
import litellm
address, key, content = sys.argv[1], sys.argv[2], json.load(sys.stdin)
messages = [{"role": "user", "content": content}]
asked = dict(model="openai/owl-tiny", api_base=address, api_key=key, messages=messages, max_tokens=48)
whole = litellm.completion(**asked).choices[0].message.content
parts = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True)]
print(json.dumps([whole, "".join(parts)]))
"""


@pytest.mark.parametrize("program", [LANGCHAIN, LITELLM], ids=["langchain", "litellm"])
def test_langchain_and_litellm(program: str, served: Served) -> None:
    python = environment("CLIENTS_ENVIRONMENT") / "python"
    told = subprocess.run(
        [python, "-c", program, served.address, KEY],
        input=json.dumps(served.content),
        capture_output=True,
        text=True,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"},
    )
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout.splitlines()[-1]) == [served.expected[0]] * 2


def environment(name: str) -> Path:
    if name not in os.environ:
        pytest.skip(f"{name} names no environment; docs/serving.md says how to make one")
    return Path(os.environ[name]) / "bin"


def test_inspect(served: Served, tmp_path: Path) -> None:
    """OwlEval's questions as inspect-ai asks them; the answers are those of `owl eval`."""
    programs, folder = environment("INSPECT_ENVIRONMENT"), folder_of(tmp_path)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"OWL_BASE_URL": served.address, "OWL_API_KEY": KEY}
    asking = [str(programs / "inspect"), "eval", "examples/inspect_owleval.py", "-T", f"data={folder}"]
    told = ["--model", "openai-api/owl/owl-tiny", "--log-dir", str(tmp_path / "logs"), "--display", "none"]
    done = subprocess.run([*asking, *told, "--max-tokens", "48"], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (log,) = (tmp_path / "logs").glob("*.eval")
    reading = [str(programs / "python"), "examples/inspect_owleval.py", str(log)]
    file = tmp_path / "answers.jsonl"
    file.write_text(subprocess.run(reading, cwd=ROOT, env=variables, capture_output=True, text=True, check=True).stdout)
    task = OwlEval(folder)
    answers = read_answers(file, task)
    assert len(answers) == sum(len(task.questions(one.split)) for one in task.conditions)
    assert all(any(answer.turns) for answer in answers)


def test_lmms_eval(served: Served, tmp_path: Path) -> None:
    """The drawn world as lmms-eval asks a server; the score is that of `owl eval`, and nothing failed."""
    programs, world = environment("LMMS_EVAL_ENVIRONMENT"), DrawnWorld()
    questions = [question for question in world.questions("seen", 4, 0)[:24] if len(question.turns) == 1]
    names = write_tasks(world, world.conditions[0], tmp_path / "tasks", limit=24, tokens=48)
    model = f"model_version=owl-tiny,base_url={served.address},api_key={KEY},num_cpus=4,max_retries=1"
    told = ["--model", "async_openai", "--model_args", model, "--tasks", names[0], "--log_samples"]
    where = ["--include_path", str(tmp_path / "tasks"), "--batch_size", "1", "--output_path", str(tmp_path / "out")]
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [str(programs / "python"), "-m", "lmms_eval", "eval", *told, *where],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "LMMS_EVAL_REQUEST_FAILED" not in said
    results = list((tmp_path / "out").rglob("*_results.json"))
    assert len(results) == 1, said  # a package that lacks is told there, and the exit code is 0
    score = json.loads(results[0].read_text("utf-8"))["results"][names[0]]["exact_match,none"]
    answers = ask(OwlChatModel(load("owl-tiny", device="cpu")), questions, world.conditions[0])
    grades = world.grader.grades(answers)
    assert score == pytest.approx(sum(bool(grade.correct) for grade in grades) / len(grades))
