"""Pictures in: opened with care, resized as the original does it, turned into the vision encoder's numbers."""

import io
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

# What a photograph or a drawing comes as (JPEG includes MPO). Pillow's rarer decoders are not reachable from here.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# Half of a full-frame camera's largest, far above what 224 x 224 keeps; a header alone decides.
MAX_PIXELS = 64_000_000


def open_image(source: Any, name: str = "") -> Image.Image:
    """Open a picture from a path, bytes, a PIL image or an array [height, width, 3] of uint8.

    Turned upright by its EXIF tag, the first frame of an animation, 16-bit grey scaled to 8. Other modes stay as they are:
    the original resizes palette and alpha pictures before it converts them. Raises ValueError that names the picture.
    """
    if isinstance(source, Image.Image):
        return _upright(source, name or "picture")
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return Image.fromarray(_as_uint8(np.asarray(source), name or "array"))
    if isinstance(source, (bytes, bytearray)):
        return _decode(io.BytesIO(bytes(source)), name or f"picture of {len(source)} bytes")
    name = name or str(source)
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        raise ValueError(f"{name[:80]}: pictures are read from files, not fetched; download it and give its path")
    if not isinstance(source, (str, Path)):
        raise ValueError(f"{name}: a {type(source).__name__}; expected a path, bytes, a PIL image or an array")
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"{name}: no such file" if not path.exists() else f"{name}: not a file")
    with path.open("rb") as file:
        return _decode(file, name)


def _decode(file: Any, name: str) -> Image.Image:
    start = file.read(1)
    if not start:
        raise ValueError(f"{name}: the file is empty (0 bytes)")
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit below is stricter
            image = Image.open(file, formats=FORMATS)
        _check_size(image, name)
        image.load()
    except UnidentifiedImageError:
        raise ValueError(f"{name}: not a picture in a known format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name}: its header claims more than the {MAX_PIXELS:,} pixels allowed") from None
    except ValueError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, EOFError and more
        raise ValueError(f"{name}: the picture is damaged or cut short") from error
    return _upright(image, name)


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: {width} x {height} is more than the {MAX_PIXELS:,} pixels allowed; make it smaller")


def _upright(image: Image.Image, name: str) -> Image.Image:
    _check_size(image, name)
    try:
        image = ImageOps.exif_transpose(image)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{name}: the picture is damaged or cut short") from error
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError(f"{name}: floating-point pixels have no fixed white; convert it to 8 bits")
    return image


def _as_uint8(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise ValueError(f"{name}: array {array.shape} of {array.dtype}; expected [height, width, 3] of uint8")
    return array


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
        """One picture, or what is in a box of it, as [S, S, 3] of uint8. Resized before it becomes RGB: the original's order.

        A tall picture shrinks vertically first. Pillow 13 does so by this very rule and Pillow 12 never; they differ by up
        to 12 of 255 levels, so the order is ours and the same picture gives the same numbers under both.
        """
        side, (left, top, right, bottom) = self.size, box or (0, 0, *image.size)
        width, height = right - left, bottom - top
        if height > side and height - side > 2 * (width - side):
            if image.mode in ("RGBA", "LA"):  # as Pillow: colours weighted by their alpha while pixels mix
                premultiplied = image.convert(image.mode[:-1] + "a").resize((width, side), self.resample, box)
                image = premultiplied.resize((side, side), self.resample).convert(image.mode)
            else:
                image = image.resize((width, side), self.resample, box)
            box = None  # what is left is in it
        return np.asarray(image.resize((side, side), self.resample, box).convert("RGB"))

    def normalise(self, squares_ISSC: Iterable[np.ndarray]) -> torch.Tensor:
        """Squares of uint8 to pixel values [I, 3, S, S] of float32: one table look-up a value."""
        levels = (np.arange(256) * self.rescale_factor).astype(np.float32)[:, None]
        table = (levels - np.float32(self.image_mean)) / np.float32(self.image_std)
        planes = [np.stack([table[:, c][square[..., c]] for c in range(3)]) for square in squares_ISSC]
        return torch.from_numpy(np.stack(planes)) if planes else torch.empty(0, 3, self.size, self.size)

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
