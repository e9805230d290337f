"""Settings: one frozen class per component, with units, ranges and the paper's values as defaults.

The defaults are those of ECN (Zhong et al., CVPR 2019) as its authors' code runs it.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from reid_da.errors import InputError, unknown_name

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


AnySettings = TypeVar("AnySettings", bound="TrainingSettings")

Layer: TypeAlias = tuple[str, Mapping[str, Any]]
"""Where some settings come from, and their keys and values."""


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values cannot be changed, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        is_switch = info.field_name is not None and cls.model_fields[info.field_name].annotation is bool
        values = value if isinstance(value, (list, tuple)) else [value]
        if not is_switch and any(isinstance(entry, bool) for entry in values):
            raise ValueError("true and false fit switches only")
        return value


class DataSettings(Settings):
    """Where the images are, and how large the network sees them."""

    source: Path | None = Field(default=None, description="labelled data set to train on")
    target: Path | None = Field(
        default=None, description="data set to adapt to; identities are used for reporting only"
    )
    image_size: tuple[Count, Count] = Field(default=(256, 128), description="height and width in pixels")
    cache: Literal["auto", "always", "never"] = Field(default="auto", description="pack decoded images on disk")
    cache_dir: Path | None = Field(default=None, description="folder of the packed images")
    on_error: Literal["raise", "skip"] = Field(default="raise", description="what an unreadable image does")


class ModelSettings(Settings):
    """The shared network."""

    backbone: str = Field(default="resnet50", description="resnet18, resnet34, resnet50, resnet101 or resnet50_ibn_a")
    width: Positive = Field(default=1.0, description="channels as a multiple of the published number")
    last_stride: Literal[1, 2] = Field(default=2, description="stride of layer4")
    weights: str = Field(default="imagenet", description="imagenet, none, or a file")
    embedding: Literal["linear", "none"] = Field(
        default="linear", description="linear: FC + BN as in ECN; none: BN on the pooled features (BNNeck)"
    )
    embedding_dim: Count = Field(default=4096, description="length of the embedding where it is linear")
    dropout: float = Field(default=0.5, ge=0, lt=1)
    target_dropout: Literal["after_norm", "before_norm", "none"] = Field(
        default="after_norm",
        description="where dropout acts in the target branch; the authors' code: after the L2 norm",
    )
    test_feature: Literal["pooled", "embedding"] = Field(
        default="pooled", description="what is compared at test time: pooled features, or the embedding after its norm"
    )
    freeze: Literal["official", "none"] = Field(
        default="official", description="official: conv1 to layer2 are not trained"
    )
    bn_mode: Literal["official", "frozen", "train"] = Field(
        default="official",
        description="batch norms that keep their statistics: official, all of the frozen part, or none",
    )


class AugmentSettings(Settings):
    """Random changes of the training images; see :class:`reid_da.images.transforms.AugmentationSettings`."""

    crop: Literal["rect", "pad", "none"] = Field(default="rect", description="random rectangle, or pad and crop")
    crop_scale: tuple[Share, Share] = Field(default=(0.64, 1.0), description="share of the area that a rectangle keeps")
    crop_aspect: tuple[Positive, Positive] = Field(default=(2.0, 3.0), description="height / width of a rectangle")
    crop_pad: int = Field(default=10, ge=0, description="pixels on every side, for crop: pad")
    flip: Share = Field(default=0.5, description="probability of a horizontal flip")
    brightness: float = Field(default=0.0, ge=0, description="largest relative change")
    contrast: float = Field(default=0.0, ge=0, description="largest relative change")
    saturation: float = Field(default=0.0, ge=0, description="largest relative change")
    hue: float = Field(default=0.0, ge=0, le=0.5, description="largest change, in turns of the colour circle")
    erase: Share = Field(default=0.5, description="probability of random erasing")
    erase_area: tuple[Share, Share] = Field(default=(0.02, 0.2), description="share of the area that is erased")
    erase_aspect: tuple[Positive, Positive] = Field(default=(0.3, 3.0), description="height / width of what is erased")
    erase_fill: Literal["official", "mean"] = Field(
        default="official", description="official: a light grey, as the authors' code; mean: the mean colour"
    )


class BatchSettings(Settings):
    """Sizes of the two batches of a step."""

    source: Count = Field(default=128, description="source images in a step")
    target: Count = Field(default=128, description="target images in a step")
    restyled: Count = Field(default=46, description="restyled source images in a step of method camstyle")
    instances: Count = Field(
        default=1, description="images of each source identity in a batch; 1: no grouping by identity"
    )


class HeadSettings(Settings):
    """The classifier of labelled images; what is not given has the value of its kind."""

    kind: Literal["linear", "norm_softmax", "sphereface", "cosface", "arcface", "combined"] = Field(
        default="linear", description="linear: plain softmax; the others: cosines with a margin"
    )
    scale: Positive | None = Field(default=None, description="of the cosines; sphereface: the length of the feature")
    m1: Positive | None = Field(default=None, description="multiplies the angle to the own class")
    m2: float | None = Field(default=None, ge=0, lt=3.14, description="added to that angle, in radians")
    m3: float | None = Field(default=None, ge=0, description="subtracted from its cosine")
    beyond: Literal["hard", "easy", "none"] = Field(
        default="hard", description="where the angle with its margin passes pi: keep falling, no margin, or rise again"
    )
    straight_through: bool = Field(
        default=False, description="leave the margin out of the gradient, as a widely used implementation does"
    )


class SourceLossSettings(Settings):
    """Supervised loss on labelled images: a sum of terms, those with a weight of 0 are left out.

    All but the classification act on the pooled features, or on the centres of the classifier.
    """

    classification_weight: float = Field(default=1.0, ge=0, description="weight of the cross-entropy of the classifier")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    triplet_weight: float = Field(default=0.0, ge=0, description="weight of a triplet loss")
    triplet: Literal["hard", "semi_hard", "angular", "angular_hard"] = Field(
        default="hard", description="hardest of the batch; semi-hard on unit vectors; semi-hard or hardest by angle"
    )
    triplet_margin: Positive | None = Field(
        default=None, description="None: the soft margin for hard, else 0.2 (semi_hard) or 0.35 radians (by angle)"
    )
    contrastive_weight: float = Field(default=0.0, ge=0, description="weight of the contrastive loss")
    contrastive_margin: Positive = Field(default=1.0, description="distance beyond which identities are let alone")
    center_weight: float = Field(default=0.0, ge=0, description="weight of the centre loss; 0.003 in the paper")
    center_rate: Share = Field(default=0.5, description="how fast its centres move")
    circle_weight: float = Field(default=0.0, ge=0, description="weight of the circle loss on pairs")
    circle_margin: float = Field(default=0.25, description="its margin")
    circle_scale: Positive = Field(default=64.0, description="its scale")
    range_weight: float = Field(default=0.0, ge=0, description="weight of the range loss")
    range_margin: Positive = Field(default=1.0, description="its margin between class means")
    marginal_weight: float = Field(default=0.0, ge=0, description="weight of the marginal loss")
    marginal_threshold: Positive = Field(default=1.2, description="its squared distance between same and different")
    marginal_margin: Positive = Field(default=0.3, description="its margin around that")
    intra_weight: float = Field(default=0.0, ge=0, description="weight of the angle to the own centre")
    inter_weight: float = Field(default=0.0, ge=0, description="weight of the angles between the centres")
    energy_weight: float = Field(default=0.0, ge=0, description="weight of the repulsion of centres, as in SphereFace+")
    energy_power: float = Field(default=2.0, ge=0, description="power of the inverse distance; 0: its logarithm")


class MemorySettings(Settings):
    """Exemplar memory and the losses on it."""

    temperature: Positive = Field(default=0.05, description="beta of the paper")
    num_neighbors: int = Field(default=6, ge=0, description="k of the paper; 0: no neighbourhood term")
    neighbors_from_epoch: int = Field(
        default=5, ge=0, description="epoch, from 0, with which the neighbourhood term begins"
    )
    own_slot: Literal["overwrite", "exclude"] = Field(
        default="overwrite",
        description="overwrite: the own slot may be one of the k (authors' code); exclude: k others",
    )
    normalize_weights: bool = Field(default=False, description="let the weights of own slot and neighbours sum to 1")
    neighbor_search: Literal["exact", "flat", "ivf", "hnsw"] = Field(
        default="exact", description="exact: comes with the loss at no cost; flat, ivf, hnsw: by FAISS"
    )
    neighbor_refresh: Literal["step", "epoch"] = Field(
        default="epoch", description="how often a FAISS index takes over the memory"
    )
    momentum_rate: float = Field(default=0.01, ge=0, description="alpha grows by this much an epoch")
    momentum_stretch: bool = Field(
        default=False, description="stretch the growth, published for 60 epochs, to the number of epochs"
    )
    momentum_cap: Share = Field(default=1.0, description="largest alpha")
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="of the stored features")


class ViewSettings(Settings):
    """Camera-style views of target images."""

    style: str = Field(
        default="files",
        description="statistics (of colours), histogram (matching), files (ready-made, beside the training images), or "
        "a path: a run of `camstyle train`, packed styles, or a folder of ready-made images",
    )
    per_image: Count = Field(default=1, description="views of each target image in a batch, of different cameras")
    on_missing: Literal["raise", "real"] = Field(default="raise", description="what stands in for a missing image")


class CamStyleSettings(Settings):
    """Training on restyled copies of the source (Zhong et al., CVPR 2018)."""

    cameras: Literal["target", "source"] = Field(
        default="target", description="whose styles: the target's, to adapt; the source's own, to train better on it"
    )
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="for the restyled images alone")


class InvarianceSettings(Settings):
    """The three terms of ECN, each a switch; none of them is training on the source alone."""

    exemplar: bool = Field(default=True, description="E: each target image is its own class")
    camera: bool = Field(default=True, description="C: camera-style views belong to the class of their image")
    neighborhood: bool = Field(default=True, description="N: so do the nearest slots of the memory")


class OptimizerSettings(Settings):
    """The optimiser and its schedule."""

    kind: Literal["sgd", "adam"] = Field(default="sgd", description="adam: with its weight decay in the gradient")
    betas: tuple[Share, Share] = Field(default=(0.9, 0.999), description="of adam")
    lr: Positive = Field(default=0.1, description="learning rate of new layers")
    backbone_lr_factor: float = Field(default=0.1, ge=0, description="the backbone learns at this multiple of lr")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(default=True, description="of sgd")
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["step", "cosine", "one_cycle", "linear", "constant"] = Field(
        default="step", description="linear: constant at first, then down to 0"
    )
    linear_from: float = Field(
        default=0.5, ge=0, lt=1, description="share of the training after which a linear schedule goes down"
    )
    milestones: tuple[int, ...] = Field(default=(40,), description="epochs at which a step schedule decays")
    decay: Positive = Field(default=0.1, description="factor of a step schedule")
    warmup_epochs: float = Field(default=0.0, ge=0, description="epochs of linear growth from a hundredth of lr")
    accumulate: Count = Field(default=1, description="steps whose gradients are added up before an update")
    clip_norm: float = Field(default=0.0, ge=0, description="largest norm of the gradient; 0: no limit")


class PrecisionSettings(Settings):
    """How the arithmetic is done."""

    autocast: Literal["none", "bfloat16", "float16"] = "none"
    channels_last: bool = Field(
        default=True, description="memory format of images; false is faster for small networks on a CPU"
    )
    compile: bool = Field(default=False, description="torch.compile the network")
    threads: int = Field(default=0, ge=0, description="CPU threads; 0: torch's own choice")


class TrainingSettings(Settings):
    """What every training needs, whatever it trains."""

    name: str = Field(default="experiment", description="name of the run folder, in runs/ unless told otherwise")
    seed: int = Field(default=0, ge=0)
    epochs: Count = 60
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    evaluate_every: int = Field(
        default=10, ge=0, description="epochs between evaluations, for reporting only; 0: at the end"
    )
    tensorboard: bool = Field(default=False, description="write the metrics as TensorBoard events too")
    keep_checkpoints: Count = Field(default=2, description="checkpoints that are kept, the last ones")
    optimizer: OptimizerSettings = OptimizerSettings()
    precision: PrecisionSettings = PrecisionSettings()

    @field_validator("name")
    @classmethod
    def _is_no_path(cls, name: str) -> str:
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise ValueError("a name is wanted, not a path; -o says where a run goes")
        return name


class ExperimentSettings(TrainingSettings):
    """Everything that defines a training run of a re-ID model."""

    method: Literal["ecn", "camstyle", "source", "supervised"] = Field(
        default="ecn",
        description="ecn: adapt; camstyle: train on the source and on restyled copies of it; source: train on the "
        "source alone; supervised: train on the target's labels (an upper bound)",
    )
    steps_per_epoch: int = Field(default=0, ge=0, description="0: one pass over the source images")
    loss_weight: Share = Field(default=0.3, description="lambda of the paper: weight of the target loss")
    pretrain: dict[str, Any] | None = Field(
        default=None, description="a stage before: settings that differ from these; method is source unless given"
    )
    init_from: Path | None = Field(
        default=None, description="run or weights file to start from; its classifier is kept"
    )
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    augment: AugmentSettings = AugmentSettings()
    batch: BatchSettings = BatchSettings()
    head: HeadSettings = HeadSettings()
    source_loss: SourceLossSettings = SourceLossSettings()
    memory: MemorySettings = MemorySettings()
    views: ViewSettings = ViewSettings()
    invariance: InvarianceSettings = InvarianceSettings()
    camstyle: CamStyleSettings = CamStyleSettings()


class StyleDataSettings(Settings):
    """Whose cameras the styles are of."""

    dataset: Path | None = Field(default=None, description="data set whose training images the styles are learned on")
    image_size: tuple[Count, Count] = Field(default=(128, 64), description="height and width in pixels")
    cache: Literal["auto", "always", "never"] = Field(default="auto", description="pack decoded images on disk")
    cache_dir: Path | None = Field(default=None, description="folder of the packed images")
    on_error: Literal["raise", "skip"] = Field(default="raise", description="what an unreadable image does")


class StyleSettings(TrainingSettings):
    """What every training of camera styles needs; each method has settings of its own beside these."""

    name: str = Field(default="camera-styles", description="name of the run folder")
    evaluate_every: int = Field(default=10, ge=0, description="epochs between two pictures of samples; 0: at the end")
    data: StyleDataSettings = StyleDataSettings()
    batch: Count = Field(default=1, description="images in a step, of each camera where a step takes two")
    channels: Count = Field(default=64, description="of the first layer of all networks")
    residual: bool = Field(
        default=False,
        description="let generators change the image instead of making it anew; keeps the person in short trainings",
    )
    cycle_weight: float = Field(default=10.0, ge=0, description="weight of the way to another camera and back")
    flip: Share = Field(default=0.5, description="probability of a horizontal flip")
    average: float = Field(
        default=0.0, ge=0, lt=1, description="share that a running mean of the generator keeps; 0: no such mean"
    )


class StarGANSettings(StyleSettings):
    """Everything that defines the training of a StarGAN, one for all cameras.

    The defaults are those of StarGAN for camera styles (Zhong et al., ECCV 2018), with a learning rate that does fall.
    """

    method: Literal["stargan"] = "stargan"
    epochs: Count = Field(default=200, description="passes over the images")
    batch: Count = Field(default=16, description="images in a step")
    num_blocks: Count = Field(default=6, description="residual blocks of the generator")
    critic_steps: Count = Field(default=5, description="steps of the critic for each of the generator")
    camera_weight: float = Field(default=1.0, ge=0, description="weight of the classification of the camera")
    penalty_weight: float = Field(default=10.0, ge=0, description="weight of the gradient penalty")
    optimizer: OptimizerSettings = OptimizerSettings(
        kind="adam", lr=1e-4, betas=(0.5, 0.999), weight_decay=0.0, schedule="linear"
    )


class CycleGANSettings(StyleSettings):
    """Everything that defines the training of CycleGANs, one for each pair of cameras.

    The defaults are those of CamStyle (Zhong et al., CVPR 2018).
    """

    method: Literal["cyclegan"] = "cyclegan"
    epochs: Count = Field(default=50, description="passes over the images of that camera of a pair which has more")
    pairs: tuple[tuple[Count, Count], ...] | None = Field(
        default=None, description="pairs of cameras, counted from 1, each trained in a folder of the run; null: all"
    )
    pair: tuple[Count, Count] | None = Field(
        default=None, description="train one pair, in the run folder itself; null: those of pairs"
    )
    num_blocks: Count = Field(default=9, description="residual blocks of a generator")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="in the residual blocks, while training")
    identity_weight: float = Field(
        default=5.0, ge=0, description="weight of leaving an image alone that has the style already; 0: not computed"
    )
    pool_size: int = Field(default=50, ge=0, description="former fakes that the discriminators are shown again")
    optimizer: OptimizerSettings = OptimizerSettings(
        kind="adam", lr=2e-4, betas=(0.5, 0.999), weight_decay=0.0, schedule="linear", linear_from=0.6
    )


STYLE_METHODS: dict[str, type[StyleSettings]] = {"stargan": StarGANSettings, "cyclegan": CycleGANSettings}
"""Settings of each method that learns camera styles, by its name."""


def load_settings(file: str | Path, overrides: Sequence[str] = ()) -> ExperimentSettings:
    """Settings of a YAML file, of the files that it is based on, and of the overrides, in rising priority.

    Args:
        file: YAML file; its key ``base`` names a file, relative to it, whose settings it changes, or several, of which
            later ones change earlier ones.
        overrides: ``memory.temperature=0.1`` and the like; values are read as YAML.

    Raises:
        InputError: a file cannot be read, a key is unknown (the nearest valid one is named), a value is out of range.
    """
    layers = [*_read_layers(Path(file)), *_override_layers(overrides, ExperimentSettings)]
    return _with_stage(_validated(ExperimentSettings, layers))


def load_style_settings(file: str | Path | None, overrides: Sequence[str] = ()) -> StyleSettings:
    """Settings of a training of camera styles; like :func:`load_settings`, and the defaults without a file.

    The key ``method`` says which class they are of, and which keys there are.

    Raises:
        InputError: as :func:`load_settings`, or there is no such method.
    """
    layers = [] if file is None else _read_layers(Path(file))
    kind = _style_kind(_merged(layers), overrides)
    # a method's optimiser has defaults of its own, which stay where only some of its settings are given
    defaults: Layer = ("defaults", kind().model_dump(mode="json"))
    return _validated(kind, [defaults, *layers, *_override_layers(overrides, kind)])


def settings_of(tree: Mapping[str, Any], *, where: str) -> ExperimentSettings:
    """Settings of a nested mapping.

    Args:
        tree: keys and values.
        where: what they come from, for error messages.

    Raises:
        InputError: a key is unknown or a value does not fit.
    """
    return _with_stage(_validated(ExperimentSettings, [(where, tree)]))


def pretrain_settings(settings: ExperimentSettings) -> ExperimentSettings | None:
    """Settings of the stage before the training, or None if there is none.

    They are the settings of the training with the changes of its key ``pretrain``; a change of the data or the seed
    thus holds for both.

    Raises:
        InputError: a key of ``pretrain`` is unknown or a value does not fit.
    """
    if settings.pretrain is None:
        return None
    stage = {"method": "source", "name": f"{settings.name}-pretrain", **settings.pretrain, "pretrain": None}
    return settings_of(merge(settings.model_dump(mode="json"), stage), where="pretrain")


def dump_settings(settings: TrainingSettings) -> str:
    """The settings as YAML, every key spelled out; reading it back gives equal settings."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``change``; mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _with_stage(settings: ExperimentSettings) -> ExperimentSettings:
    """The settings, if those of the stage before are valid, too."""
    pretrain_settings(settings)
    return settings


