"""What a training method is asked for, and what it may ask for.

A method owns its epoch: it says which images an epoch takes and in which order, and may look at its domains before, to
cluster and label them anew. The loop feeds it, keeps time and writes down what it says.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from reid_da.config import AugmentSettings, ExperimentSettings, HeadSettings, ViewSettings
from reid_da.datasets import SampleTable
from reid_da.images import Batch, ImageSource, Sampler, usable_rows
from reid_da.seeds import derived_seed
from reid_da.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from reid_da.models.reid_net import ReIDNetwork

Role = Literal["source", "target", "test"]
"""What a domain is to an experiment."""
Rows: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Changes of the settings by the name of a row of a table of results."""
NO_LABEL = -1
"""Label of an image that belongs to no class, such as an outlier of a clustering."""


T = TypeVar("T")


class Shared:
    """What steps only read: copies of a method have it in common, however large it is."""

    def __deepcopy__(self: T, memo: dict[int, Any]) -> T:
        return self


@dataclass(frozen=True, kw_only=True, eq=False)
class Domain(Shared):
    """Training images that belong together: one data set, or several that were joined.

    Attributes:
        name: what they are to the experiment, ``source`` or ``target``.
        table: their N names, identities and cameras.
        images: their pixels, or their views in the styles of cameras.
        num_cameras: number of cameras C of the data set.
        num_views: number of camera styles that ``images`` has; 0: the images as they are.
        with_own: whether the style of its own camera, the image as it is, may be drawn for an image.
    """

    name: str
    table: SampleTable
    images: ImageSource
    num_cameras: int
    num_views: int = 0
    with_own: bool = True

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def rows(self) -> Tensor:
        """(M,) int64 rows of the images that can be decoded, in increasing order."""
        return usable_rows(self.images)

    @cached_property
    def labels(self) -> Tensor:
        """(N,) int64 class of each image, in 0..num_classes-1 in the order of the pids.

        Raises:
            InputError: an image has no identity.
        """
        return torch.from_numpy(self.table.labels())

    @property
    def num_classes(self) -> int:
        """Number of identities."""
        return self.table.num_pids

    @cached_property
    def camids(self) -> Tensor:
        """(N,) int64 camera of each image."""
        return torch.tensor(self.table.camids)

    @cached_property
    def pids(self) -> Tensor | None:
        """(N,) int64 identity of each image, for diagnostics; None where some are not known."""
        return torch.tensor(self.table.pids) if self.table.is_labelled else None


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamPlan(Shared):
    """One stream of batches of an epoch.

    Attributes:
        domain: where the images come from.
        sampler: which of them make a batch, in which order.
        augment: random changes of the images.
        rows: (M,) int64 the images to choose from; None for all that can be decoded.
        labels: (N,) int64 class of each image of the domain; images of :data:`NO_LABEL` are left out. None: no labels.
        views: camera styles of each image in a batch, drawn at random from those of the domain; 0: the images as
            they are.
        finish: last change of the (B, 3, H, W) normalised images, or None.
        purpose: what its random numbers are for; the name of the stream if empty.
        pixels: what those of the changes of the images are for, so that two streams of one purpose hold the same images
            in two augmentations; the purpose if empty.
    """

    domain: Domain
    sampler: Sampler
    augment: AugmentSettings
    rows: Tensor | None = None
    labels: Tensor | None = None
    views: int = 0
    finish: "Callable[[Tensor], Tensor] | None" = None
    purpose: str = ""
    pixels: str = ""

    @cached_property
    def chosen(self) -> tuple[Tensor, Tensor | None]:
        """(M,) int64 rows to choose from, and their (M,) labels."""
        rows = self.domain.rows if self.rows is None else self.rows
        if self.labels is None:
            return rows, None
        rows = rows[self.labels[rows] != NO_LABEL]
        return rows, self.labels[rows]

    def num_batches(self, seed: int) -> int:
        """Number of batches of a pass over the images.

        Raises:
            InputError: there are too few images for one.
        """
        return self.sampler.num_batches(*self.chosen, seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochPlan(Shared):
    """What an epoch takes.

    Attributes:
        streams: the streams by name; each step gets a batch of each.
        steps: number of steps.
        new_optimizer: whether the optimiser begins anew with this epoch, with the parameters that the method has now.
        figures: what to log of the preparation of the epoch, such as the number of clusters.
    """

    streams: Mapping[str, StreamPlan]
    steps: int
    new_optimizer: bool = False
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunContext(Shared):
    """Where a run computes, and its random numbers.

    Attributes:
        run_seed: seed of the run.
        device: where networks and batches are.
        world: the processes that train together.
    """

    run_seed: int
    device: torch.device
    world: World = field(default_factory=World)

    def seed(self, purpose: str, *numbers: int) -> int:
        """Seed of the random numbers for one purpose; any two purposes get unrelated numbers."""
        return derived_seed(self.run_seed, purpose, *numbers)


@dataclass(frozen=True, kw_only=True)
class Held:
    """Something large that a method keeps beside its networks.

    Attributes:
        name: what it is.
        rows: how many of them; at most, where that is found out in training.
        row_bytes: size of one.
        remedy: settings that make it smaller.
        is_sharded: whether several processes hold a part of the rows each.
    """

    name: str
    rows: int
    row_bytes: int
    remedy: str = ""
    is_sharded: bool = False

    @classmethod
    def memory(cls, rows: int, dim: int, *, dtype: str | None = None, name: str = "exemplar memory") -> "Held":
        """A memory of features, which several processes hold together; in float32 where its type is no setting."""
        size = dim * (2 if dtype == "bfloat16" else 4)
        choice = "memory.dtype=bfloat16, " if dtype == "float32" else ""
        return cls(
            name=name,
            rows=rows,
            row_bytes=size,
            remedy=f"{choice}model.embedding_dim, more processes",
            is_sharded=True,
        )


class Context(Protocol):
    """What a method of an experiment may ask for.

    Attributes:
        device: where networks and batches are.
        world: the processes that train together.
    """

    device: torch.device
    world: World

    def domain(self, role: Role) -> Domain:
        """The training images of a role.

        Raises:
            InputError: the settings name no data set for it, or it has no training images.
        """
        ...

    def styled(self, domain: Domain, views: ViewSettings) -> Domain:
        """A domain with views of its images in the styles of its own cameras.

        Raises:
            InputError: it has one camera, or the styles cannot be had.
        """
        ...

    def restyled(self, domain: Domain, views: ViewSettings, *, cameras: Domain) -> Domain:
        """A domain with views of its images in the styles of the cameras of another.

        Raises:
            InputError: the styles cannot be had.
        """
        ...

    def network(
        self,
        *,
        num_classes: int,
        head: HeadSettings | None = None,
        purpose: str = "weights",
        start: Path | None = None,
    ) -> "ReIDNetwork":
        """A network on the device, with the weights that the experiment starts from.

        Args:
            num_classes: of its classifier.
            head: kind of the classifier; a linear one if None.
            purpose: of its random weights; networks of one purpose start from the same ones.
            start: run or weights file to start from instead of ``init_from``.

        Raises:
            InputError: weights cannot be read or do not fit.
        """
        ...

    def extract(self, model: nn.Module, domain: Domain) -> Tensor:
        """(N, D) float32 features of unit length on the CPU of the images of a domain, without augmentation.

        Images that cannot be decoded have features that mean nothing; ``domain.rows`` names the others.
        """
        ...

    def seed(self, purpose: str, *numbers: int) -> int:
        """Seed of the random numbers for one purpose, which depends on the seed of the run too."""
        ...


class Method(ABC):
    """A training method, built from settings and a context. What a method does not need, it leaves out.

    Attributes:
        Settings: class of its settings, whose field ``method`` has its name as default.
        rows: changes of the settings by the name of a row of a table of results.
        table: the usual rows of a table that compares it.
        inference_part: prefix of the weights of :attr:`inference` among those of :attr:`trained`, with its dot.
        classified: whose identities the network classifies; None for none that are known beforehand.
        num_networks: networks that are trained.
        num_teachers: further ones that are not.
        settings: of the run.
        trained: what is optimised and saved.
    """

    Settings: ClassVar[type[Any]]
    rows: ClassVar[Rows] = {}
    table: ClassVar[tuple[str, ...]] = ()
    inference_part: ClassVar[str] = ""
    classified: ClassVar[Role | None] = None
    num_networks: ClassVar[int] = 1
    num_teachers: ClassVar[int] = 0
    settings: Any
    trained: nn.Module

    @property
    def inference(self) -> nn.Module:
        """What is evaluated, exported and loaded: the network itself, or the mean teacher of one."""
        return self.trained

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of trainable parameters, each with a name and a learning rate ``lr``."""
        optimizer = self.settings.optimizer
        groups: list[dict[str, Any]] = self.trained.parameter_groups(  # type: ignore[operator]
            lr_new=optimizer.lr, lr_backbone=optimizer.lr * optimizer.backbone_lr_factor
        )
        return groups

    @classmethod
    def holds(
        cls,
        settings: Any,  # noqa: ARG003
        sizes: Mapping[Role, int],  # noqa: ARG003
        dim: int,  # noqa: ARG003
    ) -> tuple[Held, ...]:
        """What is large beside the networks, for a plan of the memory that a training takes.

        Args:
            settings: an instance of :attr:`Settings`.
            sizes: training images of source and target.
            dim: length D of an embedding.
        """
        return ()

    @abstractmethod
    def __init__(self, settings: Any, context: Context) -> None:
        """Build networks and memories, and check that the settings fit the data.

        Args:
            settings: an instance of :attr:`Settings`.
            context: of the run.

        Raises:
            InputError: settings and data do not fit.
        """

    @abstractmethod
    def begin_epoch(self, epoch: int) -> EpochPlan:
        """What the epoch takes; called before its first step, with the networks as the epoch before left them.

        Args:
            epoch: from 0.
        """

    @abstractmethod
    def step(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Weighted losses by name, () each; their sum is minimised.

        Args:
            batches: one of each stream of the plan.
        """

    def after_backward(self) -> None:  # noqa: B027
        """Called after the backward pass of each step: updates of memories, whose gradients come from before."""

    def after_update(self) -> None:  # noqa: B027
        """Called after each update of the weights: mean teachers."""

    def end_epoch(self) -> dict[str, float]:
        """Figures about the state of the method, for the log."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the weights: nested mappings of tensors, numbers and texts."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on from a saved state; called before the weights are loaded, whose sizes it may decide."""

    @classmethod
    def restore(cls, settings: ExperimentSettings, weights: Mapping[str, Tensor]) -> nn.Module:
        """The network for inference from the weights of a checkpoint, on the CPU.

        Raises:
            KeyError: a weight is missing.
            RuntimeError: the weights are of another network.
        """
        from reid_da.models.building import build_network

        part = cls.inference_part
        own = {name.removeprefix(part): value for name, value in weights.items() if name.startswith(part)}
        network = build_network(
            settings.model,
            num_classes=len(own["classifier.weight"]),
            image_size=settings.data.image_size,
            head=getattr(settings, "head", None),
            weights="none",
        )
        network.load_state_dict(own)
        return network
