"""Do the tests bite? Small faults are put into the code, one at a time, and the closest test file has to notice each.

`python -m tests.mutants` draws faults by a seed, makes each in a copy of the project and runs there the one test file that
mirrors the changed module. What is torch, transformers and the like is imported once; every fault gets a forked process.
Results go line by line into a file, and a later run does only what has no line yet.
"""

import ast
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
PACKAGE = "src/mplug_owl"
COPIED = ("src", "tests", "benchmarks", "examples", "docs", "README.md", "CHANGELOG.md", "Makefile", "pyproject.toml")
# What is tried: the model, and what decides which words are learned and how a step adds up.
MODULES = ("model/*", "data/encode", "data/packing", "data/mixture", "data/apportion", "data/order")
# The closest test file where it has another name than its module's.
CLOSEST = {
    "model/adapter": "tests/model/test_convert.py",
    "model/encoder": "tests/model/test_processor.py",
    "model/open_picture": "tests/model/test_images.py",
    "model/pretrained": "tests/model/test_owl.py",
    "model/template_additions": "tests/model/test_template.py",
    "model/template_tokens": "tests/model/test_template.py",
    "train/loop": "tests/train/test_step.py",
    "train/session": "tests/train/test_step.py",
}

# Faults that readers of this code thought of: module, a piece of its text that occurs once, what stands there instead.
BY_HAND = (
    # the abstractor's self-attention removed, patches not normed, the residual from the queries as they were
    ("model/abstractor", "torch.cat([queries_IQD, self.normk(patches_IPD)], dim=1)", "self.normk(patches_IPD)"),
    ("model/abstractor", "self.normk(patches_IPD)", "patches_IPD"),
    (
        "model/abstractor",
        "queries_IQD + self.attention(queries_IQD,",
        "queries_IQD / self.norm1.weight + self.attention(queries_IQD,",
    ),
    # keys and values exchanged
    ("model/abstractor", "self.config, query_IHQK, key_IHSK, value_IHSK", "self.config, query_IHQK, value_IHSK, key_IHSK"),
    ("model/connectors", "attention(query, key, value, attn_mask", "attention(query, value, key, attn_mask"),
    ("model/vision", "self.config, query, key, value", "self.config, query, value, key"),
    # the resampler's query norm and patch norm skipped
    ("model/connectors", "self.query_norm(queries_IQD)", "queries_IQD"),
    ("model/connectors", "self.patch_norm(patches_IPD)", "patches_IPD"),
    # the Q-Former blind
    ("model/connectors", "queries_IQD + self.cross(queries_IQD, patches_IPD)", "queries_IQD"),
    # the ViT's post-norm dropped
    ("model/vision", "tokens_ISD = self.post_layernorm(tokens_ISD)\n", "pass\n"),
    # the logit soft-cap skipped
    ("model/owl", "torch.tanh(logits / cap) * cap", "logits"),
    # padding takes positions
    ("model/owl", "(attention_mask.long().cumsum(-1) - 1).clamp(min=0)", "torch.arange(attention_mask.shape[1])[None]"),
    # frozen modules keep dropout on
    ("train/trainable", 'module.train(getattr(trainable, name) != "frozen")', "module.train()"),
    ("train/session", "set_mode(owl.model, recipe.trainable)", "owl.model.train()"),
    # gradient clipping off
    ("train/loop", "clip_gradients(run.learner, recipe.clip)", "clip_gradients(run.learner, None)"),
    ("train/optim", 'max_norm or float("inf")', 'float("inf")'),
    # the same permutation every epoch
    ("data/order", "(self.seed, 0, self.source, epoch)", "(self.seed, 0, self.source)"),
    # the first packed token supervised
    ("data/loader", "token if supervised and position else -100", "token if supervised else -100"),
)

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


# Functions that do not mind in which order their arguments come.
SYMMETRIC = ("transpose", "min", "max")


