"""The translator as a method gets it: what each kind needs and gives, and that it is no part of the state."""

import pytest
import torch
from pydantic import ValidationError
from support.tiny import translator

from udaseg.config.training import Network
from udaseg.errors import UserError
from udaseg.methods.diga.translation import (
    QUALIFIERS,
    Translator,
    TranslatorKnobs,
    translator_qualifier,
    translator_roles,
    translator_views,
)
from udaseg.nets.translator import Generator
from udaseg.ops.maps import resize
from udaseg.ops.translation import fourier_transfer, lab_transfer

NETWORK = Network(name="small", depth=50, head="aspp", aspp="paper", feature_norm=False, norm="train")
KINDS = tuple(QUALIFIERS)


def images(batch=3, size=(16, 24), seed=0):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def built(kind, **knobs):
    given = TranslatorKnobs(translator=kind, **knobs)
    initial = {"translator": ("a run", translator())} if translator_roles(given) else {}
    return Translator(given, initial)


def translated(kind, source, target, **knobs):
    return built(kind, **knobs)(source, target)


@pytest.mark.parametrize(
    ("kind", "roles", "views", "qualifier"),
    [
        ("cyclegan", ("translator",), set(), ""),
        ("lab", (), {"target"}, "LAB translation"),
        ("fourier", (), {"target"}, "Fourier translation"),
        ("identity", (), set(), "no translation"),
    ],
)
def test_what_each_kind_needs_and_is_called(kind, roles, views, qualifier):
    knobs = TranslatorKnobs(translator=kind)
    assert translator_roles(knobs) == roles
    assert translator_views(knobs) == views
    assert translator_qualifier(knobs) == qualifier


def test_knobs_are_checked():
    assert TranslatorKnobs().translator == "cyclegan"
    for wrong in ({"translator": "wct"}, {"fourier_share": 0.5}, {"fourier_share": -0.01}):
        with pytest.raises(ValidationError):
            TranslatorKnobs(**wrong)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    @pytest.mark.parametrize("target", [images(3, seed=1), images(2, seed=1), images(5, (9, 33), seed=1)])
    def test_gives_as_many_images_of_the_same_size_in_range(self, kind, target):
        source = images().requires_grad_()
        found = translated(kind, source, target)
        assert found.shape == source.shape and found.dtype == torch.float32
        assert found.min() >= 0 and found.max() <= 1
        assert kind == "identity" or (not found.requires_grad and not torch.equal(found, source))

    def test_is_a_function_of_its_inputs(self, kind):
        source, target = images(), images(seed=1)
        assert torch.equal(translated(kind, source, target), translated(kind, source, target))

    def test_keeps_the_inputs(self, kind):
        source, target = images(), images(seed=1)
        translated(kind, source, target)
        assert torch.equal(source, images()) and torch.equal(target, images(seed=1))

    def test_is_no_part_of_the_state_and_is_never_trained(self, kind):
        made = built(kind)
        assert not made.state_dict() and not list(made.parameters()) and not list(made.buffers())
        assert not made.train().net or not made.net.net.training

    def test_is_not_rounded_in_mixed_precision(self, kind):
        source, target = images(), images(seed=1)
        with torch.autocast("cpu", torch.bfloat16):
            found = translated(kind, source, target)
        assert torch.equal(found, translated(kind, source, target))

    def test_an_image_stays_where_it_is(self, kind):
        # A bright square on a dark ground, and a target without any square.
        source = torch.full((1, 3, 24, 24), 0.2)
        source[..., 8:16, 8:16] = 0.8
        found = translated(kind, source, 0.3 + 0.2 * images(1, (24, 24), seed=1)).mean(1)
        bright = source.mean(1) > 0.5
        assert kind == "cyclegan" or found[bright].mean() > found[~bright].mean() + 0.1


def test_the_cyclegan_is_the_generator_that_it_is_given():
    expected = Generator.from_tensors(translator(), "here").eval()
    with torch.no_grad():
        torch.testing.assert_close(translated("cyclegan", images(), None), expected(images()))


def test_lab_and_fourier_are_the_operators():
    source, target = images(), images(seed=1)
    assert torch.equal(translated("lab", source, target), lab_transfer(source, target))
    for share in (0.05, 0.2):
        found = translated("fourier", source, target, fourier_share=share)
        assert torch.equal(found, fourier_transfer(source, target, share))


@pytest.mark.parametrize(
    ("kind", "transfer"), [("lab", lab_transfer), ("fourier", lambda s, t: fourier_transfer(s, t, 0.2))]
)
def test_targets_are_repeated_cut_and_resized(kind, transfer):
    source = images(3)
    for target in (images(1, seed=1), images(2, seed=1), images(5, seed=1)):
        repeated = torch.stack([target[index % len(target)] for index in range(3)])
        assert torch.equal(translated(kind, source, target, fourier_share=0.2), transfer(source, repeated))
    wide = images(3, (9, 33), seed=1)
    assert torch.equal(translated(kind, source, wide, fourier_share=0.2), transfer(source, resize(wide, (16, 24))))


def test_the_identity_gives_the_source():
    source = images()
    assert torch.equal(translated("identity", source, None), source)


@pytest.mark.parametrize("kind", ["lab", "fourier"])
@pytest.mark.parametrize("target", [None, torch.empty(0)])
def test_without_target_images_a_kind_that_looks_at_them_raises(kind, target):
    with pytest.raises(ValueError, match=f"the translator '{kind}' needs target images"):
        translated(kind, images(), target)


def test_weights_that_are_missing_or_others_are_refused_with_their_role():
    with pytest.raises(UserError, match=r"init\.translator: has no weights; .*cyclegan"):
        Translator(TranslatorKnobs(), {})
    with pytest.raises(UserError, match=r"init\.translator: a run: these are not the weights of an image translator"):
        Translator(TranslatorKnobs(), {"translator": ("a run", {"head.weight": torch.zeros(1)})})


@pytest.mark.parametrize("kind", ["lab", "fourier", "identity"])
def test_weights_that_nobody_needs_are_not_looked_at(kind):
    initial = {"translator": ("a run", {"head.weight": torch.zeros(1)})}
    assert Translator(TranslatorKnobs(translator=kind), initial).net is None
