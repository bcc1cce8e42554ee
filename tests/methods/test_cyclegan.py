"""CycleGAN: which side each term trains, what it learns on a toy, and what it hands on."""

import pytest
import torch
import torch.nn.functional as F
from support.tiny import (
    CPU,
    SOURCE_VIEW,
    TARGET_VIEW,
    batch,
    objects_spec,
    prepare_objects,
    stepper,
    steps,
    tensors,
    train_spec,
)

from udaseg.data.batches.streams import Batch, Labelled, Target
from udaseg.engine.checkpoint import load_tensors
from udaseg.engine.train import Training
from udaseg.errors import UserError
from udaseg.methods import METHODS
from udaseg.methods.base import Step
from udaseg.nets.translator import Generator
from udaseg.ops.edges import edge_loss
from udaseg.runs.files import read_json

KNOBS = {"width": 4, "blocks": 1, "critic_width": 8}


def run_of(knobs=None, **changes):
    return stepper(train_spec("cyclegan", knobs=KNOBS | (knobs or {}), **changes))


def away(run):
    """Generators that do not give what they are given, as those at the start do."""
    for index, made in enumerate(run.method.generators.values()):
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            made.colours.weight.copy_(0.2 * torch.randn(made.colours.weight.shape, generator=generator))
            made.colours.bias.copy_(torch.randn(3, generator=generator))
    return run


def groups(run, images):
    return run.method.losses(images, Step(90, 100, run.weights, torch.Generator()))


def tinted(index):
    """The target's images are the source's kind of images in another light."""
    source = batch(index).source
    tint = torch.tensor([1.0, 0.6, 0.4])[:, None, None]
    return Batch(source, Target(image=batch(index + 1000).source.image * tint))


def mean_colour(images):
    return images.mean((0, 2, 3))


def test_terms_are_those_of_the_papers_equations():
    run, images = away(run_of()), batch(0)
    source, target = images.source.image, images.target.image
    to_target, to_source = run.method.generators["target"], run.method.generators["source"]
    of_target, of_source = run.method.critics["target"], run.method.critics["source"]
    with torch.no_grad():
        translated, returned = to_target(source), to_source(target)

        def far(critic, image, wanted):
            return float(((critic(2 * image - 1) - wanted) ** 2).mean())

        # Each critic's own domain is what it calls the target's (1) or the source's (0): real images of it, that is.
        expected = {
            "adv": far(of_target, translated, 1) + far(of_source, returned, 0),
            "cycle": float((to_source(translated) - source).abs().mean() + (to_target(returned) - target).abs().mean()),
            "identity": float((to_target(target) - target).abs().mean() + (to_source(source) - source).abs().mean()),
            "edge": float(edge_loss(source, translated, images.source.label)),
            "critic": (
                far(of_target, target, 1) + far(of_target, translated, 0)
                + far(of_source, source, 0) + far(of_source, returned, 1)
            ) / 2,
        }  # fmt: skip
    found, _ = run(90, [images])
    assert found == pytest.approx(expected, rel=1e-5)


def test_each_side_leaves_the_other_alone():
    run = away(run_of())
    losses = groups(run, batch(0))
    torch.stack(list(next(losses).values())).sum().backward()
    assert all(parameter.grad is None for parameter in run.method.critics.parameters())
    assert all(parameter.grad.any() for parameter in run.method.generators.parameters())
    run.method.zero_grad(set_to_none=True)
    (term,) = next(losses).values()
    term.backward()
    assert all(parameter.grad is None for parameter in run.method.generators.parameters())
    assert all(parameter.grad.any() for parameter in run.method.critics.parameters())
    assert next(losses, None) is None


def test_the_edge_term_alone_pulls_only_on_the_generator_to_the_target():
    run = away(run_of())
    next(groups(run, batch(0)))["edge"].backward()
    assert run.method.generators["target"].colours.weight.grad.any()
    assert run.method.generators["source"].colours.weight.grad is None


def test_a_few_steps_on_a_batch_lower_the_cycle():
    run = away(run_of({"generator_lr": 3e-3}, optim={"schedule": "constant"}))
    values = [run(index, [batch(0)])[0]["cycle"] for index in range(20)]
    assert values[-1] < values[0] / 2