@dataclass(frozen=True)
class Mutant:
    """One fault: the text between two places of a module, and what stands there instead."""

    module: str
    line: int
    kind: str
    start: int
    end: int
    after: str
    before: str

    @property
    def test(self) -> str:
        """The test file that has to notice it."""
        folder, _, name = self.module.rpartition("/")
        return CLOSEST.get(self.module, f"tests/{folder}/test_{name}.py")

    @property
    def file(self) -> str:
        """The module's file, from the project's root."""
        return f"{PACKAGE}/{self.module}.py"

    @cached_property
    def key(self) -> str:
        """What tells it from others, and from itself once module or test file have changed."""
        texts = (ROOT / self.file).read_bytes() + (ROOT / self.test).read_bytes()
        return hashlib.sha256(texts + repr((self.module, self.start, self.end, self.after)).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.module}.py:{self.line}: {self.kind}: {self.before} -> {self.after}"


# Which faults there are


def mutants(module: str, text: str) -> Iterator[Mutant]:
    """Every fault that this script knows to make in a module."""
    lines = [0]
    for line in text.encode().splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    for node, kind, after in _faults(ast.parse(text)):
        start = lines[node.lineno - 1] + node.col_offset
        end = lines[node.end_lineno - 1] + node.end_col_offset
        before = text.encode()[start:end].decode()
        if after != before:
            yield Mutant(module, node.lineno, kind, start, end, after, before)


def _faults(tree: ast.AST) -> Iterator[tuple[Any, str, str]]:
    """(what is replaced, kind of fault, replacement), but for what nobody computes with: types, docstrings, messages."""
    for node in _code(tree):
        match node:
            case ast.Compare(ops=[op]) if type(op) in SWAPPED:
                yield node, "comparison", _changed(node, ops=[SWAPPED[type(op)]()])
            case ast.BoolOp(op=op) | ast.BinOp(op=op) if type(op) in SWAPPED:
                yield node, "operator", _changed(node, op=SWAPPED[type(op)]())
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                yield node, "sign", f"({ast.unparse(operand)})"
            case ast.Constant(value=bool() as value):
                yield node, "constant", repr(not value)
            case ast.Constant(value=int() as value):
                yield node, "constant", repr(value + 1)
            case ast.Constant(value=float() as value):
                yield node, "constant", repr(value * 2 + (value == 0))
            case ast.Call(func=called, args=[first, second, *rest]) if not _same(first, second):
                if ast.unparse(called).split(".")[-1] not in SYMMETRIC:
                    yield node, "arguments", _changed(node, args=[second, first, *rest])
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test) if not isinstance(
                test, ast.Compare | ast.UnaryOp
            ):
                yield test, "condition", f"(not ({ast.unparse(test)}))"
            case ast.Return(value=ast.expr()):
                yield node, "return", "return None"
            case ast.Expr(value=ast.Call()) | ast.Raise() | ast.AugAssign() | ast.Delete():
                if "super().__init__" not in ast.unparse(node):  # without which no module can be made
                    yield node, "statement", "pass"
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                yield node, "statement", "pass"
            case ast.Continue():
                yield node, "statement", "break"
            case ast.Break():
                yield node, "statement", "continue"
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg is not None:
                    kept = [other for other in node.keywords if other is not keyword]
                    yield node, f"without {keyword.arg}=", _changed(node, keywords=kept)


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """What is under a node, itself included."""
    yield node
    match node:
        case ast.Raise() | ast.JoinedStr():  # messages
            return
        case ast.AnnAssign(value=value):
            children = [value] if value is not None else []
        case ast.FunctionDef(args=arguments, body=body):
            children = [*arguments.defaults, *(default for default in arguments.kw_defaults if default), *body]
        case ast.ClassDef(body=body):
            children = body
        case _:
            children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from _code(child)


