"""Any image classifier of transformers as a tagger, and any object detector as a detector."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageClassification, AutoModelForObjectDetection
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.17 hides it where torchvision is absent

from mplug_owl.errors import UserError
from mplug_owl.experiments.experts.expert import Finding
from mplug_owl.model.load import find_device, quiet
from mplug_owl.model.locate import locate

# The most tags, and the least probability of a tag or a detected thing, that are worth a planner's reading.
TAGS, SURE = 5, 0.3


@dataclass(frozen=True)
class Tagger:
    """An image classifier: its likeliest labels.

    Args:
        model: What AutoModelForImageClassification opens.
        processor: What AutoImageProcessor opens.
        name: What a planner calls it.
        most: At most so many labels.
        sure: Labels of less probability are left out, but for the likeliest.
    """

    model: Any
    processor: Any
    name: str = "tag"
    kind: str = "tag"
    words: str = "says what kind of thing or scene the picture shows"
    most: int = TAGS
    sure: float = 0.05

    @torch.no_grad()
    def look(self, picture: Image.Image, request: str) -> Finding:
        """Labels, the likeliest first."""
        inputs = self.processor(images=picture.convert("RGB"), return_tensors="pt").to(self.model.device)
        shares, labels = self.model(**inputs).logits[0].float().softmax(-1).topk(min(self.most, self.model.config.num_labels))
        chosen = [
            self.model.config.id2label[label]
            for number, (label, share) in enumerate(zip(labels.tolist(), shares.tolist(), strict=True))
            if share >= self.sure or not number
        ]
        return Finding(", ".join(chosen))


@dataclass(frozen=True)
class Detector:
    """An object detector: what it found and where, and each thing cut out for other experts.

    Args:
        model: What AutoModelForObjectDetection opens.
        processor: What AutoImageProcessor opens.
        name: What a planner calls it.
        sure: What it is less sure of, from 0 to 1, is left out.
    """

    model: Any
    processor: Any
    name: str = "detect"
    kind: str = "detect"
    words: str = "names the things in the picture and says where each of them is"
    sure: float = SURE

    @torch.no_grad()
    def look(self, picture: Image.Image, request: str) -> Finding:
        """`dog at the top left, frisbee at the centre`, and a cut-out of each."""
        shown = picture.convert("RGB")
        inputs = self.processor(images=shown, return_tensors="pt").to(self.model.device)
        sizes = torch.tensor([[shown.height, shown.width]])
        (found,) = self.processor.post_process_object_detection(self.model(**inputs), self.sure, sizes)
        words, parts = [], []
        for number, (label, box) in enumerate(zip(found["labels"].tolist(), found["boxes"].tolist(), strict=True), 1):
            left, top, right, bottom = (round(value) for value in box)
            left, top = min(max(left, 0), shown.width - 1), min(max(top, 0), shown.height - 1)
            cut = (left, top, min(max(right, left + 1), shown.width), min(max(bottom, top + 1), shown.height))
            name = self.model.config.id2label[label]
            words.append(f"{name} at the {where((left + right) / 2 / shown.width, (top + bottom) / 2 / shown.height)}")
            parts.append((f"{name.replace(' ', '-')}-{number}", shown.crop(cut)))
        return Finding(", ".join(words), tuple(parts))


def where(across: float, down: float) -> str:
    """The ninth of the picture in which a point is, both between 0 and 1."""
    row, column = (("top", "middle", "bottom")[_third(down)], ("left", "middle", "right")[_third(across)])
    return "centre" if (row, column) == ("middle", "middle") else f"{row} {column}"


def _third(share: float) -> int:
    return min(2, max(0, int(share * 3)))


def open_labels(kind: type[Tagger] | type[Detector], name: str, called: str, device: str | None) -> Tagger | Detector:
    """The tagger or detector of a folder or hub id, `called` so by planners. Raises UserError where there is none."""
    auto: Any = AutoModelForImageClassification if kind is Tagger else AutoModelForObjectDetection
    where_it_is = locate(name)
    with quiet():
        try:
            model = auto.from_pretrained(where_it_is, trust_remote_code=False).eval().to(find_device(device))
            processor: Any = AutoImageProcessor.from_pretrained(where_it_is, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{name}: no {'classifier' if kind is Tagger else 'detector'} of transformers; {reason}") from error
    return kind(model, processor, called)
