"""What the vision encoder and the connector made of pictures, kept while somebody holds the picture."""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from mplug_owl.conversation import ImageSource, Picture
from mplug_owl.model.load import Owl

# So many pictures are encoded at once: fewer fill a core less, more leave its caches (benchmarks/exam.py).
PICTURES_AT_ONCE = 32
# More features than that are computed anew: the oldest go.
KEPT_BYTES = 256 * 2**20


class PictureFeatures:
    """Pictures to language positions [I, N, E], each computed once.

    A later turn of a dialogue, and another question about a picture, bring the very same `Picture`. Two that are equal are
    not looked up: a file may have changed, and comparing every pixel would take as long as encoding it.
    """

    def __init__(self, owl: Owl) -> None:
        self.model, self.images = owl.model, owl.processor.image_processor
        self._kept: dict[int, tuple[weakref.ref[Picture], Tensor]] = {}

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Picture]) -> Tensor | None:
        """The features of these pictures in their order; None where there are none."""
        found = {id(picture): self._known(picture) for picture in pictures}
        new = list({id(picture): picture for picture in pictures if found[id(picture)] is None}.values())
        for first in range(0, len(new), PICTURES_AT_ONCE):
            part = new[first : first + PICTURES_AT_ONCE]
            for picture, features_NE in zip(part, self.encode([one.source for one in part]), strict=True):
                found[id(picture)] = features_NE
                self._keep(picture, features_NE)
        features = [features for picture in pictures if (features := found[id(picture)]) is not None]
        return torch.stack(features) if features else None

    def encode(self, sources: Sequence[ImageSource]) -> Tensor:
        """Pictures opened, resized and encoded, all at once."""
        # Rounded first: to turn fp32 pixels and round them in one pass takes twice as long.
        pixels_ICHW = self.images(list(sources))["pixel_values"].to(self.model.device, self.model.model.vision_tower.dtype)
        pixels_ICHW = pixels_ICHW.contiguous(memory_format=torch.channels_last)
        features_INE = self.model.get_image_features(pixels_ICHW, return_dict=True).pooler_output
        assert isinstance(features_INE, Tensor)  # noqa: S101  (transformers types it as optional)
        return features_INE

    def _known(self, picture: Picture) -> Tensor | None:
        holder, features_NE = self._kept.get(id(picture), (None, None))
        return features_NE if holder is not None and holder() is picture else None

    def _keep(self, picture: Picture, features_NE: Tensor) -> None:
        key = id(picture)
        self._kept[key] = weakref.ref(picture, lambda _: self._kept.pop(key, None)), features_NE.clone()
        while len(self._kept) * features_NE.nbytes > KEPT_BYTES:
            self._kept.pop(next(iter(self._kept)))
