"""The run that puts faults into the code knows what it changes and which tests have to notice."""

import pytest

from tests.mutants import PACKAGE, ROOT, all_mutants, drawn, mutants, mutants_by_hand

CODE = '''
def share(counts: list[int], whole: int = 4) -> float:
    """What is left of a whole."""
    if not counts or whole == 0:
        raise UserError(f"{whole - 1} is too few")
    self.last = min(whole, counts[-1])
    log(whole, 2)
    return round(sum(counts) / whole, ndigits=2)
'''


def changed(line: int) -> list[str]:
    return [f"{mutant.before} -> {mutant.after}" for mutant in mutants("share", CODE) if mutant.line == line]


def test_types_docstrings_and_messages_are_left_alone() -> None:
    assert changed(2) == ["4 -> 5"]
    assert changed(3) == []
    assert changed(5) == ['raise UserError(f"{whole - 1} is too few") -> pass']


def test_each_kind_of_fault() -> None:
    assert sorted(changed(4)) == sorted(
        [
            "not counts or whole == 0 -> (not counts and whole == 0)",
            "not counts or whole == 0 -> (not (not counts or whole == 0))",
            "not counts -> (counts)",
            "whole == 0 -> (whole != 0)",
            "0 -> 1",
        ]
    )
    assert "min(whole, counts[-1]) -> (min(counts[-1], whole))" not in changed(6)  # that would be the same
    assert "log(whole, 2) -> (log(2, whole))" in changed(7)
    assert "self.last = min(whole, counts[-1]) -> pass" in changed(6)
    assert "-1 -> (1)" in changed(6)
    assert "log(whole, 2) -> pass" in changed(7)
    assert "return round(sum(counts) / whole, ndigits=2) -> return None" in changed(8)
    assert "sum(counts) / whole -> (sum(counts) * whole)" in changed(8)
    assert "round(sum(counts) / whole, ndigits=2) -> (round(sum(counts) / whole))" in changed(8)


def test_a_seed_draws_the_same_faults() -> None:
    assert drawn(1, 20) == drawn(1, 20) != drawn(2, 20)
    assert set(drawn(1, 10)) <= set(drawn(1, 20))


def test_every_fault_is_code_that_python_reads() -> None:
    for mutant in drawn(0, 100):
        text = (ROOT / mutant.file).read_bytes()
        changed = text[: mutant.start] + mutant.after.encode() + text[mutant.end :]
        compile(changed, str(mutant), "exec")
        assert changed != text


def test_every_module_has_a_closest_test_file() -> None:
    gone = {mutant.test for mutant in [*all_mutants(), *mutants_by_hand()] if not (ROOT / mutant.test).is_file()}
    assert gone == set()


def test_faults_made_by_hand_are_still_where_they_were() -> None:
    for mutant in mutants_by_hand():
        assert (ROOT / PACKAGE / f"{mutant.module}.py").read_text("utf-8").count(mutant.before) == 1


@pytest.mark.parametrize("module", ["model/owl", "model/abstractor", "data/encode", "data/packing", "data/mixture"])
def test_the_heart_of_the_code_is_tried(module: str) -> None:
    assert any(mutant.module == module for mutant in all_mutants())
