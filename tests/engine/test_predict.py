"""From images to scores: what is resized before what, and that windows, flips and scales are what they are called."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import CLASSES, CPU, train_spec
from torch import nn

from udaseg.config.evaluation import Protocol, Sliding
from udaseg.engine.checkpoint import save_tensors
from udaseg.engine.predict import PLAIN, _starts, load_predictor, predict_scores, to_tensor
from udaseg.errors import UserError
from udaseg.nets.base import Outputs
from udaseg.nets.build import build_network
from udaseg.ops.maps import resize


class Local(nn.Module):
    """A network whose logits at a pixel are a function of that pixel alone: no window can change them."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(tuple(images.shape[-2:]))
        return Outputs(torch.cat([images, images.sum(1, keepdim=True) ** 2], 1), None, {})


def network(levels=1, seed=0, **changes):
    torch.manual_seed(seed)
    net = build_network(train_spec(network=changes).network, len(CLASSES), levels, seed).eval()
    with torch.no_grad():
        net.head.branches[0].weight.mul_(100)  # an untrained head gives nearly the same logits everywhere
    return net


def image(height=40, width=56):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def protocol(window=None, flip=False, scales=(1.0,), fusion="mean"):
    sliding = Sliding(size=window[0], stride=window[1]) if window else None
    return Protocol(window=sliding, flip=flip, scales=list(scales), fusion=fusion, aggregate=None)


def test_plain_scores_are_logits_at_the_size_asked_for():
    net = network()
    with torch.no_grad():
        expected = resize(net(image()).logits, (81, 111))
    assert torch.equal(predict_scores(net, image(), (81, 111), PLAIN), expected)
    # Not the argmax resized: that would draw other borders.
    coarse = net(image()).logits.argmax(1)[:, None].float()
    nearest = nn.functional.interpolate(coarse, (81, 111), mode="nearest")[:, 0]
    assert not torch.equal(expected.argmax(1), nearest.long())


def test_a_flip_is_the_mean_of_both_views_probabilities_and_symmetric():
    net = network()
    found = predict_scores(net, image(), (40, 56), protocol(flip=True))
    with torch.no_grad():
        views = [net(image()).logits, net(image().flip(-1)).logits.flip(-1)]
    expected = sum(resize(view, (40, 56)).softmax(1) for view in views) / 2
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(predict_scores(net, image().flip(-1), (40, 56), protocol(flip=True)).flip(-1), found)


def test_scales_are_the_mean_of_the_probabilities_at_each():
    local = Local()
    found = predict_scores(local, image(), (80, 112), protocol(scales=(0.5, 1.0, 1.25)))
    assert local.seen == [(20, 28), (40, 56), (50, 70)]
    single = [
        predict_scores(local, image(), (80, 112), protocol(scales=(scale,))).softmax(1) for scale in (0.5, 1, 1.25)
    ]
    torch.testing.assert_close(found, sum(single) / 3)
    torch.testing.assert_close(found.sum(1), torch.ones(1, 80, 112))


@pytest.mark.parametrize("window", [None, ((24, 32), (16, 16))])
def test_the_highest_logits_of_all_scales_and_flips(window):
    net, scales = network(), (0.5, 1.0, 1.25)
    found = predict_scores(net, image(), (80, 112), protocol(window, True, scales, "max"))
    highest = torch.full_like(found, -torch.inf)
    for scale in scales:
        for mirrored in (False, True):
            view = image().flip(-1) if mirrored else image()
            # A pass on its own; the windows of one pass are averaged, as ever.
            logits = predict_scores(net, view, (80, 112), protocol(window, scales=(scale,)))
            logits = logits.flip(-1) if mirrored else logits
            highest = torch.where(logits > highest, logits, highest)
    torch.testing.assert_close(
        found, highest, rtol=1e-5, atol=1e-3
    )  # of logits of tens, resized before or after a flip
    averaged = predict_scores(net, image(), (80, 112), protocol(window, True, scales))
    assert not torch.equal(found.argmax(1), averaged.argmax(1))  # which of the two it is decides some pixels
    assert (found < 0).any() and (found > 1).any()  # logits


