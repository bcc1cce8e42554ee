"""PLCA's test-time aggregation, as a wrapper around the network that is scored (Kang et al., NeurIPS 2020)."""

import torch
from torch import Tensor, nn

from udaseg.nets.base import Outputs, SegmentationNet
from udaseg.ops.aggregation import aggregate_features, aggregate_predictions


class Aggregated(nn.Module):
    """A network whose embedding is aggregated over each image before classification, and its predictions afterwards.

    The paper's published figures are made this way, by a script of the release. The script resizes probabilities; here
    their logarithms are the logits, which are resized and averaged over windows like those of any other network.

    Args:
        net: the trained network.
        share: of the aggregate in an embedding or a prediction, in [0, 1] (released 0.5).
    """

    def __init__(self, net: SegmentationNet, share: float) -> None:
        super().__init__()
        self.net, self.share = net, share

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, H, W), RGB in [0, 1] -> `Outputs`, whose logits are logarithms of probabilities."""
        outputs: Outputs = self.net(images)
        embedding = aggregate_features(outputs.features["embedding"], self.share)
        probs = aggregate_predictions(self.net.head.classify(embedding).softmax(1), self.share)
        # A probability of 0 would turn its neighbours into NaN when the logarithms are interpolated.
        return outputs._replace(logits=probs.clamp(min=torch.finfo(probs.dtype).tiny).log())
