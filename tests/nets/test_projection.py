import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck

from udaseg.nets.projection import PatchProjection, PixelProjection, SideClassifier

PROJECTIONS = [PixelProjection, PatchProjection]


def built(kind, *sizes):
    torch.manual_seed(0)
    return kind(*sizes)


def shapes(module):
    return [tuple(layer.weight.shape) for layer in module.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("kind", PROJECTIONS)
class TestProjections:
    @settings(deadline=None)
    @given(height=st.integers(1, 6), width=st.integers(1, 6))
    def test_keep_the_size_and_give_vectors_of_length_one(self, kind, height, width):
        embedding = built(kind, 5, 7, 4)(torch.randn(2, 5, height, width))
        assert embedding.shape == (2, 4, height, width)
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2, height, width))

    def test_gradient(self, kind):
        projection = built(kind, 3, 4, 2).double()
        features = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
        assert gradcheck(projection, features)

    def test_every_parameter_gets_a_gradient(self, kind):
        projection = built(kind, 5, 16, 4)
        projection(torch.randn(2, 5, 6, 6))[:, 0].square().sum().backward()
        gradients = [parameter.grad for parameter in projection.parameters()]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
        assert gradients[0].any() and gradients[-1].any()

    def test_length_one_also_under_autocast(self, kind):
        with torch.autocast("cpu", torch.bfloat16):
            embedding = built(kind, 5, 7, 4)(torch.randn(2, 5, 3, 3))
        assert embedding.dtype == torch.float32
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2, 3, 3))

    def test_a_vector_of_zeros_stays_one_without_nan(self, kind):
        projection = built(kind, 5, 7, 4)
        for parameter in projection.parameters():
            nn.init.zeros_(parameter)
        features = torch.randn(2, 5, 3, 3, requires_grad=True)
        embedding = projection(features)
        embedding.sum().backward()
        assert not embedding.any() and features.grad.isfinite().all()

    def test_features_with_other_channels_are_refused(self, kind):
        with pytest.raises(RuntimeError):
            built(kind, 5, 7, 4)(torch.randn(2, 6, 3, 3))


class TestPixelProjection:
    def test_is_what_the_release_computes(self):
        projection, features = built(PixelProjection, 5, 7, 4), torch.randn(2, 5, 3, 3)
        first, norm, _, last = projection.layers
        hidden = first(features)
        hidden = (hidden - hidden.mean((0, 2, 3), keepdim=True)) / (
            hidden.var((0, 2, 3), correction=0, keepdim=True) + norm.eps
        ).sqrt()
        torch.testing.assert_close(projection(features), F.normalize(last(hidden.relu()), dim=1))

    def test_released_layers(self):
        projection = PixelProjection(1024, 1024, 256)
        assert shapes(projection) == [(1024, 1024, 1, 1), (256, 1024, 1, 1)]
        assert [type(layer) for layer in projection.layers] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d]


class TestPatchProjection:
    def test_is_what_the_release_computes(self):
        projection, features = built(PatchProjection, 5, 7, 4), torch.randn(2, 5, 3, 3)
        first, _, last = projection.layers
        torch.testing.assert_close(projection(features), F.normalize(last(first(features).relu()), dim=1))

    def test_released_layers(self):
        projection = PatchProjection(256, 256, 128)
        assert shapes(projection) == [(256, 256, 1, 1), (128, 256, 1, 1)]

    def test_pixels_do_not_see_each_other(self):
        projection, features = built(PatchProjection, 5, 7, 4), torch.randn(2, 5, 4, 3)
        alone = projection(features[1:, :, 2:3, 1:2])
        torch.testing.assert_close(projection(features)[1:, :, 2:3, 1:2], alone)


class TestSideClassifier:
    @settings(deadline=None)
    @given(height=st.integers(1, 6), width=st.integers(1, 6))
    def test_keeps_the_size(self, height, width):
        assert built(SideClassifier, 5, 7, 3)(torch.randn(2, 5, height, width)).shape == (2, 3, height, width)

    def test_released_layers(self):
        classifier = SideClassifier(64, 64, 19)
        assert shapes(classifier) == [(64, 64, 3, 3), (19, 64, 1, 1)]
        kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout2d, nn.Conv2d]
        assert [type(layer) for layer in classifier.layers] == kinds
        assert classifier.layers[3].p == 0.1 and classifier.layers[-1].bias is None

    def test_value_without_dropout(self):
        classifier, features = built(SideClassifier, 5, 7, 3).eval(), torch.randn(2, 5, 4, 4)
        conv, norm, _, _, last = classifier.layers
        hidden = F.conv2d(features, conv.weight, conv.bias, padding=1) / (1 + norm.eps) ** 0.5
        torch.testing.assert_close(classifier(features), F.conv2d(hidden.relu(), last.weight))

    def test_dropout_acts_while_training_only(self):
        classifier, features = built(SideClassifier, 5, 64, 3), torch.randn(2, 5, 4, 4)
        assert not torch.equal(classifier(features), classifier(features))
        classifier.eval()
        assert torch.equal(classifier(features), classifier(features))

    def test_gradient(self):
        classifier = built(SideClassifier, 2, 3, 2).double().eval()
        assert gradcheck(classifier, torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True))

    def test_features_with_other_channels_are_refused(self):
        with pytest.raises(RuntimeError):
            built(SideClassifier, 5, 7, 3)(torch.randn(2, 6, 3, 3))
