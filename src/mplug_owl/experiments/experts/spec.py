"""`experts:POLICY?caption=...&read=...#LANGUAGE`: who works with whom, from the name that a user types."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from mplug_owl.chat import ChatModel, find
from mplug_owl.chat.owl import OwlChatModel
from mplug_owl.errors import UserError
from mplug_owl.eval.exam import Examinee
from mplug_owl.eval.exam_folder import fingerprint
from mplug_owl.experiments.experts.answering import WORDINGS
from mplug_owl.experiments.experts.drawn import SceneDetector, SceneTagger
from mplug_owl.experiments.experts.expert import Asked, Expert, Zoom
from mplug_owl.experiments.experts.hugginggpt import HuggingGPT
from mplug_owl.experiments.experts.labels import Detector, Tagger, open_labels
from mplug_owl.experiments.experts.mm_react import MMReact
from mplug_owl.experiments.experts.model import ExpertsChatModel, Policy
from mplug_owl.experiments.experts.reading import RapidReader, SceneReader
from mplug_owl.experiments.experts.visual_chatgpt import VisualChatGPT
from mplug_owl.model.locate import BUNDLED, bundled

PREFIX = "experts:"
POLICIES: dict[str, Callable[..., Policy]] = {
    "visual-chatgpt": VisualChatGPT,
    "mm-react": MMReact,
    "hugginggpt": HuggingGPT,
}
KINDS = ("caption", "read", "tag", "detect")
RULES, ANSWERING = "rules", "language"
# An owl after stage 1 says a caption to a picture alone; other models are asked for one.
CAPTION = "Describe the picture in one sentence."
READ = "What text is written in the picture? Answer with the text alone, or with the word nothing."
WORDS = {
    "caption": "describes the picture in a sentence",
    "read": "reads the text in the picture",
    "tag": "says what kind of thing or scene the picture shows",
    "detect": "names the things in the picture and says where each of them is",
}


@dataclass(frozen=True)
class Spec:
    """What an `experts:` name says.

    Args:
        policy: visual-chatgpt, mm-react or hugginggpt.
        experts: Kind and name of each, in their order.
        language: Who answers.
        planner: rules, language (who answers plans too), or another model's name.
        wording: How findings are put before the language model.

    Example:
        >>> Spec.from_name("experts:mm-react?read=rapidocr#language:owl-smol").experts
        (('read', 'rapidocr'),)
    """

    policy: str
    experts: tuple[tuple[str, str], ...]
    language: str
    planner: str = RULES
    wording: str = "report"

    @classmethod
    def from_name(cls, name: str) -> "Spec":
        """Read a name. Raises UserError that says which part of it is wrong and what would be right."""
        head, _, language = name.removeprefix(PREFIX).partition("#")
        policy, _, options = head.partition("?")
        if policy not in POLICIES:
            raise UserError(f"{name}: no policy {policy!r}; there are {', '.join(POLICIES)}")
        if not language:
            raise UserError(f"{name}: names no language model; expected {PREFIX}{head}#MODEL, such as #language:tiny-language")
        experts, settings = list[tuple[str, str]](), dict[str, str]()
        for option in options.split("&") if options else ():
            key, _, value = option.partition("=")
            if key not in (*KINDS, "planner", "words") or not value:
                raise UserError(f"{name}: no option {option!r:.60}; expected {', '.join(KINDS)}, planner or words, each with =")
            if key in KINDS:
                experts.append((key, unquote(value)))
            elif key in settings:
                raise UserError(f"{name}: names {key} twice; one alone is asked")
            else:
                settings[key] = unquote(value)
        if not experts:
            raise UserError(f"{name}: names no expert; expected one or more of {', '.join(KINDS)}, such as read=rapidocr")
        settings = {"planner": RULES, "words": "report"} | settings
        if settings["words"] not in WORDINGS:
            raise UserError(f"{name}: words is {settings['words']!r:.60}; expected {' or '.join(WORDINGS)}")
        return cls(policy, tuple(experts), language, settings["planner"], settings["words"])

    @property
    def title(self) -> str:
        """What tables call it: policy, planner where it is no program, experts, language model."""
        experts = "+".join(_short(name) for _, name in self.experts)
        planner = "" if self.planner == RULES else f", planned by {_short(self.planner)}"
        return f"{self.policy} ({experts}{planner}) {_short(self.language)}"


def examinee(name: str, device: str | None = None, quantized: bool = False) -> Examinee:
    """Who takes an exam under an `experts:` name, opened when the exam begins.

    Raises:
        UserError: As `Spec.from_name`; or it shall be quantised, which its many models cannot.
    """
    spec = Spec.from_name(name)
    if quantized:
        raise UserError(f"{name}: --quantize is for one of our own models; leave it out")
    parts = [spec.language, spec.planner, *(value for _, value in spec.experts)]
    known = [fingerprint(bundled(folder)) for part in parts for folder in part.split(":") if _is_here(folder)]
    digest = hashlib.sha256(repr((spec, known)).encode()).hexdigest()[:16]
    return Examinee(spec.title, digest, partial(open_experts, spec, device))


def open_experts(spec: Spec, device: str | None = None) -> ExpertsChatModel:
    """The experts, the planner and the language model. Raises UserError where one of them cannot be opened."""
    opened: dict[str, ChatModel] = {}

    def open_model(name: str) -> ChatModel:
        if name not in opened:
            opened[name] = find(name, None if "://" in name else device)
        return opened[name]

    experts: list[Expert] = []
    for kind, name in spec.experts:
        many = sum(expert.kind == kind for expert in experts)
        experts.append(_expert(kind, name, f"{kind}-{many + 1}" if many else kind, open_model, device))
    policy = POLICIES[spec.policy](by_rules=spec.planner == RULES, wording=spec.wording)
    language = open_model(spec.language)
    planner = None if spec.planner in (RULES, ANSWERING) else open_model(spec.planner)
    return ExpertsChatModel(policy, [*experts, Zoom()], language, planner)


def _expert(kind: str, name: str, called: str, open_model: Callable[[str], ChatModel], device: str | None) -> Expert:
    """The expert of a kind that a user names so."""
    drawn: Mapping[str, Callable[[str], Expert]] = {"detect": SceneDetector, "tag": SceneTagger}
    if kind == "read" and name == "rapidocr":
        return RapidReader(called)
    if kind == "read" and name.startswith("drawn:"):
        return SceneReader(open_model(name.removeprefix("drawn:")), called)
    if kind in drawn and name == "drawn":
        return drawn[kind](called)
    if kind in ("tag", "detect"):
        return open_labels(Tagger if kind == "tag" else Detector, name, called, device)
    model = open_model(name)
    if kind == "read":
        return Asked(model, READ, called, kind, WORDS[kind])
    return Asked(model, "" if isinstance(model, OwlChatModel) else CAPTION, called, kind, WORDS[kind])


def _short(name: str) -> str:
    """A model's name without what leads to it."""
    bare = (
        name.rpartition("#")[2] if "://" in name else name.removeprefix("language:").removeprefix("hf:").removeprefix("drawn:")
    )
    path = Path(bare)
    return path.parent.name if path.name == "model" else path.name


def _is_here(name: str) -> bool:
    return name in BUNDLED or Path(name).is_dir()
