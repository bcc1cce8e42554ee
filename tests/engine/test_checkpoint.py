import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from udaseg.engine.checkpoint import (
    load_resume,
    load_tensors,
    optimizer_tensors,
    restore_optimizer,
    save_resume,
    save_tensors,
)
from udaseg.errors import UserError
from udaseg.runs.files import sha256


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def optimizers(module):
    first, second = module[0].parameters(), module[1].parameters()
    return {
        "network": torch.optim.SGD(first, 0.1, momentum=0.9),
        "other": torch.optim.Adam([{"params": list(second)}], 0.1),
    }


def trained(module, tools, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        module(torch.randn(2, 3, 4, 4, generator=generator)).square().sum().backward()
        for tool in tools.values():
            tool.step()
            tool.zero_grad()


def same(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def iterations(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("resume-*.safetensors"))


class TestTensors:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
    def test_round_trip_of_any_type_and_layout(self, dtype, tmp_path):
        tensors = {"turned": torch.arange(6).reshape(2, 3).t().to(dtype), "scalar": torch.tensor(1, dtype=dtype)}
        save_tensors(tmp_path / "a.safetensors", tensors)
        read = load_tensors(tmp_path / "a.safetensors")
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[name], tensor) and read[name].dtype == dtype for name, tensor in tensors.items())

    def test_missing_and_damaged_files_are_named(self, tmp_path):
        path = tmp_path / "a.safetensors"
        with pytest.raises(UserError, match=r"a\.safetensors: cannot be read as safetensors"):
            load_tensors(path)
        save_tensors(path, {"a": torch.ones(100)})
        path.write_bytes(path.read_bytes()[:50])
        with pytest.raises(UserError, match=r"a\.safetensors: cannot be read as safetensors"):
            load_tensors(path)

    def test_nothing_half_written_is_left(self, tmp_path, monkeypatch):
        def full(descriptor):
            raise OSError("no space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(UserError, match="no space"):
            save_tensors(tmp_path / "a.safetensors", {"a": torch.ones(3)})
        assert list(tmp_path.iterdir()) == []


@settings(max_examples=10, deadline=None)
@given(before=st.integers(0, 3), after=st.integers(0, 3))
def test_optimizers_go_on_as_if_nothing_had_happened(before, after):
    whole, parted = model(), model()
    tools, first = optimizers(whole), optimizers(parted)
    trained(whole, tools, before)
    trained(parted, first, before)
    second = optimizers(parted)
    for name, tool in second.items():
        stored = {"optim/unrelated/0/step": torch.ones(1)} | optimizer_tensors(name, first[name])
        restore_optimizer(name, tool, stored)
    trained(whole, tools, after, seed=1)
    trained(parted, second, after, seed=1)
    assert same(whole, parted)


class TestResume:
    def test_an_empty_folder_starts_at_zero(self, tmp_path):
        module = model()
        assert load_resume(tmp_path, module, optimizers(module)) == (0, {})

    def test_everything_comes_back(self, tmp_path):
        module = model()
        tools = optimizers(module)
        trained(module, tools, 2)
        extra = {"scored": {"best": {"monitor": 0.1 + 0.2, "name": "Größe"}}, "nothing": None}
        save_resume(tmp_path, 2, module, tools, extra)
        other = model(seed=1)
        others = optimizers(other)
        assert load_resume(tmp_path, other, others) == (2, extra)
        trained(module, tools, 2, seed=1)
        trained(other, others, 2, seed=1)
        assert same(module, other)

    def test_two_are_kept_the_newest_first(self, tmp_path):
        module = model()
        for iteration in (1, 2, 3):
            save_resume(tmp_path, iteration, module, {}, {})
        assert iterations(tmp_path) == [2, 3]

    def test_a_repeated_iteration_replaces_what_came_after_the_reserve(self, tmp_path):
        module = model()
        for iteration in (10, 20, 30, 20):  # 30 was damaged: 20 is written anew after going back to 10
            save_resume(tmp_path, iteration, module, {}, {})
        assert iterations(tmp_path) == [20]
        assert load_resume(tmp_path, module, {})[0] == 20

    def test_the_name_begins_with_the_checksum_and_other_names_are_none(self, tmp_path):
        save_resume(tmp_path, 1, model(), {}, {})
        (path,) = tmp_path.glob("resume-*")
        assert path.stem == f"resume-00000001-{sha256(path)[:16]}"
        path.rename(tmp_path / "resume-1.safetensors")
        assert load_resume(tmp_path, model(), {}) == (0, {})
