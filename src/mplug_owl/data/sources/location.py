"""Where a record comes from, and where the pictures that it names are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from PIL import Image

from mplug_owl.conversation import ImageSource
from mplug_owl.data.sources.records import describe
from mplug_owl.errors import BadSample
from mplug_owl.model.images import expand_home, picture_bytes, shortened


@dataclass(frozen=True)
class Location:
    """Where a record comes from: the folder of its file, and its line or number in words, for errors.

    Pictures are looked for below `image_root` first, where there is one.
    """

    folder: Path
    name: str
    image_root: Path | None = None

    def __str__(self) -> str:
        return self.name

    def picture(self, file: Any) -> ImageSource:
        """A picture as it can be opened: a path that exists, the bytes of a file, or an opened picture.

        A name is looked for as it is written, else beside the data, else in `images/` beside it. Base64 is read, plain or
        as a `data:` address, and so is the pair of bytes and path that Hugging Face's data sets hold.
        """
        if isinstance(file, Mapping) and ("bytes" in file or "path" in file):
            file = file["bytes"] if file.get("bytes") is not None else file.get("path")
        if isinstance(file, (bytes, Image.Image)):
            return file
        if not isinstance(file, str) or not file.strip():
            what = describe(file) if not isinstance(file, str) else "empty text"
            raise BadSample(f"{self}: an image is {what}; expected a file's path")
        if file.startswith(("http://", "https://")):
            raise BadSample(
                f"{self}: {shortened(file)}: pictures are read from files, not fetched; download it and give its path"
            )
        held = picture_bytes(file, f"{self}: {shortened(file)}")
        return self._found(file) if held is None else held

    def _found(self, file: str) -> Path:
        try:
            paths = self._candidates(file)
        except ValueError as error:  # file://[ is no address
            raise BadSample(f"{self}: no picture {shortened(file)} ({error})") from None
        for path in paths:
            try:
                if path.is_file():
                    return path
            except (OSError, ValueError) as error:  # a name too long, a null byte, a folder that may not be entered
                reason = getattr(error, "strerror", None) or str(error)
                raise BadSample(f"{self}: no picture {shortened(file)} ({reason})") from None
        looked = " and ".join(shortened(str(path)) for path in dict.fromkeys(paths))
        hint = (
            ""
            if self.image_root or Path(file.removeprefix("file://")).is_absolute()
            else "; --image-root names the folder where pictures are"
        )
        raise BadSample(f"{self}: no picture {shortened(file)}; looked for {looked}{hint}")

    def _candidates(self, file: str) -> list[Path]:
        if file.startswith("file://"):
            file = unquote(urlsplit(file).path)
        written = [file, file.strip()]
        if "\\" in file:  # written on Windows
            written.append(file.strip().replace("\\", "/"))
        candidates: list[Path] = []
        for name in dict.fromkeys(written):
            path = expand_home(name)
            roots = [self.image_root] if self.image_root else []
            candidates += [path] if path.is_absolute() else [root / path for root in (*roots, self.folder)]
            candidates += [] if path.is_absolute() else [self.folder / "images" / path]
        return candidates
