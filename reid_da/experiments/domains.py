"""The data of an experiment, opened: what its method may ask for."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reid_da.config import ExperimentSettings, HeadSettings, ViewSettings
from reid_da.datasets import Dataset, load_datasets
from reid_da.device import choose_device
from reid_da.errors import InputError
from reid_da.evaluation.camera_norms import NamedNorms
from reid_da.evaluation.extraction import (
    TestImages,
    camera_normed_as,
    camera_normed_for,
    open_test_images,
)
from reid_da.evaluation.image_features import camera_normed, extract_features, features_of_rows
from reid_da.images import open_images
from reid_da.methods.protocol import Domain, Role, Shared
from reid_da.models.building import build_network
from reid_da.models.camera_norm import CameraNormed
from reid_da.models.reid_net import ReIDNetwork
from reid_da.models.weights import match_state_dict, read_state_dict
from reid_da.processes import main_first
from reid_da.seeds import derived_seed
from reid_da.styles.open import open_foreign_style, open_style
from reid_da.training.run_folder import RunFolder
from reid_da.world import ALONE, World

logger = logging.getLogger(__name__)


class ExperimentContext(Shared):
    """Domains, networks and seeds of an experiment; every data set is read once, when it is first asked for.

    Args:
        settings: settings of the experiment.
        bare: whether networks get random weights, which is enough to see whether a training is possible.
        world: the processes that train together.

    Attributes:
        settings: settings of the experiment.
        device: where networks and batches are.
        world: the processes that train together.

    Raises:
        InputError: there is no such device.
    """

    def __init__(self, settings: ExperimentSettings, *, bare: bool = False, world: World = ALONE) -> None:
        self.settings = settings
        self.device = torch.device(choose_device(settings.device))
        self.world = world
        self._bare = bare
        self._domains: dict[str, Domain] = {}
        self._datasets: dict[str, Dataset] = {}

    def dataset(self, role: Role) -> Dataset:
        """The data set of a role.

        Raises:
            InputError: the settings name none, or it cannot be read.
        """
        if role not in self._datasets:
            paths = getattr(self.settings.data, role)
            if paths is None:
                raise InputError(f"data.{role} is not set: give the folder of the {role} data set, data.{role}=PATH")
            self._datasets[role] = load_datasets(paths)
        return self._datasets[role]

    def domain(self, role: Role) -> Domain:
        """The training images of a role; see :class:`reid_da.methods.protocol.Context`."""
        if role not in self._domains:
            self._domains[role] = self.look_at(role)
        return self._domains[role]

    def look_at(self, role: Role) -> Domain:
        """As :meth:`domain`, of images that the training does not depend on: no fingerprint is kept of them.

        Raises:
            InputError: the settings name no data set for it, or it has no training images.
        """
        if role in self._domains:
            return self._domains[role]
        dataset, data = self.dataset(role), self.settings.data
        if not len(dataset.train):
            raise InputError(f"{dataset.root}: has no training images")
        # one process packs the images, and the others open what it has packed
        images = main_first(
            self.world,
            lambda: open_images(
                dataset.train,
                size=data.image_size,
                **self._reading,
            ),
        )
        return Domain(name=role, table=dataset.train, images=images, num_cameras=dataset.num_cameras)

    def styled(self, domain: Domain, views: ViewSettings) -> Domain:
        """A domain with views in the styles of its own cameras; see :class:`reid_da.methods.protocol.Context`."""
        if len(domain.table.cameras) < 2:
            raise InputError(
                f"{domain.table.root}: has one camera, and camera styles need several; set invariance.camera=false,"
                " or for method camstyle camstyle.cameras=target"
            )
        styled = main_first(
            self.world,
            lambda: open_style(
                views.style,
                domain.images,
                domain.table,
                num_cameras=domain.num_cameras,
                on_missing=views.on_missing,
                **self._reading,
                device=str(self.device),
            ),
        )
        return replace(domain, images=styled, num_views=domain.num_cameras)

    def restyled(self, domain: Domain, views: ViewSettings, *, cameras: Domain) -> Domain:
        """A domain in the styles of the cameras of another; see :class:`reid_da.methods.protocol.Context`."""
        styled = main_first(
            self.world,
            lambda: open_foreign_style(
                views.style,
                domain.images,
                domain.table,
                target=cameras.images,
                target_table=cameras.table,
                num_target_cameras=cameras.num_cameras,
                device=str(self.device),
            ),
        )
        return replace(domain, images=styled, num_views=cameras.num_cameras)

    def network(
        self,
        *,
        num_classes: int,
        head: HeadSettings | None = None,
        purpose: str = "weights",
        start: Path | None = None,
    ) -> ReIDNetwork:
        """A network that the experiment starts from; see :class:`reid_da.methods.protocol.Context`."""
        settings = self.settings
        if settings.precision.compile and settings.model.camera_norm:
            raise InputError(
                "precision.compile: with model.camera_norm each batch is divided in another way, and would be compiled "
                "anew; set one of them to false"
            )
        start = None if self._bare else start or settings.init_from
        network = build_network(
            settings.model,
            num_classes=num_classes,
            image_size=settings.data.image_size,
            head=head,
            weights="none" if self._bare or start else None,
            generator=torch.Generator().manual_seed(self.seed(purpose)),
            world=self.world,
        )
        if start:
            start_from(network, start)
        network = network.to(self.device)
        if settings.precision.channels_last:
            network = network.to(memory_format=torch.channels_last)
        if settings.precision.compile:
            network.backbone.compile()
        return network

    @property
    def _reading(self) -> dict[str, Any]:
        """How image files are read, and where they are packed."""
        data = self.settings.data
        return {"cache": data.cache, "cache_dir": data.cache_dir, "on_error": data.on_error}

    def extract(self, model: nn.Module, domain: Domain) -> Tensor:
        """Features of all images of a domain; see :class:`reid_da.methods.protocol.Context`."""
        autocast = self.settings.precision.autocast == "bfloat16"
        model, camids = self.for_features(model, domain), domain.camids[domain.rows]
        if not isinstance(model, CameraNormed):
            return extract_features(model, domain.images, autocast=autocast, world=self.world)
        found = features_of_rows(model, domain.images, domain.rows, camids, autocast=autocast, world=self.world)
        features = found.new_zeros(len(domain), found.shape[1])
        features[domain.rows] = found
        return features

    def for_features(self, model: nn.Module, domain: Domain) -> nn.Module:
        """A network as it is, or with statistics of the cameras of a domain, where it is normalised by camera."""
        if not self.settings.model.camera_norm:
            return model
        return camera_normed(model, [(domain.images, domain.rows, domain.camids[domain.rows])])

    def for_test_features(self, model: nn.Module) -> nn.Module:
        """As :meth:`for_features`, for test images; see :func:`camera_normed_as`.

        Training images are resized as test images are, so that a later evaluation of the run has the same statistics.
        """
        dataset = self.test_dataset()
        if not self.settings.model.camera_norm or dataset is None:
            return model
        size, known = self.settings.data.image_size, None
        if not len(dataset.train) and self.settings.data.target is not None:
            target = self.dataset("target")
            normed = camera_normed_for(model, target, image_size=size, **self._reading)
            known = NamedNorms.of(normed, target.camera_names, data=target.name, epoch=None, size=size)
        return camera_normed_as(model, dataset, known, image_size=size, **self._reading)

    def seed(self, purpose: str, *numbers: int) -> int:
        """Seed of the random numbers for one purpose."""
        return derived_seed(self.settings.seed, purpose, *numbers)

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Fingerprints of what the training depends on, by the role of the domain."""
        return {
            role: domain.table.content_fingerprint(labels="labels" in vars(domain))
            for role, domain in self._domains.items()
        }

    def test_dataset(self) -> Dataset | None:
        """The data set whose query and gallery measure accuracy: ``data.test``, else the target, or None."""
        data = self.settings.data
        role: Role | None = "test" if data.test is not None else "target" if data.target is not None else None
        return None if role is None else self.dataset(role)

    def test_images(self) -> TestImages | None:
        """Query and gallery that measure accuracy, opened, or None where there are none.

        Raises:
            InputError: an image cannot be decoded, or no query has a match in the gallery.
        """
        dataset, data = self.test_dataset(), self.settings.data
        if dataset is None:
            return None
        if data.test is not None and not (len(dataset.query) and len(dataset.gallery)):
            raise InputError(
                f"data.test: {dataset.root}: has no query and gallery; make them from a folder of labelled people with "
                "`reid-da data import FOLDER --test-only`"
            )
        if not len(dataset.query) or not len(dataset.gallery):
            logger.info(
                "%s: no query and gallery, so accuracy is not evaluated (a labelled test set: data.test)", dataset.root
            )
            return None
        # opened before the training, so that a broken test image is not found hours later
        return main_first(
            self.world,
            lambda: open_test_images(
                dataset,
                image_size=data.image_size,
                **self._reading,
            ),
        )


def start_from(network: ReIDNetwork, path: Path) -> None:
    """Load the weights of a run, or of a file, into a network; a classifier of other classes keeps its own.

    Raises:
        InputError: there are no weights, or they are of another network.
    """
    weights = {name.removeprefix("module."): value for name, value in _weights_of(path).items()}
    own = {name: value for name, value in network.state_dict().items() if name.startswith("classifier.")}
    if any(name not in weights or weights[name].shape != value.shape for name, value in own.items()):
        logger.info("%s: the classifier is not taken over, it is of other classes", path)
        weights = {name: value for name, value in weights.items() if not name.startswith("classifier.")} | own
    match = match_state_dict(weights, network, origin=str(path))
    network.load_state_dict(match.state, strict=False)


def _weights_of(path: Path) -> Mapping[str, Tensor]:
    if not path.is_dir():
        return read_state_dict(path)
    from reid_da.methods import METHODS

    run = RunFolder.open(path)
    checkpoint = run.last_checkpoint()
    if checkpoint is None:
        raise InputError(f"{path}: the run has no checkpoint yet")
    part = METHODS[run.settings().method].inference_part
    return {name.removeprefix(part): value for name, value in checkpoint.weights.items() if name.startswith(part)}
