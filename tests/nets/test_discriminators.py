import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from udaseg.errors import UserError
from udaseg.nets.discriminators import PatchDiscriminator, PixelClassifier, ProdaDiscriminator


class TestPatchDiscriminator:
    @settings(deadline=None)
    @given(st.integers(8, 40), st.integers(8, 40))
    def test_one_logit_a_patch(self, height, width):
        assert PatchDiscriminator(3, width=2, layers=3)(torch.rand(2, 3, height, width)).shape == (
            2, 1, height // 8, width // 8,
        )  # fmt: skip

    def test_channels_double(self):
        shapes = [tuple(conv.weight.shape) for conv in PatchDiscriminator(19).convs]
        assert shapes == [(64, 19, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1, 512, 4, 4)]

    def test_no_activation_after_the_last_layer(self):
        discriminator = PatchDiscriminator(3, width=2, layers=1)
        torch.nn.init.zeros_(discriminator.convs[0].weight)
        torch.nn.init.constant_(discriminator.convs[0].bias, -3.0)
        assert torch.equal(discriminator(torch.rand(1, 3, 4, 4)), torch.full((1, 1, 2, 2), -3.0))

    @pytest.mark.parametrize("size", [(31, 64), (64, 31), (16, 16)])
    def test_an_input_smaller_than_a_patch_is_refused(self, size):
        with pytest.raises(UserError, match=r"at least 32x32: use a larger crop"):
            PatchDiscriminator(3, width=2)(torch.rand(1, 3, *size))

    def test_gradient(self):
        torch.manual_seed(0)
        discriminator = PatchDiscriminator(2, width=2, layers=2).double()
        assert gradcheck(discriminator, torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True))


class TestProdaDiscriminator:
    @settings(deadline=None)
    @given(st.integers(1, 40), st.integers(1, 40))
    def test_one_logit_a_patch_also_a_partial_one(self, height, width):
        assert ProdaDiscriminator(3, width=2, layers=4)(torch.rand(2, 3, height, width)).shape == (
            2, 1, -(-height // 8), -(-width // 8),
        )  # fmt: skip

    def test_channels_double(self):
        discriminator = ProdaDiscriminator(19)
        shapes = [tuple(conv.weight.shape) for conv in discriminator.convs]
        assert shapes == [(64, 19, 3, 3), (128, 64, 3, 3), (256, 128, 3, 3), (512, 256, 3, 3)]
        assert tuple(discriminator.classifier.weight.shape) == (1, 512, 1, 1)

    def test_only_the_activation_before_the_last_layer_leaks(self):
        for layers, expected in ((2, -0.2), (3, 0.0)):
            discriminator = ProdaDiscriminator(3, width=1, layers=layers)
            for parameter in discriminator.parameters():
                torch.nn.init.zeros_(parameter)
            torch.nn.init.constant_(discriminator.convs[0].bias, -1.0)
            for conv in [*discriminator.convs[1:], discriminator.classifier]:
                torch.nn.init.ones_(conv.weight)
            found = discriminator(torch.rand(1, 3, 2, 2))
            torch.testing.assert_close(found, torch.full((1, 1, 1, 1), expected))

    def test_maps_with_other_channels_are_refused(self):
        with pytest.raises(RuntimeError):
            ProdaDiscriminator(3, width=2)(torch.rand(1, 4, 8, 8))

    def test_gradient(self):
        torch.manual_seed(0)
        discriminator = ProdaDiscriminator(2, width=2, layers=3).double()
        assert gradcheck(discriminator, torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True))


class TestPixelClassifier:
    @pytest.mark.parametrize("outputs", [1, 2])
    def test_logits_at_every_location(self, outputs):
        assert PixelClassifier(8, hidden=4, outputs=outputs)(torch.rand(2, 8, 5, 3)).shape == (2, outputs, 5, 3)

    def test_layers(self):
        shapes = [tuple(conv.weight.shape[:2]) for conv in PixelClassifier(2048).convs]
        assert shapes == [(1024, 2048), (1024, 1024), (1, 1024)]

    def test_locations_do_not_see_each_other(self):
        classifier = PixelClassifier(8, hidden=4, dropout=0.0)
        features = torch.rand(1, 8, 5, 3)
        alone = classifier(features[:, :, 2:3, 1:2])
        torch.testing.assert_close(classifier(features)[:, :, 2:3, 1:2], alone)

    def test_dropout_acts_while_training_only(self):
        classifier, features = PixelClassifier(8, hidden=16, dropout=0.5), torch.rand(1, 8, 5, 3)
        assert not torch.equal(classifier(features), classifier(features))
        classifier.eval()
        assert torch.equal(classifier(features), classifier(features))

    def test_features_with_other_channels_are_refused(self):
        with pytest.raises(RuntimeError):
            PixelClassifier(8, hidden=4)(torch.rand(1, 7, 5, 3))

    def test_gradient(self):
        torch.manual_seed(0)
        classifier = PixelClassifier(3, hidden=4, dropout=0.0).double()
        assert gradcheck(classifier, torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True))
