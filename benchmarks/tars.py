"""Files in a tar shard."""

import io
import tarfile


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file with this content."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
