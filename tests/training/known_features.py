"""Methods on pseudo-labels without images and loop: a context whose features are given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reid_da.config import HeadSettings
from reid_da.datasets import SampleTable
from reid_da.images import Batch
from reid_da.methods import METHODS, settings_of
from reid_da.methods.protocol import Domain, EpochPlan, Method, Role, RunContext
from reid_da.models.building import build_network
from reid_da.models.reid_net import ReIDNetwork

DIM = 64
"""Length of the features of the network."""
TREE: dict[str, Any] = {
    "device": "cpu",
    "epochs": 9,
    "data": {"source": None, "target": "target", "image_size": [32, 16]},
    "model": {"backbone": "resnet18", "width": 0.125, "weights": "none", "last_stride": 2},
    "batch": {"target": 6, "instances": 2},
    "clustering": {"metric": "cosine", "eps": 0.1, "min_samples": 2},
    "augment": {"crop": "none"},
}


def around(labels: list[int], *, spread: float = 0.02, seed: int = 0) -> Tensor:
    """(N, D) features of unit length near one axis for each label; a label below 0 is near nothing else."""
    axes = [label if label >= 0 else DIM - 1 - row for row, label in enumerate(labels)]
    noise = torch.randn(len(labels), DIM, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(torch.eye(DIM)[axes] + spread * noise)


@dataclass
class Failure:
    """An image that cannot be decoded."""

    index: int


@dataclass
class NoImages:
    """A source of images that nobody looks at, some of which cannot be decoded."""

    count: int
    broken: tuple[int, ...] = ()
    size: tuple[int, int] = (32, 16)

    def __len__(self) -> int:
        return self.count

    @property
    def failed(self) -> list[Failure]:
        return [Failure(index) for index in self.broken]


def domain(name: Role, *, pids: list[int], camids: list[int] | None = None, broken: tuple[int, ...] = ()) -> Domain:
    """A domain with these identities, and cameras 0, 1, 2 in turn unless told otherwise."""
    count = len(pids)
    table = SampleTable(
        name=name,
        root=Path(name),
        paths=tuple(f"{row:04}.jpg" for row in range(count)),
        pids=np.array(pids),
        camids=np.arange(count) % 3 if camids is None else np.array(camids),
    )
    return Domain(name=name, table=table, images=NoImages(count, broken), num_cameras=3)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownFeatures(RunContext):
    """A context of given domains; ``features`` holds what is extracted next, by the name of the domain."""

    domains: Mapping[str, Domain]
    settings: Any
    features: dict[str, Tensor] = field(default_factory=dict)

    def domain(self, role: Role) -> Domain:
        return self.domains[role]

    def network(
        self,
        *,
        num_classes: int,
        head: HeadSettings | None = None,
        purpose: str = "weights",
        start: Path | None = None,
    ) -> ReIDNetwork:
        generator = torch.Generator().manual_seed(self.seed(purpose))
        return build_network(
            self.settings.model, num_classes=num_classes, image_size=(32, 16), head=head, generator=generator
        ).train()

    def extract(self, model: nn.Module, domain: Domain) -> Tensor:
        return self.features[domain.name]


def method_on(domains: list[Domain], changes: Mapping[str, Any]) -> tuple[Method, KnownFeatures]:
    """A method on given domains, and its context."""
    from reid_da.config import merge

    settings = settings_of(merge(TREE, changes), where="test")
    context = KnownFeatures(
        run_seed=0, device=torch.device("cpu"), domains={entry.name: entry for entry in domains}, settings=settings
    )
    return METHODS[settings.method](settings, context), context


def batch_of(plan: EpochPlan, stream: str, seed: int = 0) -> Batch:
    """The first batch of a stream, with random images."""
    chosen = plan.streams[stream]
    rows = next(chosen.sampler.batches(*chosen.chosen, seed))
    generator = torch.Generator().manual_seed(seed + len(stream))
    images = torch.randn(len(rows), 3, *chosen.domain.images.size, generator=generator)
    assert chosen.labels is not None
    return Batch(rows=rows, images=images, labels=chosen.labels[rows])
