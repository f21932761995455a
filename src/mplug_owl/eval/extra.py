"""What belongs to the extra `eval`: a package that is missing is said with the command that brings it."""

from collections.abc import Iterator
from contextlib import contextmanager

from mplug_owl.errors import UserError


@contextmanager
def needs(package: str) -> Iterator[None]:
    """Around the import of a package. Raises UserError where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{package} is missing ({error}); install it with: pip install 'mplug-owl[eval]'") from error
