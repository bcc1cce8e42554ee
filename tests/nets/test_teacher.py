from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from udaseg.nets.base import Backbone, SegmentationNet
from udaseg.nets.heads import Aspp
from udaseg.nets.teacher import EmaTeacher, Frozen, ema_update

MODES = ("eval", "train_without_dropout", "train")


class Layers(Backbone):
    feature_channels = {"layer3": 4, "layer4": 4}  # noqa: RUF012
    head_feature, aux_feature = "layer4", "layer3"
    head_width = 4
    dilations = (1, 1, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.5))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        layer3 = self.norm(self.conv(images))
        return {"layer3": layer3, "layer4": self.drop(layer3)}


def network(norm: str = "train", seed: int = 0) -> SegmentationNet:
    torch.manual_seed(seed)
    return SegmentationNet(Layers(), Aspp(4, 2, (1,)), None, False, norm)  # type: ignore[arg-type]


def images() -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def of_kind(module: nn.Module, *kinds: type) -> Iterator[nn.Module]:
    return (part for part in module.modules() if isinstance(part, kinds))


class TestEmaTeacher:
    def test_starts_as_a_copy_that_shares_nothing_and_gets_no_gradient(self) -> None:
        net = network()
        teacher = EmaTeacher(net, "own", "train")
        for own, other in zip(teacher.net.parameters(), net.parameters(), strict=True):
            assert torch.equal(own, other) and own.data_ptr() != other.data_ptr()
            assert not own.requires_grad and other.requires_grad
        outputs = teacher(images().requires_grad_())
        assert outputs.logits.shape == (2, 2, 6, 6) and not outputs.logits.requires_grad

    @pytest.mark.parametrize("mode", MODES)
    def test_keeps_its_mode_whatever_it_is_told(self, mode: str) -> None:
        holder = nn.ModuleDict({"teacher": EmaTeacher(network().eval(), "own", mode)})  # type: ignore[arg-type]
        for told in (None, True, False):
            if told is not None:
                holder.train(told)
            net = holder["teacher"].net
            assert all(part.training == (mode != "eval") for part in of_kind(net, nn.BatchNorm2d))
            assert all(part.training == (mode == "train") for part in of_kind(net, nn.Dropout, nn.Dropout2d))

    @pytest.mark.parametrize("mode", MODES)
    def test_batch_norm_that_is_never_trained_stays_so(self, mode: str) -> None:
        teacher = EmaTeacher(network(norm="eval"), "own", mode).train()  # type: ignore[arg-type]
        assert not any(part.training for part in of_kind(teacher.net, nn.BatchNorm2d))

    def test_without_dropout_it_repeats_itself(self) -> None:
        teacher = EmaTeacher(network(), "own", "train_without_dropout")
        assert torch.equal(teacher(images()).logits, teacher(images()).logits)
        teacher = EmaTeacher(network(), "own", "train")
        assert not torch.equal(teacher(images()).logits, teacher(images()).logits)

    def test_update_rule(self) -> None:
        teacher, student = EmaTeacher(network(seed=0), "own", "train"), network(seed=1)
        before = [parameter.clone() for parameter in teacher.net.parameters()]
        teacher.update(student, keep=0.75)
        for own, old, new in zip(teacher.net.parameters(), before, student.parameters(), strict=True):
            torch.testing.assert_close(own, 0.75 * old + 0.25 * new)
        teacher.update(student, keep=0.0)
        assert all(map(torch.equal, teacher.net.parameters(), student.parameters()))

    def test_an_update_leaves_the_student_and_gradients_alone(self) -> None:
        teacher, student = EmaTeacher(network(seed=0), "copy", "train"), network(seed=1)
        before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
        teacher.update(student, keep=0.5)
        assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())
        assert not any(parameter.requires_grad for parameter in teacher.parameters())

    @pytest.mark.parametrize("buffers", ["own", "copy"])
    def test_whose_statistics_it_has(self, buffers: str) -> None:
        net = network()
        teacher = EmaTeacher(net, buffers, "train")  # type: ignore[arg-type]
        net(images())  # moves the student's
        teacher(3 * images())  # and the teacher's
        mine, theirs = teacher.net.backbone.norm, net.backbone.norm
        assert not torch.equal(mine.running_mean, theirs.running_mean)
        own = mine.running_mean.clone()
        teacher.update(net, keep=0.5)
        assert torch.equal(mine.running_mean, theirs.running_mean if buffers == "copy" else own)
        assert mine.num_batches_tracked == 1

    def test_is_part_of_the_state(self) -> None:
        first, second = (EmaTeacher(network(seed=seed), "own", "eval") for seed in (0, 1))
        second.load_state_dict(first.state_dict())
        assert torch.equal(first(images()).logits, second(images()).logits)

    def test_other_settings_are_refused(self) -> None:
        with pytest.raises(ValueError, match="buffers"):
            EmaTeacher(network(), "shared", "eval")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="mode"):
            EmaTeacher(network(), "own", "frozen")  # type: ignore[arg-type]

    def test_another_network_is_refused(self) -> None:
        with pytest.raises(ValueError):
            EmaTeacher(network(), "own", "eval").update(nn.Conv2d(3, 4, 3), keep=0.5)


