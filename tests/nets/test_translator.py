"""The generator of a translator: sizes, what it starts as, and weights that are or are not its own."""

import pytest
import torch

from udaseg.errors import UserError
from udaseg.nets.base import initialised_from
from udaseg.nets.translator import Generator


def images(size=(16, 24), batch=2, seed=0):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def generator(width=4, blocks=2, changing=True):
    with initialised_from(0):
        made = Generator(width, blocks)
        if changing:
            torch.nn.init.normal_(made.colours.weight, std=0.5)
    return made


@pytest.mark.parametrize("size", [(16, 24), (5, 5), (7, 9), (18, 13), (33, 5)])
def test_any_size_comes_back_in_range(size):
    image = images(size)
    found = generator()(image)
    assert found.shape == image.shape and found.min() >= 0 and found.max() <= 1
    assert not torch.allclose(found, image, atol=0.05)


def test_untrained_it_changes_nothing():
    image = torch.cat([images(), torch.zeros(1, 3, 16, 24), torch.ones(1, 3, 16, 24)])
    torch.testing.assert_close(generator(changing=False)(image), image, atol=1e-6, rtol=0)


def test_black_and_white_can_be_left():
    made = generator(changing=False)
    for colour, bias in ((0.0, 1.0), (1.0, -1.0)):
        with torch.no_grad():
            made.colours.bias.fill_(bias)
        image = torch.full((1, 3, 8, 8), colour, requires_grad=True)
        found = made(image)
        assert (found - colour).abs().min() > 0.04
        found.sum().backward()
        assert image.grad.abs().min() > 0


def test_all_parameters_get_gradients():
    made = generator()
    made(images()).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in made.parameters())


def test_images_do_not_see_each_other():
    made, image = generator(), images(batch=3)
    torch.testing.assert_close(made(image)[1:2], made(image[1:2]), atol=1e-5, rtol=0)


def test_it_runs_with_operators_that_are_deterministic_only():
    made, image = generator(), images((18, 13))
    torch.use_deterministic_algorithms(True)
    try:
        results = []
        for _ in range(2):
            made.zero_grad()
            made(image).square().sum().backward()
            results.append([parameter.grad.clone() for parameter in made.parameters()])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


@pytest.mark.parametrize(("width", "blocks"), [(4, 2), (3, 0), (8, 1)])
def test_width_and_depth_are_read_off_the_tensors(width, blocks):
    made = generator(width, blocks)
    same = Generator.from_tensors(made.state_dict(), "here")
    assert len(same.blocks) == blocks
    assert torch.equal(same(images()), made(images()))


def broken(change):
    tensors = dict(generator().state_dict())
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"backbone.stem.0.weight": torch.zeros(4, 3, 3, 3)},
        {"stem.0.weight": torch.zeros(4)},
        {"stem.0.weight": torch.zeros(4, 3, 3, 3)},
        {"stem.0.weight": torch.zeros(0, 3, 3, 3)},
        broken(lambda tensors: tensors.pop("colours.bias")),
        broken(lambda tensors: tensors.update(extra=torch.zeros(1))),
        broken(lambda tensors: tensors.update({"blocks.5.conv1.0.weight": torch.zeros(1)})),
        broken(lambda tensors: tensors.update({"down1.0.weight": torch.zeros(1)})),
    ],
)
def test_other_tensors_are_refused(tensors):
    with pytest.raises(UserError, match="here: these are not the weights of an image translator"):
        Generator.from_tensors(tensors, "here")
