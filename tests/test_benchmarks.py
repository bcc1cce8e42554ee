"""The benchmarks' two forms compute the same, and their tables can be made."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
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
    assert losses[0] > 0
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "tables"),
    [
        ("association.py", ["--size", "64", "--channels", "8", "--classes", "3"], 4),
        ("contrast.py", ["--size", "24", "--channels", "8", "--classes", "3", "--cells", "10"], 3),
    ],
)
def test_scripts_print_a_table_for_each_comparison(script, options, tables):
    answer = subprocess.run(
        [sys.executable, FOLDER / script, *options], capture_output=True, text=True, check=False, timeout=600
    )
    assert answer.returncode == 0, answer.stderr
    blocks = answer.stdout.split("### ")[1:]
    assert len(blocks) == tables
    for block in blocks:
        rows = [line.split(" | ") for line in block.splitlines() if line.startswith("| ")]
        assert len(rows) == 3  # a head and two forms
        if script == "association.py":
            assert float(rows[2][2]) > 2 * 64**4 * 4 / 2**20  # MiB: of whole matrices more than two are alive