class TestFrozen:
    def test_stands_outside_the_state_and_the_parameters(self) -> None:
        net = network()
        holder = nn.ModuleDict({"net": net, "frozen": Frozen(net)})
        assert not [name for name in holder.state_dict() if name.startswith("frozen")]
        assert len(list(holder.parameters())) == len(list(net.parameters()))
        assert len(list(holder.buffers())) == len(list(net.buffers()))

    def test_is_in_evaluation_mode_for_ever(self) -> None:
        frozen = Frozen(network())
        nn.ModuleDict({"frozen": frozen}).train()
        assert not any(part.training for part in frozen.net.modules())
        assert torch.equal(frozen(images()).logits, frozen(images()).logits)

    def test_does_not_follow_the_network_it_was_made_of(self) -> None:
        net = network()
        frozen = Frozen(net)
        before = frozen(images()).logits
        nn.init.zeros_(net.head.branches[0].weight)
        net(images())
        assert torch.equal(frozen(images()).logits, before)
        assert all(parameter.requires_grad for parameter in net.parameters()) and net.training

    def test_builds_no_graph(self) -> None:
        frozen = Frozen(network())
        assert not frozen(images().requires_grad_()).logits.requires_grad
        assert not any(parameter.requires_grad for parameter in frozen.net.parameters())

    def test_moves_with_the_module_it_is_part_of(self) -> None:
        holder = nn.ModuleDict({"frozen": Frozen(network())}).to("meta", torch.float64)
        tensors = [*holder["frozen"].net.parameters(), *holder["frozen"].net.normalise.buffers()]
        assert all(tensor.device.type == "meta" and tensor.dtype == torch.float64 for tensor in tensors)

    def test_takes_any_module(self) -> None:
        bilinear = nn.Bilinear(2, 3, 1)
        assert torch.equal(Frozen(bilinear)(torch.ones(2), torch.ones(3)), bilinear(torch.ones(2), torch.ones(3)))


def test_the_update_is_a_moving_average() -> None:
    teacher, student = nn.Bilinear(4, 4, 2), nn.Bilinear(4, 4, 2)
    pairs = list(zip(teacher.parameters(), student.parameters(), strict=True))
    expected = [0.9 * own.detach() + 0.1 * other.detach() for own, other in pairs]
    ema_update(teacher, student, 0.9)
    for own, value in zip(teacher.parameters(), expected, strict=True):
        torch.testing.assert_close(own.detach(), value)
    ema_update(teacher, student, 0.0)
    assert all(torch.equal(own, other) for own, other in pairs)
