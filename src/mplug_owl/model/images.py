"""Pictures in: resized as the original does it, and turned into the vision encoder's numbers."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mplug_owl.model.open_picture import (
    FORMATS,
    MAX_PIXELS,
    expand_home,
    open_image,
    picture_bytes,
    shortened,
    to_square,
)

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "MplugOwlImageProcessor",
    "expand_home",
    "flat_images",
    "open_image",
    "picture_bytes",
    "shortened",
]


class MplugOwlImageProcessor(BaseImageProcessor):
    """Pictures to pixel values [I, 3, S, S]: a bicubic square without cropping, then mean and standard deviation.

    Bit-equal to the original's inference processor, palette and alpha pictures included.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        size: int | dict[str, int] = 224,
        image_mean: Sequence[float] = OPENAI_CLIP_MEAN,
        image_std: Sequence[float] = OPENAI_CLIP_STD,
        resample: int = Image.Resampling.BICUBIC,
        rescale_factor: float = 1 / 255,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        # The original reads shortest_edge and nothing else, and means the side of a square by it.
        self.size = size if isinstance(size, int) else size.get("shortest_edge", size.get("height", 224))
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.resample, self.rescale_factor = int(resample), rescale_factor

    def square(self, image: Image.Image, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """One picture, or what is in a box of it, as [S, S, 3] of uint8, by `to_square`."""
        return to_square(image, self.size, self.resample, box)

    def normalise(self, squares_ISSC: Iterable[np.ndarray]) -> torch.Tensor:
        """Squares of uint8 to pixel values [I, 3, S, S] of float32: one table look-up a value."""
        levels = (np.arange(256) * self.rescale_factor).astype(np.float32)[:, None]
        table = (levels - np.asarray(self.image_mean, np.float32)) / np.asarray(self.image_std, np.float32)
        columns = [np.ascontiguousarray(table[:, c]) for c in range(3)]
        squares = list(squares_ISSC)
        pixels_ICSS = np.empty((len(squares), 3, self.size, self.size), np.float32)
        for square, planes in zip(squares, pixels_ICSS, strict=True):
            for c, plane in enumerate(planes):
                columns[c].take(square[..., c], mode="clip", out=plane)  # no copy; a byte is never out of the table
        return torch.from_numpy(pixels_ICSS)

    def preprocess(self, images: Any, return_tensors: Any = None, **kwargs: Any) -> BatchFeature:
        """Pictures (one, a list, or a list of lists) to `pixel_values`; tensors whatever `return_tensors` says."""
        squares = [self.square(open_image(image)) for image in flat_images(images)]
        return BatchFeature({"pixel_values": self.normalise(squares)})

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Pictures are opened where they are used, by `open_image`."""
        return image_url_or_urls

    def to_dict(self) -> dict[str, Any]:
        """What preprocessor_config.json holds."""
        return {
            "image_processor_type": type(self).__name__,
            "size": {"height": self.size, "width": self.size},
            "image_mean": self.image_mean,
            "image_std": self.image_std,
            "resample": self.resample,
            "rescale_factor": self.rescale_factor,
        }


def flat_images(images: Any) -> list[Any]:
    """One picture, a list of them or a list of lists of them, as one list in reading order."""
    if images is None:
        return []
    if isinstance(images, (list, tuple)):
        return [image for group in images for image in flat_images(group)]
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        return list(images)
    return [images]
