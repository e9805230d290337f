"""A graph network that says which of the nearest images of an image show the same person (ECN++).

After Zhong et al., "Learning to Adapt Invariance in Memory for Person Re-identification" (TPAMI 2021, arXiv
1908.00485), whose authors published no code. The layers are those of Wang et al. (CVPR 2019,
Zhongdao/gcn_clustering@3068dba) with a constant in place of the batch normalisation of its input. Another person's
implementation of the paper (voaignidc/GCN-GPP-Simple-Example@5c4fd90) has the same layers without either; it gives a
node the weight of an inner product of 0 with itself, and one output with a sigmoid.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional


class GraphConvolution(nn.Module):
    """``relu([X, A X] W + b)``: each node beside the mean of its neighbours.

    Args:
        inputs: length of a node before.
        outputs: and after.
        generator: source of the initial weights, torch's own if None.
    """

    def __init__(self, inputs: int, outputs: int, *, generator: Generator | None = None) -> None:
        super().__init__()
        # W in its two parts, so that A meets the short products X W and not the long nodes
        self.own = nn.Linear(inputs, outputs)
        self.others = nn.Linear(inputs, outputs, bias=False)
        bound = (6 / (2 * inputs + outputs)) ** 0.5
        for weight in (self.own.weight, self.others.weight):
            nn.init.uniform_(weight, -bound, bound, generator=generator)
        nn.init.zeros_(self.own.bias)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """(B, K, outputs) nodes of B graphs.

        Args:
            nodes: (B, K, inputs).
            adjacency: (B, K, K), rows that sum to 1.
        """
        return functional.relu(self.own(nodes) + adjacency @ self.others(nodes))


class PositivePrediction(nn.Module):
    """Graph-based positive prediction: one graph for each anchor, of the candidates that may show its person.

    The nodes are the differences of the candidates from the anchor, joined by a softmax over their inner products; a
    classifier says of each node whether it is of the anchor's person.

    Args:
        dim: length D of a feature.
        widths: outputs of the graph convolutions, one after another.
        scale_nodes: multiply what the first convolution sees by the square root of D. The differences of features of
            unit length have values of about ``1 / sqrt(D)``; Wang et al. bring them to 1 by batch normalisation.
        generator: source of the initial weights, torch's own if None.
    """

    def __init__(
        self, dim: int, widths: Sequence[int], *, scale_nodes: bool = True, generator: Generator | None = None
    ) -> None:
        super().__init__()
        self.scale = dim**0.5 if scale_nodes else 1.0
        sizes = [dim, *widths]
        self.convolutions = nn.ModuleList(GraphConvolution(*pair, generator=generator) for pair in pairwise(sizes))
        self.hidden = nn.Linear(sizes[-1], sizes[-1])
        self.slope = nn.PReLU(sizes[-1])
        self.classifier = nn.Linear(sizes[-1], 2)
        for layer in (self.hidden, self.classifier):
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, anchors: Tensor, candidates: Tensor, present: Tensor) -> Tensor:
        """(B, K, 2) logits: another person, the same person.

        Args:
            anchors: (B, D) features, which get no gradient.
            candidates: (B, K, D) features near to each, which get none either.
            present: (B, K) bool, which candidates there are; the others are no node of a graph, and their logits
                mean nothing.
        """
        nodes = (candidates - anchors[:, None]).detach()
        adjacency = candidate_adjacency(nodes, present)
        nodes = nodes * self.scale
        for convolution in self.convolutions:
            nodes = convolution(nodes, adjacency)
        hidden = self.hidden(nodes)
        logits: Tensor = self.classifier(self.slope(hidden.flatten(0, 1)).view_as(hidden))
        return logits


def candidate_adjacency(nodes: Tensor, present: Tensor) -> Tensor:
    """(B, K, K) softmax over the inner products of each node with those that are there, itself among them.

    Args:
        nodes: (B, K, D).
        present: (B, K) bool.
    """
    products = nodes @ nodes.mT
    # not -inf: a graph without any node must not make its gradients NaN
    return products.masked_fill(~present[:, None], torch.finfo(products.dtype).min).softmax(dim=2)


def positive_loss(logits: Tensor, is_same: Tensor, present: Tensor) -> Tensor:
    """() mean cross-entropy over the candidates that are there; 0 without any.

    Args:
        logits: (B, K, 2) of :class:`PositivePrediction`.
        is_same: (B, K) bool, which candidates show the person of their anchor.
        present: (B, K) bool.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = functional.cross_entropy(logits.flatten(0, 1), is_same.flatten().long(), reduction="none")
    return (losses * present.flatten()).sum() / present.sum().clamp(min=1)
