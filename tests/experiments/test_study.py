"""Studies as values: what is refused, how they are found and shortened, and what the two of the paper hold."""

from dataclasses import replace
from pathlib import Path

import pytest

from mplug_owl.errors import UserError
from mplug_owl.experiments import cells as cells_of_a_study
from mplug_owl.experiments import smol_study, studies
from mplug_owl.experiments.cells import Cell
from mplug_owl.experiments.study import Arm, Claim, Study, find, scaled
from mplug_owl.recipes import smol
from mplug_owl.train.recipe import Recipe, as_json
from tests.school import lesson

ONE = Arm("one", "a lesson", (lesson(),))


@pytest.mark.parametrize("name", ["training", "data"])
def test_the_paper_s_studies_end_with_the_paper_s_recipe(name: str) -> None:
    study = find(name)
    assert study.compared_with == "r5"
    assert {"r1", "r5"} <= {arm.name for arm in study.arms}
    assert [stage.steps for stage in study.arm("r5").stages] == [studies.STAGE_1, studies.STAGE_2]


def test_longer_arms_have_all_steps_of_both_stages() -> None:
    study, both = find("training"), studies.STAGE_1 + studies.STAGE_2
    for name in ("r1-long", "r2-long", "r2-abstractor", "joint", "reversed", "r5"):
        assert sum(stage.steps or 0 for stage in study.arm(name).stages) == both


@pytest.mark.parametrize("name", ["training", "data"])
def test_arms_of_a_study_differ(name: str) -> None:
    cells = [Cell(arm, 0, Path("out")).folder for arm in find(name).arms]
    assert len(set(cells)) == len(cells)


def test_with_another_language_model_the_arms_are_those_of_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"smol_words runs/smol.words makes it"):
        find("smol")
    smol_study.WORDS.mkdir(parents=True)
    study = find("smol")
    ours = (*find("training").claims, *find("data").claims)
    assert [claim for claim in ours if not {"r1-long", "r2-long"} & {claim.better, claim.worse}] == list(study.claims)
    languages = {stage.modules.language for arm in study.arms for stage in arm.stages}
    assert languages == {smol.SMOLLM2.locate()}
    for name in ("r3", "r4", "r5"):
        assert study.arm(name).stages[0] == study.arm("r1").stages[0], name
    for name in ("r1", "r2", "r3", "r4", "r5"):
        theirs = (find("training") if name == "r2" else find("data")).arm(name).stages
        assert [stage.data for stage in study.arm(name).stages] == [stage.data for stage in theirs], name
        assert [stage.text_share for stage in study.arm(name).stages] == [stage.text_share for stage in theirs], name
    (fresh,) = study.arm("r2").stages
    assert fresh.init_from is None
    assert fresh.modules.vision == "tiny-vision"


def test_half_a_study_has_half_the_steps_and_a_warm_up_that_fits() -> None:
    first = scaled(find("training"), 0.01).arm("r1").stages[0]
    assert (first.steps, first.schedule.warmup_steps) == (12, 3)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Arm("Big Name", "", (lesson(),)), "lower-case letters"),
        (lambda: Arm("none", ""), "no stages and nobody who answers"),
        (lambda: Arm("long", "", (lesson(steps=None, epochs=1.0),)), "a study needs steps"),
        (lambda: Study("s", "", (ONE, ONE)), "no name twice"),
        (lambda: Study("s", "", ()), "its arms are none"),
        (lambda: Study("s", "", (ONE,), reference="two"), "speaks of an arm 'two'; it has one"),
        (lambda: Study("s", "", (ONE,), claims=(Claim("", "one", "three"),)), "speaks of an arm 'three'"),
        (lambda: Study("s", "", (ONE,), conditions=("blind",)), "has no condition 'blind'; it has with the picture"),
        (
            lambda: Study("s", "", (ONE,), conditions=("with the picture",), claims=(Claim("", "one", "one", "without"),)),
            "claims something of 'without', which it does not ask; conditions has with the picture",
        ),
        (lambda: find("lesson"), "no study 'lesson'; there are training, data, paradigms, smol"),
        (
            lambda: find("./mine.py"),
            r"\./mine\.py: names a file and no function of it; expected \./mine\.py:FUNCTION, .*:study$",
        ),
        (lambda: find("mplug_owl.experiments.studies:pretrain"), "returns a Recipe; expected a Study"),
    ],
)
def test_what_does_not_fit_is_refused(made: object, message: str) -> None:
    assert callable(made)
    with pytest.raises(UserError, match=message):
        made()


def test_a_study_of_one_s_own_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from mplug_owl.experiments.study import Arm, Study\nfrom mplug_owl.recipes import tiny\n"
        "def study():\n    return Study('mine', 'Why?', (Arm('a', 'b', (tiny.pretrain(),)),))\n"
    )
    assert find(f"{tmp_path}/mine.py:study").name == "mine"


def test_sizes_that_a_study_s_file_gets_wrong_are_told_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\nfrom mplug_owl.experiments.study import Arm, Study\n"
        "from mplug_owl.recipes import tiny\ndef sizes():\n    raise OSError('no hub,\\nno config')\n"
        "def study():\n    stage = tiny.pretrain()\n"
        "    return Study('mine', '', (Arm('a', '', (replace(stage, modules=replace(stage.modules, config=sizes)),)),))\n"
    )
    with pytest.raises(UserError, match=r"mine\.py, line 5: OSError: no hub, no config$"):
        find(f"{tmp_path}/mine.py:study")


def test_a_folder_is_named_by_recipe_data_and_seed() -> None:
    first, other = (Cell(ONE, seed, Path("out")).runs[0] for seed in (0, 1))
    assert first.name.startswith("lesson--seed0-")
    assert first.digest != other.digest


def test_a_field_at_its_default_leaves_a_cell_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that was begun before a field came is found again, for every stage of the paper's studies."""

    def folders() -> list[Path]:  # of new cells, for a cell keeps its name once it is asked for
        return [Cell(arm, 1, Path("out")).folder for name in ("training", "data") for arm in find(name).arms]

    now = folders()
    later = ("objective", "text_distillation", "base")

    def before(recipe: Recipe) -> dict[str, object]:
        return {name: value for name, value in as_json(recipe).items() if name not in later}

    monkeypatch.setattr(cells_of_a_study, "as_json", before)
    assert folders() == now


def test_how_a_run_is_watched_does_not_name_it_and_what_it_computes_does() -> None:
    def digest(**fields: object) -> str:
        return Cell(Arm("one", "", (replace(lesson(), **fields),)), 0, Path("out")).runs[0].digest

    assert digest(log_every=7, workers=3) == digest()
    assert len({digest(), digest(steps=7), digest(clip=None), digest(data=("scenes:chats",))}) == 4
