"""A user's own folders, through the whole workflow: on both sides, without labels, and with faults in them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.project import Project, tiny

from udaseg.runs.files import read_json
from udaseg.runs.folder import is_whole

pytestmark = pytest.mark.slow

CLASSES = ["road", "sky", "car"]


def make_folder(root: Path, seed: int, labels: bool = True, counts: tuple[int, int, int] = (4, 2, 2)) -> None:
    """Images of coloured blocks, and their label maps with the ids 7, 11 and 26."""
    random = np.random.default_rng(seed)
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            classes = random.integers(0, 3, (6, 12)).repeat(8, 0).repeat(8, 1)
            colours = np.array([[120, 60, 120], [70, 130, 180], [0, 0, 140]]) + 20 * seed
            image = colours[classes] + random.integers(-10, 10, (48, 96, 3))
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / split / "images" / f"im_{index}.png")
            if labels:
                ids = np.array([7, 11, 26], dtype=np.uint8)[classes]
                Image.fromarray(ids).save(root / split / "labels" / f"im_{index}.png")


def study(**changes: Any) -> dict[str, Any]:
    """Own folders on both sides, named by an environment variable that is not set and by a plain path."""
    class_map = {"7": "road", "11": "sky", "26": "car"}
    own = {
        "datasets": {
            "mine": {"kind": "folder", "root": "${NOT_SET_ANYWHERE:-mine}", "class_map": class_map},
            "theirs": {"kind": "folder", "root": "theirs", "class_map": class_map},
        },
        "task": {
            "source": {"dataset": "mine", "size": [32, 64]},
            "target": {"dataset": "theirs", "size": [32, 64]},
            "classes": CLASSES,
            "class_sets": {"mIoU3": CLASSES},
        },
    }
    return tiny(**own) | changes


@pytest.fixture
def project(tmp_path: Path) -> Project:
    make_folder(tmp_path / "mine", 0)
    return Project.create(tmp_path, study())


def test_own_folders_on_both_sides(project: Project) -> None:
    theirs = 'their "images"; touch pwned & $(touch pwned) `touch pwned` \'x'
    own = study()
    own["datasets"]["theirs"]["root"] = theirs
    project.study(own)
    make_folder(project.folder / theirs, 1)
    status, output = project.snakemake()
    assert status == 0, output
    metrics = [read_json(path) for path in project.folder.glob("results/mine-theirs/*/*/evaluate-*/metrics.json")]
    assert len(metrics) == 2
    for found in metrics:
        assert found["classes"] == CLASSES and found["protocol"]["images"] == 2
        assert np.sum(found["scores"]["last"]["confusion"]) == 2 * 48 * 96
    assert "mIoU3" in (project.folder / "reports" / "tiny" / "tables" / "main.csv").read_text()
    assert project.todo() == {} and not list(project.folder.rglob("pwned"))
    name = "$(touch pwned); touch pwned"
    status, output = project.run("snakemake", "--cores", "1", "--config", f"study='{name}'")
    assert status == 1 and f"study: '{name}' has no file" in output and "Traceback" not in output
    assert not list(project.folder.rglob("pwned"))


def test_a_target_without_labels_is_trained_on_and_predicted(project: Project) -> None:
    make_folder(project.folder / "theirs", 1, labels=False)
    unlabelled = study()
    unlabelled["datasets"]["theirs"]["labels"] = None
    project.study(unlabelled)
    status, output = project.snakemake()
    assert status == 1 and "evaluate.monitor: the split 'val' of data set 'theirs' has no labels" in output
    assert "Traceback" not in output

    unlabelled["evaluate"] |= {"monitor": None, "report": None}
    project.study(unlabelled)
    status, output = project.snakemake()
    assert status == 0, output
    assert not list(project.folder.rglob("evaluate-*"))
    assert (project.folder / "reports" / "tiny" / "index.html").is_file()
    assert project.todo() == {}

    (run,) = project.folder.glob("results/mine-theirs/dann/*")
    assert is_whole(run) and not (run / "best.safetensors").exists()
    images = [str(path) for path in sorted((project.folder / "theirs" / "test" / "images").iterdir())]
    status, output = project.run("udaseg.cli.main", "predict", "--run", str(run), "--output", "maps", *images)
    assert status == 0, output
    maps = [path for path in (project.folder / "maps").rglob("*.png") if Image.open(path).mode in ("L", "P")]
    assert maps and all(Image.open(path).size == (96, 48) for path in maps)


def spoil(folder: Path, fault: str) -> str:
    """Put a fault into a data set; what the message must say about it."""
    labels, image = folder / "train" / "labels", folder / "train" / "images" / "im_1.png"
    if fault == "folder":
        for path in (folder / "val" / "images").iterdir():
            path.unlink()
        (folder / "val" / "images").rmdir()
        return "val/images"
    if fault == "truncated":
        image.write_bytes(image.read_bytes()[:200])
        return "im_1.png"
    if fault == "size":
        Image.open(labels / "im_2.png").resize((48, 48)).save(labels / "im_2.png")
        return "im_2"
    if fault == "id":
        Image.fromarray(np.full((48, 96), 42, dtype=np.uint8)).save(labels / "im_3.png")
        return "im_3.png: id 42"
    (labels / "im_0.png").unlink()
    return "im_0"


@pytest.mark.parametrize("faults", [("folder",), ("truncated", "size", "id", "missing")])
def test_faults_in_the_data_are_named_together_and_leave_nothing(project: Project, faults: tuple[str, ...]) -> None:
    make_folder(project.folder / "theirs", 1)
    named = [spoil(project.folder / "theirs", fault) for fault in faults]
    assert project.snakemake("--keep-going", "--until", "prepare")[0] == 1
    (log,) = project.folder.glob("logs/data/sets/theirs-*.log")
    text = log.read_text()
    assert f"udaseg prepare: data set theirs: {len(faults)} problems; nothing was written" in text
    assert [words for words in named if words not in text] == []
    assert "Traceback" not in text
    assert not [path for path in project.folder.glob("data/sets/*theirs*/**/*") if path.is_file()]
    # The rest was done, and stays: put right, the same command goes on.
    assert list(project.folder.glob("data/sets/mine-*/set.json"))
