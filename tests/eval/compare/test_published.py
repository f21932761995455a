"""The paper's counts come back, every number."""

from mplug_owl.eval.compare.published import published

# A, B, C and D as the paper shows them, in single-turn and in multi-turn questions.
COUNTS = {
    "OpenFlamingo": ((5, 5, 15, 25), (4, 4, 16, 28)),
    "BLIP-2": ((13, 13, 9, 15), (13, 10, 17, 12)),
    "LLaVA": ((23, 12, 13, 2), (16, 17, 19, 0)),
    "MiniGPT-4": ((35, 3, 10, 2), (25, 6, 21, 0)),
    "mPLUG-Owl": ((32, 10, 8, 0), (31, 8, 13, 0)),
}


def test_every_number_is_the_papers() -> None:
    halves = published().halves
    assert {name: (halves["single"][name].counts, halves["multi"][name].counts) for name in halves["single"]} == COUNTS


def test_each_system_answered_every_question() -> None:
    read = published()
    assert read.questions == {"single": 50, "multi": 52}
    for half, systems in read.halves.items():
        assert {name: counts.graded for name, counts in systems.items()} == dict.fromkeys(COUNTS, read.questions[half])


def test_the_share_that_the_paper_speaks_of() -> None:
    owl = published().halves["single"]["mPLUG-Owl"]
    assert str(owl.acceptable) == "84.0 [71.5, 91.7]"
