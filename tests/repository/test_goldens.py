"""The reference arithmetic of papers and releases, as numbers: every file of a folder goes through `CASES`."""

import ast
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support import golden_groups, goldens
from support.golden_groups.base import Golden
from support.goldens import CASES

FOLDER = Path(os.environ.get("UDASEG_GOLDENS") or Path(__file__).parents[3] / "shared" / "goldens")
FILES = sorted(FOLDER.glob("*.npz"))


def group_of(path: Path) -> str:
    """`method.function` of `method.function.case.npz`."""
    return path.stem.rpartition(".")[0]


def test_the_folder_is_there():
    if not FILES:
        message = f"no golden files in {FOLDER}; give their folder as UDASEG_GOLDENS"
        assert os.environ.get("UDASEG_REQUIRE_SHARED") != "1", message
        pytest.skip(message)
    waiting = sorted({group_of(path) for path in FILES} - set(CASES))
    if waiting:
        pytest.skip(f"not yet: {len(waiting)} groups of later methods, {', '.join(waiting)}")


@pytest.mark.parametrize("path", [path for path in FILES if group_of(path) in CASES], ids=lambda path: path.stem)
def test_golden(path):
    with np.load(path) as archive:
        arrays = dict(archive)
    compare(CASES[group_of(path)], arrays)


def compare(golden: Golden, arrays: dict[str, np.ndarray]) -> None:
    """AssertionError where an output of `golden.run` is not what `arrays` expects under the same key."""
    outputs = golden.run(arrays)
    assert outputs, "nothing is compared"
    for key, value in outputs.items():
        found = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        expected = arrays[key]
        assert found.shape == expected.shape, f"{key}: shape {found.shape}, expected {expected.shape}"
        if key in golden.exact:
            np.testing.assert_array_equal(found, expected, err_msg=key)
            continue
        undefined = np.isnan(expected)
        if undefined.any():
            assert key in golden.guard, f"{key}: the reference gives NaN and the table says not what we give instead"
            expected = np.where(undefined, golden.guard[key], expected)
        rtol, atol = golden.tolerances.get(key, golden.tolerances.get("", (1e-5, 1e-6)))
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=key)


class TestComparison:
    """The comparison itself can fail."""

    def test_a_wrong_value_a_wrong_shape_and_an_unguarded_nan_are_refused(self):
        for expected in ([1.0, 2.1], [1.0], [1.0, np.nan]):
            with pytest.raises(AssertionError):
                compare(Golden(lambda arrays: {"y": torch.tensor([1.0, 2.0])}), {"y": np.array(expected)})

    def test_where_nan_is_expected_the_guard_is_compared(self):
        arrays = {"y": np.array([1.0, np.nan])}
        compare(Golden(lambda arrays: {"y": torch.tensor([1.0, 0.0])}, guard={"y": 0.0}), arrays)
        with pytest.raises(AssertionError):
            compare(Golden(lambda arrays: {"y": torch.tensor([1.0, 0.5])}, guard={"y": 0.0}), arrays)
        with pytest.raises(AssertionError):
            compare(Golden(lambda arrays: {"y": torch.tensor([1.0, np.nan])}, guard={"y": 0.0}), arrays)

    def test_exact_keys_have_no_tolerance(self):
        with pytest.raises(AssertionError):
            compare(Golden(lambda arrays: {"y": [1.0 + 1e-9]}, exact=["y"]), {"y": np.array([1.0])})


ALLOWED = {
    "torch": {"Tensor", "Generator", "autograd", "cat", "device", "empty", "from_numpy", "ones", "stack", "zeros"},
    "np": {"array", "float32", "ndarray", "zeros"},
    "nn": {"Module", "Parameter", "utils"} | {"AvgPool2d", "Conv2d", "Identity", "Sequential", "Tanh"},  # toy networks
}
ARITHMETIC_METHODS = {
    *("abs", "add", "argmax", "bmm", "clamp", "cumsum", "div", "dot", "einsum", "exp", "log", "log_softmax", "matmul"),
    *("max", "mean", "min", "mul", "neg", "norm", "pow", "relu", "sigmoid", "softmax", "sqrt", "sub", "sum", "where"),
}


def arithmetic_in(source: str) -> list[str]:
    """What a module computes by itself: operators, torch's functions beyond `ALLOWED`, methods of tensors."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp | ast.AugAssign | ast.UnaryOp):
            union = isinstance(node.op, ast.BitOr)  # of types or mappings
            constant = isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant)  # such as -1
            if not union and not constant:
                found.append(f"{node.lineno}: {type(node.op).__name__}")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ALLOWED:
            if node.attr not in ALLOWED[node.value.id]:
                found.append(f"{node.lineno}: {node.value.id}.{node.attr}")
        elif isinstance(node, ast.Attribute) and node.attr in ARITHMETIC_METHODS | {"functional"}:
            found.append(f"{node.lineno}: .{node.attr}")
        elif isinstance(node, ast.Name) and node.id in {"abs", "max", "min", "pow", "sum"}:
            found.append(f"{node.lineno}: {node.id}")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch") and node.module != "torch":
            found.append(f"{node.lineno}: from {node.module}")
        elif isinstance(node, ast.Import) and any(name.name not in ("numpy", "torch") for name in node.names):
            found.append(f"{node.lineno}: import {node.names[0].name}")
    return found


@pytest.mark.parametrize(
    "path", [Path(goldens.__file__), *Path(golden_groups.__file__).parent.glob("*.py")], ids=lambda path: path.stem
)
def test_the_table_has_no_arithmetic_of_its_own(path):
    assert arithmetic_in(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "y = 2 * x", "x += 1", "y = -x", "y = x.softmax(1)", "y = torch.exp(x)", "y = np.mean(x)", "y = sum(x)",
        "import torch.nn.functional as F", "from torch.nn.functional import relu", "y = nn.functional.relu(x)",
        "y = nn.ReLU()(x)",
    ],
)  # fmt: skip
def test_arithmetic_is_recognised(line):
    assert arithmetic_in(line)
