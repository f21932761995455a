"""What the tests of training share: the school's scenes, written once."""

from pathlib import Path

import pytest

from tests.school import lessons


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of lessons that nobody writes into."""
    folder = tmp_path_factory.mktemp("data")
    lessons(folder)
    return folder
