"""Any classifier and detector of transformers as experts: tiny ones, whose answers are set by hand."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, YolosConfig, YolosForObjectDetection
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

from mplug_owl.errors import UserError
from mplug_owl.experiments.experts.labels import Detector, Tagger, open_labels

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "patch_size": 8}
NAMES = {0: "cat", 1: "red bus", 2: "dog"}


@torch.no_grad()
def test_a_classifier_says_its_likeliest_labels(tmp_path: Path) -> None:
    config = ViTConfig(**SIZES, image_size=16, id2label=NAMES, label2id={name: number for number, name in NAMES.items()})
    model = ViTForImageClassification(config)
    model.classifier.weight.zero_()
    model.classifier.bias.copy_(torch.tensor([1.0, -9.0, 2.0]))
    model.save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    tagger = open_labels(Tagger, str(tmp_path), "tag-2", "cpu")
    assert (tagger.name, tagger.look(Image.new("RGB", (40, 30)), "").words) == ("tag-2", "dog, cat")


@torch.no_grad()
def test_a_detector_says_what_is_where_and_cuts_it_out(tmp_path: Path) -> None:
    """Both of its queries see a red bus in the top right quarter, one of them not surely enough."""
    config = YolosConfig(
        **SIZES,
        image_size=[16, 16],
        num_detection_tokens=2,
        use_mid_position_embeddings=False,
        id2label=NAMES,
        label2id={name: number for number, name in NAMES.items()},
    )
    model = YolosForObjectDetection(config)
    for head, bias in (
        (model.class_labels_classifier, torch.tensor([0.0, 4.0, 0.0, 0.0])),
        (model.bbox_predictor, torch.tensor([0.75, 0.25, 0.5, 0.5]).logit()),
    ):
        head.layers[-1].weight.zero_()
        head.layers[-1].bias.copy_(bias)
    model.save_pretrained(tmp_path)
    YolosImageProcessorPil(size={"shortest_edge": 16, "longest_edge": 24}).save_pretrained(tmp_path)
    picture = Image.new("RGB", (40, 30))
    picture.paste((200, 0, 0), (20, 0, 40, 15))
    found = open_labels(Detector, str(tmp_path), "detect", "cpu").look(picture, "")
    assert found.words == "red bus at the top right, red bus at the top right"
    assert [name for name, _ in found.parts] == ["red-bus-1", "red-bus-2"]
    assert found.parts[0][1].size == (20, 15)
    assert found.parts[0][1].getcolors() == [(300, (200, 0, 0))]


def test_what_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no classifier of transformers"):
        open_labels(Tagger, str(tmp_path), "tag", "cpu")
