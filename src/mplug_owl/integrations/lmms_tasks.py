"""Tasks for lmms-eval made on the spot: OwlEval from its folder, and the drawn world's exam.

    python -m mplug_owl.integrations.lmms_tasks owleval TASKS --data path/to/OwlEval
    python -m mplug_owl.integrations.lmms_tasks scenes TASKS --limit 50

lmms-eval finds them with `--include_path TASKS`. Questions of one turn are a task of their own, dialogues another.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mplug_owl.errors import BadSample, UserError, WriteError
from mplug_owl.eval.answer import DECODING
from mplug_owl.eval.graders.exact import matches
from mplug_owl.eval.task import Condition, Question, Task
from mplug_owl.eval.tasks.owleval import OwlEval
from mplug_owl.eval.tasks.scenes import DrawnWorld
from mplug_owl.writing import writing

YAML = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {output}
doc_to_visual: !function owl_tasks.pictures
doc_to_text: !function owl_tasks.words
doc_to_messages: !function owl_tasks.messages
doc_to_target: target
process_results: !function owl_tasks.{result}
generation_kwargs:
  max_new_tokens: {tokens}
  do_sample: false
  until: []
metric_list:
  - metric: {metric}
    aggregation: {aggregation}
    higher_is_better: true
"""


def write_tasks(task: Task, condition: Condition, out: Path, limit: int | None, tokens: int) -> list[str]:
    """One half of a task as tasks of lmms-eval: questions, a YAML and the functions that it names. Says their names."""
    questions = task.questions(condition.split, limit if task.name == "owleval" else -(-(limit or 1200) // 6), 0)[:limit]
    kinds = {"generate_until": questions, "generate_until_multi_round": []}
    if any(len(question.turns) > 1 for question in questions):
        kinds = {
            "generate_until": [question for question in questions if len(question.turns) == 1],
            "generate_until_multi_round": [question for question in questions if len(question.turns) > 1],
        }
    names = []
    with writing(out):
        (out / "pictures").mkdir(parents=True, exist_ok=True)
        (out / "owl_tasks.py").write_text("from mplug_owl.integrations.lmms_tasks import *\n", "utf-8")
        for output, several in kinds.items():
            if not several:
                continue
            name = f"owl_{task.name}_{condition.split}{'_dialogues' if output.endswith('round') else ''}"
            rows = [_row(question, condition, out / "pictures") for question in several]
            data = out / f"{name}.jsonl"
            data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
            graded = bool(questions[0].target)
            result, metric = ("correct", "exact_match") if graded else ("answered", "answers")
            (out / f"{name}.yaml").write_text(
                YAML.format(
                    name=name,
                    data=json.dumps(str(data.resolve())),
                    output=output,
                    result=result,
                    tokens=tokens,
                    metric=metric,
                    aggregation="mean" if graded else "!function owl_tasks.write_answers",
                ),
                "utf-8",
            )
            names.append(name)
    return names


def _row(question: Question, condition: Condition, folder: Path) -> dict[str, Any]:
    """A question as a line: its turns, its target, and its picture's file."""
    file = folder / f"{condition.split}-{question.image or question.id}.png"
    if question.picture is not None:  # one that is there may be of other data
        question.picture().convert("RGB").save(file)
    return {
        "question_id": question.id,
        "split": condition.split,
        "image": question.image or file.name,
        "file": str(file.resolve()),
        "turns": [words for words, _ in question.turns],
        "target": question.target,
    }


@contextmanager
def failing_loudly() -> Iterator[None]:
    """lmms-eval prints an exception and exits with 0, as a run that went well: what fails here ends the process."""
    try:
        yield
    except (UserError, BadSample, WriteError) as error:
        print(f"mplug_owl: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from error
    except Exception as error:
        traceback.print_exc()
        raise SystemExit(1) from error


# What the tasks' files name.


def pictures(doc: Mapping[str, Any]) -> list[Any]:
    """A document's picture."""
    from PIL import Image

    return [Image.open(doc["file"]).convert("RGB")]


def words(doc: Mapping[str, Any], *_: object, **__: object) -> str:
    """The words of its first turn."""
    return str(doc["turns"][0])


def messages(
    doc: Mapping[str, Any],
    round_idx: int | None = None,
    previous_output: Sequence[str] = (),
    previous_round_info: object = None,
) -> Any:
    """The chat up to the turn that is asked: the picture first, earlier turns with the model's own answers."""
    said = list(previous_output) if round_idx else []
    if len(said) >= len(doc["turns"]):
        return None, True, said, None
    chat: list[dict[str, Any]] = []
    for turn, question in enumerate(doc["turns"][: len(said) + 1]):
        shown = [{"type": "image", "url": picture} for picture in pictures(doc)] if turn == 0 else []
        chat.append({"role": "user", "content": [*shown, {"type": "text", "text": question}]})
        if turn < len(said):
            chat.append({"role": "assistant", "content": [{"type": "text", "text": said[turn]}]})
    return (chat, False, said, None) if round_idx else chat


def correct(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """1 where the last answer is the target, as `owl eval` grades it."""
    return {"exact_match": float(matches(_said(results)[-1], doc["target"]))}


def answered(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """A line of answers.jsonl, for people or a judge to grade."""
    said = _said(results)
    turns = [{"question": question, "answer": answer} for question, answer in zip(doc["turns"], said, strict=True)]
    row = {"question_id": doc["question_id"], "image": doc["image"], "split": doc["split"], "mode": "picture"}
    return {"answers": {**row, **turns[-1], "earlier": turns[:-1]}}


@failing_loudly()
def write_answers(rows: Sequence[Mapping[str, Any]], args: Any) -> int:
    """The answers into `answers-SPLIT.jsonl` under --output_path, which `owl eval answers:FILE owleval` reads. How many."""
    folder = Path(getattr(args, "output_path", None) or ".")
    given = dict(pair.split("=", 1) for pair in str(args.model_args or "").split(",") if "=" in pair)
    name = given.get("pretrained") or given.get("model_version") or given.get("model") or str(args.model)
    several = "-dialogues" if any(row["earlier"] for row in rows) else ""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"task": "owleval", "model_id": name, **row}, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"answers-{rows[0]['split']}{several}.jsonl").write_text("".join(lines), "utf-8")
    return len(rows)


def _said(results: Sequence[Any]) -> list[str]:
    """A document's answers: a list of rounds comes within a list."""
    return [str(answer).strip() for answer in (results[0] if isinstance(results[0], list) else results)]


def main() -> None:
    """Write the tasks and say their names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["owleval", "scenes"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="OwlEval's folder")
    parser.add_argument("--limit", type=int, help="so many questions of each half")
    parser.add_argument("--max-new-tokens", type=int)
    given = parser.parse_args()
    if given.task == "owleval" and given.data is None:
        parser.error("owleval needs --data, OwlEval's folder")
    task: Task = OwlEval(given.data) if given.task == "owleval" else DrawnWorld()
    conditions = task.conditions if given.task == "owleval" else task.conditions[:1]
    tokens = given.max_new_tokens or (512 if given.task == "owleval" else DECODING.max_new_tokens)
    with failing_loudly():
        names = [name for one in conditions for name in write_tasks(task, one, given.out, given.limit, tokens)]
    print(",".join(names))


if __name__ == "__main__":
    main()
