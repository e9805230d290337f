"""The graph network of ECN++ against a loop over nodes, and its gradients."""

import math

import pytest
import torch

from reid_da.models.pair_graph import PositivePrediction, candidate_adjacency, positive_loss

B, K, D = 3, 4, 5
PRESENT = torch.tensor([[True] * 4, [True, False, True, False], [False] * 4])


def random(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def graph(widths=(6, 3), *, scale_nodes=True):
    generator = torch.Generator().manual_seed(0)
    return PositivePrediction(D, widths, scale_nodes=scale_nodes, generator=generator).double()


def slow_logits(network, anchor, candidates, *, scale_nodes):
    """Of one graph whose candidates are all there: node by node, with lists and floats."""
    nodes = [[c - a for c, a in zip(row, anchor.tolist(), strict=True)] for row in candidates.tolist()]
    adjacency = []
    for node in nodes:
        weights = [math.exp(sum(a * b for a, b in zip(node, other, strict=True))) for other in nodes]
        adjacency.append([weight / sum(weights) for weight in weights])

    nodes = [[value * (5**0.5 if scale_nodes else 1) for value in node] for node in nodes]

    def times(matrix, vector):
        return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix.tolist()]

    for layer in network.convolutions:
        means = [
            [sum(w * other[i] for w, other in zip(weights, nodes, strict=True)) for i in range(len(nodes[0]))]
            for weights in adjacency
        ]
        nodes = [
            [
                max(0.0, own + of_others + bias)
                for own, of_others, bias in zip(
                    times(layer.own.weight, node),
                    times(layer.others.weight, mean),
                    layer.own.bias.tolist(),
                    strict=True,
                )
            ]
            for node, mean in zip(nodes, means, strict=True)
        ]
    found = []
    for node in nodes:
        hidden = [h + b for h, b in zip(times(network.hidden.weight, node), network.hidden.bias.tolist(), strict=True)]
        slopes = network.slope.weight.tolist()
        hidden = [h if h > 0 else slope * h for h, slope in zip(hidden, slopes, strict=True)]
        classes = times(network.classifier.weight, hidden)
        found.append([value + bias for value, bias in zip(classes, network.classifier.bias.tolist(), strict=True)])
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("scale_nodes", [True, False])
@pytest.mark.parametrize("widths", [(6,), (6, 3), (4, 4, 2, 3)])
def test_logits_are_those_of_a_loop_over_nodes_that_are_there(widths, scale_nodes):
    network = graph(widths, scale_nodes=scale_nodes)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.1 * random(*value.shape, seed=value.numel()))
    anchors, candidates = random(B, D, seed=1), random(B, K, D, seed=2)
    found = network(anchors, candidates, PRESENT)
    assert found.shape == (B, K, 2)
    for row in range(2):
        there = PRESENT[row]
        expected = slow_logits(network, anchors[row], candidates[row, there], scale_nodes=scale_nodes)
        torch.testing.assert_close(found[row, there], expected, atol=1e-12, rtol=1e-12)


def test_rows_of_the_adjacency_sum_to_one_over_what_is_there():
    adjacency = candidate_adjacency(random(B, K, D, seed=3), PRESENT)
    torch.testing.assert_close(adjacency.sum(dim=2), torch.ones(B, K, dtype=torch.float64))
    assert not adjacency[1, :, ~PRESENT[1]].any()


def test_loss_is_the_mean_over_what_is_there_and_nothing_without():
    logits, is_same = random(B, K, 2, seed=4), random(B, K, seed=5) > 0
    expected = [
        -logits[row, column].log_softmax(dim=0)[int(is_same[row, column])].item()
        for row in range(B)
        for column in range(K)
        if PRESENT[row, column]
    ]
    found = positive_loss(logits, is_same, PRESENT).item()
    assert found == pytest.approx(sum(expected) / len(expected), rel=1e-12)
    assert positive_loss(logits, is_same, torch.zeros_like(PRESENT)).item() == 0


def test_gradients_reach_all_weights_and_not_the_features():
    network = graph()
    anchors, candidates = (random(*shape, seed=6).requires_grad_() for shape in ((B, D), (B, K, D)))
    is_same = random(B, K, seed=7) > 0
    names, values = zip(*network.named_parameters(), strict=True)

    def loss(*weights):
        logits = torch.func.functional_call(
            network, dict(zip(names, weights, strict=True)), (anchors, candidates, PRESENT)
        )
        return positive_loss(logits, is_same, PRESENT)

    assert torch.autograd.gradcheck(loss, tuple(value.detach().clone().requires_grad_() for value in values))
    loss(*values).backward()
    assert all(value.grad is not None and value.grad.any() for value in network.parameters())
    assert anchors.grad is None
    assert candidates.grad is None


def test_it_learns_from_the_neighbourhood_what_the_distance_to_the_anchor_does_not_tell():
    """Candidates of the anchor's person lie in one direction from it, others scattered, all at the same distance."""
    generator = torch.Generator().manual_seed(0)
    network = PositivePrediction(4, (32, 32), generator=generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)

    def graphs(count):
        anchors = torch.randn(count, 4, generator=generator)
        is_same = torch.rand(count, 12, generator=generator) < 0.4
        common = torch.randn(count, 1, 4, generator=generator)
        steps = torch.where(is_same[:, :, None], common, torch.randn(count, 12, 4, generator=generator))
        steps = torch.nn.functional.normalize(steps, dim=2) * 1.5
        return anchors, anchors[:, None] + steps, is_same

    def accuracy():
        anchors, candidates, is_same = graphs(64)
        chosen = network(anchors, candidates, torch.ones_like(is_same)).argmax(dim=2).bool()
        return (chosen == is_same).float().mean().item()

    for _ in range(60):
        anchors, candidates, is_same = graphs(64)
        optimizer.zero_grad()
        loss = positive_loss(network(anchors, candidates, torch.ones_like(is_same)), is_same, torch.ones_like(is_same))
        loss.backward()
        optimizer.step()
    assert accuracy() > 0.9