def _same(first: ast.expr, second: ast.expr) -> bool:
    """Whether two arguments are the same, or cannot change places."""
    return ast.dump(first) == ast.dump(second) or isinstance(first, ast.Starred) or isinstance(second, ast.Starred)


def _changed(node: Any, **fields: Any) -> str:
    kept = {name: getattr(node, name) for name in node._fields}
    return f"({ast.unparse(type(node)(**kept | fields))})"


def all_mutants() -> list[Mutant]:
    """Every fault in the modules that are tried."""
    found = []
    for pattern in MODULES:
        for path in sorted((ROOT / PACKAGE).glob(f"{pattern}.py")):
            if path.stem != "__init__":
                module = path.relative_to(ROOT / PACKAGE).with_suffix("").as_posix()
                found += mutants(module, path.read_text("utf-8"))
    return found


def drawn(seed: int, limit: int) -> list[Mutant]:
    """That many faults, by module. A change of one module changes what is drawn of the others little."""

    def lot(mutant: Mutant) -> str:
        return hashlib.sha256(repr((seed, mutant.module, mutant.kind, mutant.before, mutant.after)).encode()).hexdigest()

    return sorted(sorted(all_mutants(), key=lot)[:limit], key=lambda mutant: (mutant.module, mutant.start))


def mutants_by_hand() -> list[Mutant]:
    """Those in BY_HAND. Raises ValueError where the text is not there, or not once."""
    found = []
    for module, before, after in BY_HAND:
        text = (ROOT / PACKAGE / f"{module}.py").read_bytes()
        if text.count(before.encode()) != 1:
            raise ValueError(f"{module}.py: occurs {text.count(before.encode())} times: {before}")
        start = text.index(before.encode())
        line = text.count(b"\n", 0, start) + 1
        found.append(Mutant(module, line, "by hand", start, start + len(before.encode()), after, before))
    return found


# Trying them


class Watcher:
    """A pytest plugin that keeps the name of the first test that fails."""

    def __init__(self) -> None:
        self.failed = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid.split("::", 1)[-1]

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = "import"