def _validated(kind: type[AnySettings], layers: Sequence[Layer]) -> AnySettings:
    """The settings that several layers make, later ones before earlier ones; an error names the layer to blame."""
    for where, tree in layers:
        for key in _leaf_keys(tree):
            _require_known(key, kind, where=where)
    try:
        return kind.model_validate(_merged(layers))
    except ValidationError as error:
        first = error.errors()[0]
        where = next((where for where, tree in reversed(layers) if _sets(tree, first["loc"])), layers[-1][0])
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {key}: {_reason(first)}, got {first['input']!r}") from error


def _reason(error: Mapping[str, Any]) -> str:
    if error["type"] == "model_type":
        return "Input should be keys and values, such as {key: value}"
    return str(error["msg"]).removeprefix("Value error, ")


def _sets(tree: Any, keys: Sequence[int | str]) -> bool:
    """Whether a tree has a value at a path of keys, or at the beginning of the path."""
    for key in keys:
        if not isinstance(tree, Mapping):
            return True
        if key not in tree:
            return False
        tree = tree[key]
    return True


def _style_kind(tree: Mapping[str, Any], overrides: Sequence[str]) -> type[StyleSettings]:
    """The settings class of the method that a file or the command line asks for."""
    for override in overrides:
        if override.startswith("method="):
            tree = merge(tree, _override_tree(override, StarGANSettings))
    method = str(tree.get("method", "stargan"))
    if method not in STYLE_METHODS:
        raise unknown_name("method", method, STYLE_METHODS)
    return STYLE_METHODS[method]


