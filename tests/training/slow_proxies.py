"""Losses of CAP and of O2CAP in float64, camera by camera and proxy by proxy."""

import torch
from torch import Tensor


def losses(features, vectors, proxies, camids, clusters, *, temperature, num_negatives):
    """Both losses in float64: camera by camera, image by image, proxy by proxy; and the gradients of the features."""
    features = features.double().requires_grad_()
    intra = inter = torch.zeros((), dtype=torch.float64)
    for camid in {camids[proxy] for proxy in proxies}:
        of_camera = [row for row, proxy in enumerate(proxies) if camids[proxy] == camid]
        for row in of_camera:
            weights = [torch.exp(features[row] @ vector.double() / temperature) for vector in vectors]
            within = [weight for weight, other in zip(weights, camids, strict=True) if other == camid]
            intra = intra - torch.log(weights[proxies[row]] / sum(within)) / len(of_camera)
            cluster = clusters[proxies[row]]
            own = [weight for weight, other in zip(weights, clusters, strict=True) if other == cluster]
            others = [weight for weight, other in zip(weights, clusters, strict=True) if other != cluster]
            rivals = sum(own) + sum(sorted(others, key=Tensor.item)[-num_negatives:])
            inter = inter - sum(torch.log(weight / rivals) for weight in own) / len(own) / len(of_camera)
    return intra, inter, *(torch.autograd.grad(loss, features, retain_graph=True)[0] for loss in (intra, inter))


def online_loss(features, vectors, proxies, camids, *, temperature, num_positives, num_negatives, balance):
    """The online association in float64, proxy by proxy; and the gradient of the features."""
    features = features.double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    of_image = [camids[proxy] for proxy in proxies]
    for row, proxy in enumerate(proxies):
        alike = [
            balance * float(features[row].detach() @ other) + (1 - balance) * float(vectors[proxy] @ other)
            for other in vectors
        ]
        best = [max((p for p in range(len(camids)) if camids[p] == c), key=lambda p: alike[p]) for c in set(camids)]
        positives = sorted(best, key=lambda p: -alike[p])[:num_positives]
        others = sorted(set(range(len(camids))) - set(positives), key=lambda p: -alike[p])
        rivals = positives + others[:num_negatives]
        weights = {p: torch.exp(features[row] @ vectors[p] / temperature) for p in rivals}
        log_p = [torch.log(weights[p] / sum(weights.values())) for p in positives]
        total = total - sum(log_p) / len(positives) / of_image.count(of_image[row])
    return total, torch.autograd.grad(total, features)[0]
