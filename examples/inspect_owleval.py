"""OwlEval for inspect-ai: the 82 questions to any server that speaks OpenAI's language, and its answers out of the log.

    inspect eval examples/inspect_owleval.py -T data=path/to/OwlEval --model openai-api/owl/NAME
    python examples/inspect_owleval.py logs/LOG.eval > answers.jsonl

The first asks, with OWL_BASE_URL and OWL_API_KEY in the environment. The second writes what `owl eval answers:FILE owleval`,
`owl rate` and `owl judge` read: people or a judge that sees the picture give the grades, and nobody does here.
"""

import json
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import read_eval_log
from inspect_ai.model import ChatMessageUser, ContentImage, ContentText
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver


@task
def owleval(data: str, max_tokens: int = 512) -> Task:
    """Both halves: 50 questions alone, and 52 after the earlier multi-turn questions about their picture."""
    questions = MemoryDataset(list(samples(Path(data))), name="owleval")
    return Task(dataset=questions, solver=dialogue(max_tokens), scorer=answered())


def samples(data: Path) -> Iterator[Sample]:
    """A sample for each question of each half, as the paper splits them."""
    dialogues: dict[str, list[str]] = {}
    for line in (data / "questions.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        picture = next(iter(sorted((data / "cases").glob(f"{Path(row['image']).stem}.*"))), None)
        if picture is None:
            raise FileNotFoundError(f"{data / 'cases' / row['image']}: no such picture, whatever its ending")
        earlier = dialogues.setdefault(row["image"], [])
        for half, turns in (("single", [row["question"]]), ("multi", [*earlier, row["question"]])):
            if f"{half}_turn" in row["category"]:
                about = {"split": half, "question_id": str(row["question_id"]), "image": row["image"], "turns": turns}
                yield Sample(turns[0], id=f"{half}-{row['question_id']}", metadata={**about, "picture": str(picture)})
        if "multi_turn" in row["category"]:
            earlier.append(row["question"])


def inline(picture: Path) -> str:
    """A picture's file as a data URL: inspect-ai sends no other, and the server need not see our disk."""
    kind = "jpeg" if picture.suffix.lower() in (".jpg", ".jpeg") else picture.suffix[1:].lower()
    return f"data:image/{kind};base64,{b64encode(picture.read_bytes()).decode()}"


@solver
def dialogue(max_tokens: int) -> Solver:
    """Turn by turn, the picture with the first, each after the model's own answers. Greedy, as `owl eval` asks."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state.messages, answers = [], []
        for turn, words in enumerate(state.metadata["turns"]):
            shown = [ContentImage(image=inline(Path(state.metadata["picture"])))] if turn == 0 else []
            state.messages.append(ChatMessageUser(content=[*shown, ContentText(text=words)]))
            state = await generate(state, temperature=0, max_tokens=max_tokens)
            answers.append(state.output.completion.strip())
        state.metadata["answers"] = answers
        return state

    return solve


@scorer(metrics=[mean()])
def answered() -> Scorer:
    """How many questions have an answer at all. Whether it is good, others say."""

    async def score(state: TaskState, target: Target) -> Score:
        answers = state.metadata["answers"]
        return Score(value=float(bool(answers[-1])), answer=answers[-1], metadata={"answers": answers})

    return score


def lines(log: str) -> Iterator[dict[str, Any]]:
    """A log's answers, a line of answers.jsonl each. A log of a run that failed is refused."""
    read = read_eval_log(log)
    if read.status != "success":
        raise SystemExit(f"{log}: its run ended with {read.status}; run it again")
    for sample in read.samples or []:
        about, answers = sample.metadata, (sample.scores or {})["answered"].metadata["answers"]
        turns = [{"question": words, "answer": said} for words, said in zip(about["turns"], answers, strict=True)]
        row = {name: about[name] for name in ("question_id", "image", "split")}
        yield {"task": "owleval", "model_id": read.eval.model, "mode": "picture", **row, **turns[-1], "earlier": turns[:-1]}


if __name__ == "__main__":
    for each in lines(sys.argv[1]):
        print(json.dumps(each, ensure_ascii=False))