def test_the_critics_learn_to_tell_the_domains():
    run = run_of({"critic_lr": 2e-3}, optim={"schedule": "constant"})
    logs = [run(index, [batch(index)])[1] for index in range(25)]
    assert set(logs[0]) == {"domain_accuracy_target", "domain_accuracy_source"}
    assert all(logs[-1][name] > 0.9 for name in logs[-1])


def test_another_light_is_learnt():
    rates = {"generator_lr": 3e-3, "critic_lr": 3e-3}
    run = run_of(rates, weights={"identity": 0.0}, optim={"schedule": "constant"})
    for index in range(60):
        run(index, [tinted(index)])
    sources = torch.cat([tinted(index).source.image for index in range(100, 110)])
    targets = torch.cat([tinted(index).target.image for index in range(100, 110)])
    with torch.no_grad():
        found = run.method.predictor()(sources)
    before, after = ((mean_colour(one) - mean_colour(targets)).abs().sum() for one in (sources, found))
    assert after < 0.6 * before
    # What was where, is there still.
    centred = [(one - one.mean((2, 3), keepdim=True)).flatten(2) for one in (sources, found)]
    assert F.cosine_similarity(*centred, dim=-1).mean() > 0.9


@pytest.mark.parametrize(
    ("source", "target"), [((2, (40, 56)), (3, (64, 48))), ((1, (16, 16)), (1, (9, 17))), ((1, (33, 21)), (2, (8, 8)))]
)
def test_streams_need_neither_one_size_nor_one_number(source, target):
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(count, 3, *size, generator=generator) for count, size in (source, target))
    labels = torch.randint(0, 3, (source[0], *source[1]), generator=generator)
    terms, _ = run_of()(0, [Batch(Labelled(first, labels), Target(image=second))])
    assert set(terms) == {"adv", "cycle", "identity", "edge", "critic"}


def test_crops_smaller_than_a_patch_are_refused():
    images = torch.rand(1, 3, 7, 16)
    with pytest.raises(UserError, match="use a larger crop"):
        run_of()(0, [Batch(Labelled(images, torch.zeros(1, 7, 16, dtype=torch.long)), Target(image=images))])


def test_source_pixels_that_nobody_labelled_are_translated_like_others():
    images = batch(0)
    blank = Batch(Labelled(images.source.image, torch.full_like(images.source.label, 255)), images.target)
    terms, _ = away(run_of())(0, [blank])
    assert terms["edge"] == 0 and terms["adv"] > 0


def test_what_a_run_leaves_is_the_generator_to_the_target(tmp_path):
    source = prepare_objects(tmp_path, {"train": 3, "val": 1})
    target = prepare_objects(tmp_path, {"train": 3, "val": 1}, world=2)
    views = {"source": SOURCE_VIEW | {"crop": [32, 32]}, "target": TARGET_VIEW | {"crop": [32, 32]}}
    spec = objects_spec(source, target, "cyclegan", knobs=KNOBS, init={}, monitor=None, train=views | {"iterations": 2})
    training = Training(spec, METHODS["cyclegan"], tmp_path / "state", CPU)
    training.run()
    build = tmp_path / "state" / "build"
    left = Generator.from_tensors(load_tensors(build / "model.safetensors"), "here")
    image = torch.rand(1, 3, 32, 48)
    made = training.method.predictor()
    with torch.no_grad():
        assert torch.equal(left(image), made.to(memory_format=torch.contiguous_format)(image))
    assert {name.split(".")[0] for name in load_tensors(build / "state.safetensors")} == {"generators", "critics"}
    assert read_json(build / "result.json")["matched"] == {}


def test_seeds_start_elsewhere_and_equal_ones_alike():
    one, same, other = (run_of(seed=seed) for seed in (0, 0, 1))
    for run in (one, same, other):
        steps(run, 0, 2)
    first, second, third = (tensors(run.method)["generators.target.stem.0.weight"] for run in (one, same, other))
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert not torch.equal(first, tensors(one.method)["generators.source.stem.0.weight"])
