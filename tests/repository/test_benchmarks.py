"""All forms of a benchmark compute the same, and their tables can be made."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def load(monkeypatch):
    """Modules of the folder, which is no package."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def agree(forms, **settings):
    losses, gradients = [], []
    for form in forms:
        inputs = form.inputs(**settings, device=CPU)
        losses.append(form.loss(inputs))
        losses[-1].backward()
        gradients.append([part.grad for part in inputs if isinstance(part, torch.Tensor) and part.requires_grad])
    assert losses[0] > 0 and len(losses) > 1
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        torch.testing.assert_close(losses[0], loss)
        torch.testing.assert_close(gradients[0], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "title", ["features", "features, target aggregated", "predictions", "predictions, target aggregated"]
)
def test_forms_of_the_association_agree(load, title):
    agree(load("association").FORMS[title], size=16, channels=32, classes=5)


# The paper's forms where the project draws all there is; the released one draws the same pixels in both forms.
@pytest.mark.parametrize(("title", "size"), [("pixel contrast, released", 40), ("pixel contrast, paper", 8)])
def test_forms_of_the_pixel_contrast_agree(load, title, size):
    agree(load("contrast").PIXEL_FORMS[title], size=size, channels=16, classes=4)


def test_forms_of_the_patch_contrast_agree(load):
    agree(load("contrast").PATCH_FORMS, size=12, channels=16)


def test_forms_of_the_queue_agree(load):
    agree(load("self_labelling").QUEUE_FORMS, queue=64, rows=8, channels=4)


def test_forms_of_the_rectified_labels_agree(load):
    agree(load("self_labelling").LABEL_FORMS, height=6, width=7, channels=8, classes=5)


@pytest.mark.parametrize("title", ["LABELS", "UPDATE"])
def test_forms_of_the_consensus_agree(load, title):
    agree(getattr(load("consensus"), title), height=16, width=24, channels=32, classes=5, images=2)


def test_the_table_of_checked_reading_compares_with_plain_reading(load):
    head, _, plain, held = [line for line in load("checked_reading").table((32, 48), 2).splitlines() if "|" in line]
    assert head == "| reading | ms | ratio |" and plain.endswith("| 1.00 |")
    assert float(held.split("|")[2]) > 0 and held.startswith("| held against its digest |")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "forms"),
    [
        ("association.py", ["--size", "48", "--channels", "8", "--classes", "3"], [2, 2, 2, 2]),
        ("contrast.py", ["--size", "24", "--channels", "8", "--classes", "3", "--cells", "10"], [2, 2, 2]),
        (
            "self_labelling.py",
            ["--queue", "64", "--rows", "8", "--channels", "8", "--classes", "3", "--size", "8", "8"],
            [3, 3],
        ),
        ("consensus.py", ["--height", "8", "--width", "16", "--channels", "8", "--classes", "3"], [4, 4, 3]),
    ],
)
def test_scripts_print_a_table_for_each_comparison(script, options, forms):
    answer = subprocess.run(
        [sys.executable, FOLDER / script, *options], capture_output=True, text=True, check=False, timeout=600
    )
    assert answer.returncode == 0, answer.stderr
    blocks = answer.stdout.split("### ")[1:]
    assert len(blocks) == len(forms)
    for block, count in zip(blocks, forms, strict=True):
        rows = [line.split(" | ") for line in block.splitlines() if line.startswith("| ")]
        assert len(rows) == 1 + count  # a head and the forms
        if script == "association.py":
            assert float(rows[2][2]) > 2 * 48**4 * 4 / 2**20  # MiB: of whole matrices more than two are alive
