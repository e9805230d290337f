"""Trained models, wherever they come from, ready to give features."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from reid_da.config import ExperimentSettings
from reid_da.datasets import Dataset, load_datasets
from reid_da.device import choose_device
from reid_da.errors import InputError
from reid_da.evaluation.extraction import features_of_test_images
from reid_da.evaluation.feature_files import FeatureSet
from reid_da.finite import check_weights
from reid_da.methods import METHODS
from reid_da.models.backbones import BACKBONE_NAMES, create_backbone, is_backbone_name
from reid_da.training.checkpoint import Checkpoint, load_checkpoint
from reid_da.training.portable import read_portable
from reid_da.training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """A network that gives features, and the images that it wants.

    Attributes:
        network: (B, 3, H, W) normalised images to (B, D) features, in evaluation mode.
        image_size: height and width in pixels.
        settings: of the run that it comes from, or None.
        name: what it was loaded from.
        run: folder of that run, or None.
        epoch: of the checkpoint of that run, or None.
    """

    network: nn.Module
    image_size: tuple[int, int]
    settings: ExperimentSettings | None = None
    name: str = "the model"
    run: Path | None = None
    epoch: int | None = None

    def test_data(self, data: str | Path | Sequence[Path] | Dataset | None = None) -> Dataset:
        """The data set to evaluate on.

        Args:
            data: the data set or its path, or several paths; the target of the run if None.

        Raises:
            InputError: it cannot be read, or there is no target.
        """
        if isinstance(data, Dataset):
            return data
        path = data or (self.settings.data.target if self.settings else None)
        if path is None:
            raise InputError(f"{self.name}: has no target; give a data set with query and gallery (--data PATH)")
        return load_datasets(path)

    def extract(self, data: str | Path | Sequence[Path] | Dataset | None = None, *, flip: bool = False) -> FeatureSet:
        """Features of query and gallery of a data set, with their identities, cameras and paths.

        Args:
            data: as :meth:`test_data` takes it.
            flip: average with the features of the mirror images.

        Raises:
            InputError: the data set cannot be read, has no query or gallery, or images cannot be decoded.
        """
        return features_of_test_images(self.test_data(data), self.network, image_size=self.image_size, flip=flip)


def load_trained(
    model: str | Path,
    *,
    backbone: str = "resnet50",
    last_stride: int = 2,
    stem_relu: bool = True,
    weights: str = "imagenet",
    image_size: tuple[int, int] | None = None,
    device: str = "auto",
) -> TrainedModel:
    """A model by what names it: a run folder, one of its checkpoints, a file of weights, or a backbone.

    Args:
        model: the run, the checkpoint, the file, or a name such as ``resnet50``.
        backbone: network that a file of weights belongs to; one that ``reid-da export`` wrote says so itself.
        last_stride: stride of ``layer4``, for files and names.
        stem_relu: whether a ResNet has the ReLU after its first convolution, for files and names.
        weights: ``imagenet`` or ``none`` (random), for names.
        image_size: height and width of the images; that of the run, else 256x128, if None.
        device: where the network goes.

    Raises:
        InputError: there is no such model, or its weights do not fit.
    """
    path = Path(model)
    chosen = choose_device(device)
    if path.is_dir():
        return _from_run(path, image_size=image_size, device=chosen)
    portable = read_portable(path) if path.is_file() else None
    if portable is not None:
        settings = portable.settings
        return TrainedModel(
            network=portable.network().to(chosen).eval(),
            image_size=image_size or settings.data.image_size,
            settings=settings,
            name=str(path),
            epoch=portable.epoch,
        )
    if path.exists():
        name, source = backbone, str(path)
    elif is_backbone_name(str(model)):
        name, source = str(model), weights
    else:
        raise InputError(
            f"{model}: no such run or file of weights, and no backbone of this name ({', '.join(BACKBONE_NAMES)})"
        )
    size = image_size or (256, 128)
    network = create_backbone(name, last_stride=last_stride, stem_relu=stem_relu, weights=source, image_size=size)
    network = network.to(chosen).eval()
    check_weights(network, str(model))
    return TrainedModel(network=network, image_size=size, name=str(model))


def _from_run(path: Path, *, image_size: tuple[int, int] | None, device: str) -> TrainedModel:
    """Model of a run's last checkpoint, or of the checkpoint whose folder it is."""
    is_checkpoint = path.parent.name == "checkpoints"
    run = RunFolder.open(path.parent.parent if is_checkpoint else path)
    checkpoint = load_checkpoint(path) if is_checkpoint else run.last_checkpoint()
    if checkpoint is None:
        raise InputError(f"{path}: the run has no checkpoint yet")
    settings = run.settings()
    network = _network(settings, checkpoint, run)
    size = image_size or settings.data.image_size
    return TrainedModel(
        network=network.to(device).eval(),
        image_size=size,
        settings=settings,
        name=str(path),
        run=run.path,
        epoch=int(checkpoint.description["epoch"]),
    )


def _network(settings: ExperimentSettings, checkpoint: Checkpoint, run: RunFolder) -> nn.Module:
    """The network of a run with the weights of a checkpoint.

    Raises:
        InputError: the settings are not those that the checkpoint was made with.
    """
    run.check_settings(checkpoint, settings)
    try:
        return METHODS[settings.method].restore(settings, checkpoint.weights)
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"{run.config_file}: describes another network than the one in its checkpoints; undo the change"
        ) from error
