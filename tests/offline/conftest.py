"""A prepared set whose size is no multiple of 4, and a finished run with a network that nobody trained."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.labelling import OBJECTS, SIZE, finished_run
from support.tiny import prepare_objects

from udaseg.data.datasets.objects import NAMES, ObjectsData
from udaseg.data.sets.prepare import prepare
from udaseg.validation import validate


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_objects(tmp_path_factory.mktemp("sets"), {"train": 2})


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    dataset = validate(ObjectsData, OBJECTS).open()
    prepare("objects", dataset, OBJECTS, list(NAMES), SIZE, root / "target")
    return root / "target"


@pytest.fixture(scope="session")
def run(source: Path, target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("run"), source, target)


@pytest.fixture(autouse=True)
def exactness_is_given_back() -> Iterator[None]:
    """Labelling makes operators deterministic for its whole process; the tests after it see what they expect."""
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    yield
    torch.use_deterministic_algorithms(strict, warn_only=warn)
