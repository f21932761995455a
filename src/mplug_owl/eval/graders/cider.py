"""CIDEr for captions: how much of what people say of a picture a caption says, rare words first."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Grade

_WORD = re.compile(r"'?\w+(?:[-.]\w+)*")


@dataclass(frozen=True)
class Cider:
    """CIDEr (arXiv 1411.5726) by pycocoevalcap, without Java: its CIDEr-D over tokens of ours.

    Words are weighed by how many pictures' captions have them, so a score holds for the questions of one exam and is 0 to 10;
    papers write 1.2 as 120. Questions that ask the same about one picture are one, with all their captions. Where fewer than
    two are left nothing can be weighed, and no score is given.

    Raises:
        UserError: pycocoevalcap is not installed.
    """

    name: str = "cider"

    def grades(self, answers: Sequence[Answer]) -> list[Grade]:
        """A grade for each answer, in their order."""
        corpora: dict[object, dict[object, list[int]]] = {}
        for index, answer in enumerate(answers):
            prompt = answer.question.prompt(len(answer.turns))
            corpora.setdefault((answer.model, answer.condition), {}).setdefault(prompt, []).append(index)
        scores: dict[int, float | None] = {}
        for corpus in corpora.values():
            captions = [answers[first].text for first, *_ in corpus.values()]
            references = [[one for index in same for one in answers[index].question.accepted] for same in corpus.values()]
            for same, score in zip(corpus.values(), cider(captions, references), strict=True):
                scores.update(dict.fromkeys(same, score))
        return [Grade(answer, scores[index], grader=self.name) for index, answer in enumerate(answers)]


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float | None]:
    """The score of each caption beside its picture's references; None where there are none with words, or one picture alone."""
    try:
        from pycocoevalcap.cider.cider import Cider as Scorer
    except ImportError as error:
        raise UserError("cider needs pycocoevalcap, which is not installed; pip install 'mplug-owl[eval]'") from error
    known = {number: [words for one in here if (words := tokens(one))] for number, here in enumerate(references)}
    known = {number: here for number, here in known.items() if here}
    if len(known) < 2:
        return [None] * len(captions)
    _, scores = Scorer().compute_score(known, {number: [tokens(captions[number])] for number in known})
    found: list[float | None] = [None] * len(captions)
    for number, score in zip(known, scores, strict=True):
        found[number] = float(score)
    return found


def tokens(caption: str) -> str:
    """A caption's words in lower case between spaces, without punctuation.

    COCO's own tokens are the Stanford parser's, which needs Java. These differ at contractions ("don 't", not "do n't").
    """
    return " ".join(_WORD.findall(caption.lower()))