def test_the_highest_of_one_pass_is_the_pass():
    net = network()
    assert torch.equal(
        predict_scores(net, image(), (80, 112), protocol(fusion="max")), predict_scores(net, image(), (80, 112), PLAIN)
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_windows_cover_the_image_and_stay_inside(data):
    length = data.draw(st.integers(1, 60))
    window = data.draw(st.integers(1, 70))
    stride = data.draw(st.integers(1, window))
    starts = _starts(length, window, stride)
    covered = {position for start in starts for position in range(start, min(start + window, length))}
    assert covered == set(range(length))
    assert starts == sorted(set(starts))
    assert starts[0] == 0 and starts[-1] == max(length - window, 0)


@settings(max_examples=20, deadline=None)
@given(st.tuples(st.integers(1, 50), st.integers(1, 60)), st.floats(0.1, 1))
def test_sliding_changes_nothing_where_only_the_pixel_counts(size, part):
    stride = tuple(max(1, round(part * length)) for length in size)
    found = predict_scores(Local(), image(), (40, 56), protocol(window=(size, stride)))
    torch.testing.assert_close(found, predict_scores(Local(), image(), (40, 56), PLAIN))


@pytest.mark.parametrize("size", [(40, 56), (64, 64), (200, 56)])
def test_a_window_of_at_least_the_image_is_the_whole_image(size):
    net = network()
    found = predict_scores(net, image(), (80, 112), protocol(window=(size, (8, 8))))
    assert torch.equal(found, predict_scores(net, image(), (80, 112), PLAIN))


def test_overlapping_windows_are_averaged_at_the_images_size():
    net = network()
    found = predict_scores(net, image(), (40, 56), protocol(window=((40, 32), (40, 24))))
    with torch.no_grad():
        left, right = (resize(net(image()[..., a:b]).logits, (40, 32)) for a, b in ((0, 32), (24, 56)))
    torch.testing.assert_close(found[..., :24], left[..., :24])
    torch.testing.assert_close(found[..., 32:], right[..., 8:])
    torch.testing.assert_close(found[..., 24:32], (left[..., 24:] + right[..., :8]) / 2)


def test_pictures_become_values_between_0_and_1():
    picture = torch.randint(0, 256, (4, 6, 3), dtype=torch.uint8)
    tensor = to_tensor(picture.numpy())
    assert tensor.shape == (1, 3, 4, 6) and tensor.dtype == torch.float32
    assert torch.equal((tensor[0] * 255).round().byte().permute(1, 2, 0), picture)


class TestLoadPredictor:
    @pytest.mark.parametrize("levels", [1, 2])
    def test_the_network_that_was_saved_in_evaluation_mode(self, levels, tmp_path):
        net = network(levels)
        save_tensors(tmp_path / "model.safetensors", net.state_dict())
        loaded = load_predictor(train_spec().network, len(CLASSES), tmp_path / "model.safetensors", CPU)
        assert not loaded.training and (loaded.aux_head is not None) == (levels == 2)
        assert torch.equal(loaded(image()).logits, net(image()).logits)

    def test_weights_of_another_network_or_number_of_classes_are_refused(self, tmp_path):
        path = tmp_path / "model.safetensors"
        save_tensors(path, network().state_dict())
        with pytest.raises(UserError, match=r"model\.safetensors: these are not the weights of a small with 4 classes"):
            load_predictor(train_spec().network, 4, path, CPU)
        with pytest.raises(UserError, match=r"not the weights of a deeplabv2 with 3 classes"):
            load_predictor(train_spec(network={"name": "deeplabv2"}).network, 3, path, CPU)
        with pytest.raises(UserError, match=r"other\.safetensors: cannot be read as safetensors"):
            load_predictor(train_spec().network, 3, tmp_path / "other.safetensors", CPU)