def in_child(copy: Path, test: str, keep_bytecode: bool = False) -> int:
    """Fork a process that runs one test file of a copy; it leaves copy/result.json. Returns the process's id."""
    if child := os.fork():
        return child
    try:
        os.setsid()
        os.chdir(copy)
        quiet = os.open(copy / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os.environ["PYTHONPATH"] = str(copy / "src")
        sys.dont_write_bytecode = not keep_bytecode
        sys.path[:0] = [str(copy), str(copy / "src")]
        for name in [name for name in sys.modules if name.split(".")[0] in ("mplug_owl", "mplug_owl_cli", "tests")]:
            del sys.modules[name]
        import pytest

        watcher = Watcher()
        options = [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-W",
            "ignore:Module already imported",
            f"--basetemp={copy / 'scratch'}",
        ]
        code = pytest.main([*options, "-m", "not slow", test], plugins=[watcher])
        modules = sorted(sys.modules) if keep_bytecode else []
        (copy / "result.json").write_text(json.dumps({"code": int(code), "failed": watcher.failed, "modules": modules}))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def waited_for(child: int, seconds: float) -> bool:
    """Whether a child ended in time; it is killed with its children where it did not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return True
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def result_of(copy: Path) -> dict[str, Any]:
    """What a child left behind; one that crashed left nothing."""
    file = copy / "result.json"
    found = json.loads(file.read_text()) if file.is_file() else {"code": -1, "failed": "crash"}
    file.unlink(missing_ok=True)
    shutil.rmtree(copy / "scratch", ignore_errors=True)
    return found


def baseline(copy: Path, test: str) -> float:
    """Seconds that a test file takes on the code as it is. Raises RuntimeError where it does not pass.

    What it imports from elsewhere is imported here too, so that no child has to.
    """
    began = time.monotonic()
    waited_for(in_child(copy, test, keep_bytecode=True), 600)
    seconds, result = time.monotonic() - began, result_of(copy)
    if result["code"] != 0:
        raise RuntimeError(f"{test} does not pass without a fault:\n{(copy / 'output.txt').read_text()[-3000:]}")
    for name in result["modules"]:
        if (
            name.split(".")[0] not in ("mplug_owl", "mplug_owl_cli", "tests", "benchmarks", "conftest")
            and name not in sys.modules
        ):
            try:
                importlib.import_module(name)
            except Exception:  # a part of something that only its own package can import
                continue
    return seconds


def tried(copy: Path, mutant: Mutant, seconds: float) -> dict[str, Any]:
    """Make a fault, run its test file for so many seconds at most, undo it."""
    file = copy / mutant.file
    text = file.read_bytes()
    held = file.stat()
    began = time.monotonic()
    file.write_bytes(text[: mutant.start] + mutant.after.encode() + text[mutant.end :])
    try:
        ended = waited_for(in_child(copy, mutant.test), seconds)
    finally:
        file.write_bytes(text)
        os.utime(file, ns=(held.st_atime_ns, held.st_mtime_ns))  # or its bytecode would be stale
    result = result_of(copy) if ended else {"code": 1, "failed": "timeout"}
    killed = (result["failed"] or f"exit code {result['code']}") if result["code"] else ""  # 4: not even conftest.py imports
    return {"key": mutant.key, **asdict(mutant), "killed_by": killed, "seconds": round(time.monotonic() - began, 2)}


def read(file: Path) -> dict[str, dict[str, Any]]:
    """The lines of earlier runs, by the fault's key."""
    lines = file.read_text("utf-8").splitlines() if file.is_file() else []
    return {row["key"]: row for row in map(json.loads, lines)}


# What came out


def show(rows: list[dict[str, Any]]) -> None:
    """A table by module, and every survivor."""
    table = Table("module", "faults", "noticed", "%")
    modules = sorted({row["module"] for row in rows})
    for module in [*modules, "all"]:
        own = [row for row in rows if module in ("all", row["module"])]
        noticed = sum(bool(row["killed_by"]) for row in own)
        table.add_row(module, str(len(own)), str(noticed), f"{100 * noticed / len(own):.1f}")
    console = Console()
    console.print(table)
    for row in rows:
        if not row["killed_by"]:
            console.print(f"{row['module']}.py:{row['line']}: {row['kind']}: {row['before']} -> {row['after']}", markup=False)


def main(
    seed: Annotated[int, typer.Option(help="Which faults are drawn.")] = 0,
    limit: Annotated[int, typer.Option(help="How many; those made by hand come on top.")] = 200,
    only: Annotated[str, typer.Option(help="Modules whose name begins so.")] = "",
    out: Annotated[Path, typer.Option(help="Results, a line each; a later run resumes.")] = Path("runs/mutants.jsonl"),
) -> None:
    """Try faults and print which test files notice them."""
    chosen = [mutant for mutant in mutants_by_hand() + drawn(seed, limit) if mutant.module.startswith(only)]
    out.parent.mkdir(parents=True, exist_ok=True)
    done = read(out)
    with tempfile.TemporaryDirectory() as folder, out.open("a", encoding="utf-8") as lines:
        copy = Path(folder) / "copy"
        copy.mkdir()
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            elif (ROOT / name).is_file():
                shutil.copy2(ROOT / name, copy / name)
        usual: dict[str, float] = {}
        for number, mutant in enumerate(chosen):
            if mutant.key in done:
                continue
            if mutant.test not in usual:
                baseline(copy, mutant.test)
                usual[mutant.test] = baseline(copy, mutant.test)
            row = tried(copy, mutant, 20 + 5 * usual[mutant.test])
            done[mutant.key] = row
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            print(f"{number + 1}/{len(chosen)} {row['seconds']:6.1f} s  {row['killed_by'] or 'SURVIVED':40.40}  {mutant}")
    show([done[mutant.key] for mutant in chosen])


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