def _override_layers(overrides: Sequence[str], kind: type[TrainingSettings]) -> list[Layer]:
    return [("command line", _override_tree(override, kind)) for override in overrides]


def _merged(layers: Sequence[Layer]) -> dict[str, Any]:
    return reduce(merge, (tree for _, tree in layers), {})


def _read_layers(file: Path, *, deriving: tuple[Path, ...] = ()) -> list[Layer]:
    """The settings of the files that a file is based on, and its own after them.

    Args:
        file: YAML file.
        deriving: files that are based on it, the nearest last.
    """
    if file.resolve() in [path.resolve() for path in deriving]:
        raise InputError(f"{file}: its base leads back to itself")
    tree = _read_yaml(file, named_by=f"{deriving[-1]}: base: " if deriving else "")
    base = tree.pop("base", None)
    layers = []
    for name in base if isinstance(base, list) else [] if base is None else [base]:
        if not isinstance(name, str):
            raise InputError(f"{file}: base: expected the name of a YAML file, got {name!r}")
        layers += _read_layers(file.parent / name, deriving=(*deriving, file))
    return [*layers, (str(file), nested(tree))]


def _read_yaml(file: Path, *, named_by: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise InputError(f"{named_by}{file}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{file}: expected keys and values, found a {type(tree).__name__}")
    return tree


def nested(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with dotted keys, as on the command line, taken apart: ``{"a.b": 1}`` becomes ``{"a": {"b": 1}}``."""
    whole: dict[str, Any] = {}
    for key, value in tree.items():
        entry = nested(value) if isinstance(value, Mapping) else value
        *parents, last = key.split(".") if isinstance(key, str) else (key,)
        entry = {last: entry}
        for parent in reversed(parents):
            entry = {parent: entry}
        whole = merge(whole, entry)
    return whole


def _override_tree(override: str, kind: type[TrainingSettings]) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        example = "memory.temperature=0.1" if issubclass(kind, ExperimentSettings) else "optimizer.lr=0.0001"
        raise InputError(f"{override!r} should be key=value, for example {example}")
    _require_known(key, kind, where="command line")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{override!r}: the value is not YAML: {' '.join(str(error).split())}") from error
    return nested({key: value})


def _leaf_keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaf_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _require_known(key: str, kind: type[TrainingSettings], *, where: str) -> None:
    known = set(_setting_keys(kind))
    stage = "pretrain." if key.startswith("pretrain.") else ""
    if key.removeprefix(stage) not in known:
        command = "reid-da settings" if issubclass(kind, ExperimentSettings) else "reid-da camstyle settings"
        raise _unknown_setting(key, {stage + name for name in known}, where=where, command=command)


def _unknown_setting(key: str, known: set[str], *, where: str, command: str) -> InputError:
    """Error for an unknown key, with the nearest valid one: by the whole key, else by its last part."""
    last = key.rpartition(".")[2]
    same = sorted(name for name in known if name.rpartition(".")[2] == last)
    if same:
        return InputError(f"{where}: unknown key {key!r} (did you mean {same[0]!r}?)")
    error = unknown_name("key", key, known)
    return InputError(f"{where}: {str(error).partition('; valid')[0]}; `{command}` lists the valid ones")


def _setting_keys(settings: type[Settings], prefix: str = "") -> Iterator[str]:
    for name, field in settings.model_fields.items():
        # Python 3.10 takes tuple[int, int] for a class, but not for an argument of issubclass
        kind = field.annotation
        if get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, Settings):
            yield f"{prefix}{name}"
            yield from _setting_keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
