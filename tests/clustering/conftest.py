"""Synthetic identities and a Jaccard distance written independently, in float64, one image at a time."""

from collections.abc import Callable
from math import exp

import numpy as np
import pytest
from numpy.typing import NDArray


def identities(num_images: int, width: int = 8, *, seed: int = 0, noise: float = 0.6) -> NDArray[np.float64]:
    """Features of about six images per identity, in random order."""
    generator = np.random.default_rng(seed)
    pids = identity_pids(num_images, seed=seed)
    features = generator.normal(size=(num_images, width))[pids] + noise * generator.normal(size=(num_images, width))
    return features


def identity_pids(num_images: int, *, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 1]).permutation(np.arange(num_images) % max(1, num_images // 6))


class Dense:
    """Jaccard distances of k-reciprocal neighbours by Python's sets and sorts."""

    def __init__(self, features: NDArray[np.float64]) -> None:
        points = [row / np.sqrt(np.sum(row * row)) for row in np.asarray(features, dtype=np.float64)]
        self.total = range(len(points))
        self.squared = [[float(np.sum((a - b) ** 2)) for b in points] for a in points]

    def ranking(self, i: int, among: Callable[[int], bool] = lambda _: True) -> list[int]:
        return sorted(filter(among, self.total), key=lambda j: (j != i, self.squared[i][j], j))

    def reciprocal(self, lists: list[list[int]], i: int, length: int) -> set[int]:
        return {j for j in lists[i][:length] if i in lists[j][:length]}

    def jaccard(self, k1: int, k2: int, convention: str = "clustering") -> NDArray[np.float64]:
        length = k1 if convention == "clustering" else k1 + 1
        lists = [self.ranking(i)[:length] for i in self.total]
        half = int(np.around(k1 / 2)) + 1
        sets = []
        for i in self.total:
            members = self.reciprocal(lists, i, length)
            grown = set(members)
            for candidate in members:
                others = self.reciprocal(lists, candidate, half)
                if 3 * len(others & members) > 2 * len(others):
                    grown |= others
            sets.append(grown)
        return self.from_sets(sets, [ranking[:k2] for ranking in lists])

    def camera_jaccard(
        self, camids: NDArray[np.int64], k1_intra: int, k1_inter: int, k2_intra: int, k2_inter: int
    ) -> NDArray[np.float64]:
        intra = [self.ranking(i, lambda j, i=i: camids[j] == camids[i])[: k1_intra + 1] for i in self.total]
        inter = [self.ranking(i, lambda j, i=i: camids[j] != camids[i])[: k1_inter + 1] for i in self.total]
        sets = [self.reciprocal(intra, i, k1_intra + 1) | self.reciprocal(inter, i, k1_inter + 1) for i in self.total]
        averaged = [a[:k2_intra] + b[:k2_inter] for a, b in zip(intra, inter, strict=True)]
        return self.from_sets(sets, averaged)

    def from_sets(self, sets: list[set[int]], averaged: list[list[int]]) -> NDArray[np.float64]:
        weights = np.zeros((len(sets), len(sets)))
        for i, members in enumerate(sets):
            for j in members:
                weights[i, j] = exp(-self.squared[i][j])
            weights[i] /= weights[i].sum()
        rows = [sum(weights[j] for j in of_image) / len(of_image) for of_image in averaged]
        shared = np.array([[np.minimum(a, b).sum() for b in rows] for a in rows])
        return 1 - shared / (2 - shared)


@pytest.fixture
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of odd sizes everywhere, so that small cases have many."""
    for name, value in {
        "reid_da.nearest._BLOCK_ROWS": (5, 5),
        "reid_da.nearest._PAIR_ELEMENTS": 24,
        "reid_da.features.PIECE_ROWS": 7,
        "reid_da.reciprocal._SPARSE_ROWS": 7,
        "reid_da.reciprocal._OVERLAP_ELEMENTS": 50,
        "reid_da.clustering.distances._DENSE_ELEMENTS": 200,
        "reid_da.clustering.neighbors._QUERIES": 9,
    }.items():
        monkeypatch.setattr(name, value)
