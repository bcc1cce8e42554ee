"""Prepared sets that the tests of the engine share; none of them writes into one."""

from pathlib import Path

import pytest
from support.tiny import prepare_objects


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_objects(tmp_path_factory.mktemp("sets"), {"train": 4})


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_objects(tmp_path_factory.mktemp("sets"), {"train": 3, "val": 2, "test": 3}, world=2)
