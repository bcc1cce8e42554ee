"""A fabricated study, made once; tests that change it copy it."""

import shutil
from pathlib import Path

import pytest
from support.fabricate import fabricate


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Root of a study in which every run is finished, and its spec's path relative to it."""
    root = tmp_path_factory.mktemp("study")
    spec = fabricate(root, recipes=("source_only", "dann", "adaptsegnet_multi", "oracle"), iterations=200)
    return root, spec


@pytest.fixture
def study(finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the finished study as the working directory; the path of its spec."""
    root, spec = finished
    shutil.copytree(root, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return spec


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """As `finished`, with recipes of several stages that share runs with each other and with a recipe of one stage."""
    root = tmp_path_factory.mktemp("several")
    recipes = ("source_only", "adabn", "adaptsegnet", "cbst", "proda", "proda_released", "oracle")
    return root, fabricate(root, recipes=recipes, iterations=100, pictures=1)


@pytest.fixture(scope="session")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """As `finished`, with a grid of 3 x 3, a sweep of one parameter, and a list of points one of which is skipped."""
    root = tmp_path_factory.mktemp("ablated")
    recipes = ("source_only", "dann", "proda", "oracle")
    return root, fabricate(root, recipes, iterations=100, pictures=1, sweeps=("grid", "patch_size", "parts"))


@pytest.fixture
def swept(ablated: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the study `ablated` as the working directory; the path of its spec."""
    root, spec = ablated
    shutil.copytree(root, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return spec


@pytest.fixture(scope="session")
def apart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """As `finished`, with recipes that had labelled target images and one whose predictions were aggregated."""
    root = tmp_path_factory.mktemp("apart")
    recipes = ("source_only", "memory_bank_100", "adaptsegnet", "plca", "plca_aggregated")
    recipes += ("memory_bank_30", "source_only_100", "oracle")
    return root, fabricate(root, recipes=recipes, iterations=100, pictures=1)


@pytest.fixture
def mixed(apart: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the study `apart` as the working directory; the path of its spec."""
    root, spec = apart
    shutil.copytree(root, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return spec


@pytest.fixture
def staged(several: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the study with stages as the working directory; the path of its spec."""
    root, spec = several
    shutil.copytree(root, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return spec
