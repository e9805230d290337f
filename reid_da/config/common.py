"""Settings that several methods have: one frozen class per component, with units and ranges.

The defaults are those of ECN (Zhong et al., CVPR 2019) as its authors' code runs it. What a single method needs is
beside that method.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, field_validator

from reid_da.config.base import FREE, RunSettings, Settings

Share = Annotated[float, Field(ge=0, le=1)]
"""A share, from 0 to 1."""
Positive = Annotated[float, Field(gt=0)]
"""A number above 0."""
Count = Annotated[int, Field(ge=1)]
"""A whole number, at least 1."""
Aspect = Annotated[float, Field(ge=1e-3, le=1e3)]
"""Height by width of a rectangle, from 0.001 to 1000."""


def _is_freeze(value: str | int) -> str | int:
    if value not in ("official", "none") and (isinstance(value, str) or value < 0):
        raise ValueError("Input should be 'official', 'none' or a number of stages")
    return value


Freeze = Annotated[str | int, AfterValidator(_is_freeze)]
"""``official``, ``none``, or a number of stages; see :class:`reid_da.models.ReIDNetwork`."""
AnySettings = TypeVar("AnySettings", bound="TrainingSettings")


class DataSettings(Settings):
    """Where the images are, and how large the network sees them."""

    source: Path | tuple[Path, ...] | None = Field(
        default=None, description="labelled data set to train on; a list joins several", json_schema_extra=FREE
    )
    target: Path | tuple[Path, ...] | None = Field(
        default=None,
        description="data set to adapt to, or a list of them; identities are used for reporting only",
        json_schema_extra=FREE,
    )
    test: Path | tuple[Path, ...] | None = Field(
        default=None,
        description="labelled data set whose query and gallery measure accuracy; null: those of the target",
        json_schema_extra=FREE,
    )
    image_size: tuple[Count, Count] = Field(default=(256, 128), description="height and width in pixels")
    cache: Literal["auto", "always", "never"] = Field(
        default="auto", description="cache decoded images on disk; auto: if there is room", json_schema_extra=FREE
    )
    cache_dir: Path | None = Field(default=None, description="folder of the image cache", json_schema_extra=FREE)
    on_error: Literal["raise", "skip"] = Field(
        default="raise", description="unreadable images: raise an error, or skip them"
    )


class ModelSettings(Settings):
    """The shared network."""

    backbone: str = Field(
        default="resnet50", description="a name of docs/models.md, or timm:NAME for a network of timm"
    )
    width: Positive = Field(default=1.0, description="channels as a multiple of the published number")
    last_stride: Literal[1, 2] = Field(default=2, description="stride of the last stage")
    stem_relu: bool = Field(
        default=True, description="ReLU after a ResNet's first convolution; the strong baseline's code has none"
    )
    weights: str = Field(default="imagenet", description="imagenet, none (random), or the path of a weight file")
    pooling: Literal["default", "avg", "max", "gem"] = Field(
        default="default", description="default: the backbone's own: the class token of a ViT, else avg"
    )
    embedding: Literal["linear", "norm_linear", "none", "identity"] = Field(
        default="linear",
        description="linear: FC + BN as in ECN; norm_linear: BN, dropout, FC, BN as in SphereReID; none: BN on the "
        "pooled features (BNNeck); identity: no BN either",
    )
    neck_bias: bool = Field(
        default=True, description="train the bias of the last BN; the strong baseline's code keeps it at 0"
    )
    embedding_dim: Count = Field(default=4096, description="length of the embedding where it is linear")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="rate; norm_linear has it before its FC, and no other")
    target_dropout: Literal["after_norm", "before_norm", "none"] = Field(
        default="after_norm",
        description="where dropout acts in the target branch; the authors' code: after the L2 norm",
    )
    test_feature: Literal["pooled", "embedding"] = Field(
        default="pooled", description="what is compared at test time: pooled features, or the embedding after its norm"
    )
    freeze: Freeze = Field(
        default="official",
        description="frozen stages: official (a ResNet's conv1 to layer2), none, or a number of stages",
    )
    bn_mode: Literal["official", "frozen", "train"] = Field(
        default="official",
        description="batch norms that keep their statistics: official, all of the frozen part, or none",
    )
    samples_per_norm: int = Field(
        default=0,
        ge=0,
        description="images that are normalised together in training, as on several GPUs that split the batch; 0: all",
    )
    camera_norm: bool = Field(
        default=False,
        description="batch norms of the backbone by camera, in training and for features; cameras have to be known",
    )


class AugmentSettings(Settings):
    """Random changes of the training images; the defaults are those of Zhong et al. (CVPR 2019)."""

    crop: Literal["rect", "pad", "none"] = Field(default="rect", description="random rectangle, or pad and crop")
    crop_scale: tuple[Share, Share] = Field(default=(0.64, 1.0), description="crop: share of the area that is kept")
    crop_aspect: tuple[Aspect, Aspect] = Field(default=(2.0, 3.0), description="crop: height / width")
    crop_on: Literal["resized", "original"] = Field(
        default="resized",
        description="shape that a rectangle is drawn in: the images after their resize to data.image_size; or the "
        "files, as the code of ECN and CamStyle has it, where a square is never cropped",
    )
    crop_pad: int = Field(default=10, ge=0, description="padding on every side in pixels, for crop: pad")
    flip: Share = Field(default=0.5, description="probability of a horizontal flip")
    brightness: float = Field(default=0.0, ge=0, description="largest relative change")
    contrast: float = Field(default=0.0, ge=0, description="largest relative change")
    saturation: float = Field(default=0.0, ge=0, description="largest relative change")
    hue: float = Field(default=0.0, ge=0, le=0.5, description="largest change, in turns of the colour circle")
    erase: Share = Field(default=0.5, description="probability of random erasing")
    erase_area: tuple[Share, Share] = Field(default=(0.02, 0.2), description="share of the area that is erased")
    erase_aspect: tuple[Aspect, Aspect] = Field(default=(0.3, 3.0), description="height / width of what is erased")
    erase_fill: Literal["official", "mean"] = Field(
        default="official",
        description="official: 0.485, 0.456, 0.406 in the normalised image, a light grey, as the authors' code has it; "
        "mean: zeros, the mean colour",
    )

    @field_validator("crop_scale", "crop_aspect", "erase_area", "erase_aspect")
    @classmethod
    def _is_range(cls, values: tuple[float, float]) -> tuple[float, float]:
        if values[0] > values[1]:
            raise ValueError("a range is two numbers, the smaller first")
        return values


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
    init: Literal["normal", "xavier"] = Field(
        default="normal",
        description="random centres: with a deviation of 0.01, or of sqrt(2 / (dimensions + classes)) as in SphereReID",
    )
    straight_through: bool = Field(
        default=False, description="ignore the margin in the gradient, as a widely used implementation does"
    )
    sample_rate: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the other classes that each step compares with, drawn at random (Partial FC); 1: all",
    )


class SourceLossSettings(Settings):
    """Supervised loss on labelled images: a sum of terms, those with a weight of 0 are left out.

    All but the classification act on the pooled features, or on the centres of the classifier.
    """

    classification_weight: float = Field(default=1.0, ge=0, description="weight of the cross-entropy of the classifier")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="of the cross-entropy")
    hardest_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="hard example mining: share of a batch, by largest cross-entropy, that is trained on",
    )
    triplet_weight: float = Field(default=0.0, ge=0, description="weight of a triplet loss")
    triplet: Literal["hard", "semi_hard", "angular", "angular_hard"] = Field(
        default="hard", description="hardest of the batch; semi-hard on unit vectors; semi-hard or hardest by angle"
    )
    triplet_margin: Positive | None = Field(
        default=None, description="None: the soft margin for hard, else 0.2 (semi_hard) or 0.35 radians (by angle)"
    )
    contrastive_weight: float = Field(default=0.0, ge=0, description="weight of the contrastive loss")
    contrastive_margin: Positive = Field(
        default=1.0, description="distance beyond which different identities cause no loss"
    )
    center_weight: float = Field(default=0.0, ge=0, description="weight of the centre loss; 0.003 in the paper")
    center_rule: Literal["paper", "sgd"] = Field(
        default="paper",
        description="paper: half the squared distance, centres from 0, moved by the paper's rule; sgd: as the strong "
        "baseline's code: the squared distance, centres from normal random numbers, moved down its gradient",
    )
    center_rate: Share = Field(default=0.5, description="how fast its centres move; sgd: their learning rate")
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


class ViewSettings(Settings):
    """Camera-style views of target images."""

    style: str = Field(
        default="files",
        description="statistics (of colours), histogram (matching), files (ready-made, beside the training images), or "
        "a path: a run of `camstyle train`, packed styles, or a folder of ready-made images",
    )
    per_image: Count = Field(default=1, description="views of each target image in a batch, of different cameras")
    on_missing: Literal["raise", "real"] = Field(
        default="raise", description="missing view: raise an error, or use the real image"
    )


class OptimizerSettings(Settings):
    """The optimiser and its schedule."""

    kind: Literal["sgd", "adam"] = Field(
        default="sgd", description="optimiser; adam has its weight decay in the gradient (L2)"
    )
    betas: tuple[Share, Share] = Field(default=(0.9, 0.999), description="of adam")
    lr: float = Field(default=0.1, gt=0, le=1e30, description="learning rate of new layers")
    backbone_lr_factor: float = Field(
        default=0.1, ge=0, le=1e30, description="the backbone learns at this multiple of lr"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(default=True, description="of sgd")
    weight_decay: float = Field(default=5e-4, ge=0, description="L2 penalty on weights")
    schedule: Literal["step", "cosine", "one_cycle", "linear", "constant"] = Field(
        default="step", description="learning rate schedule; linear: constant at first, then decays to 0"
    )
    linear_from: float = Field(
        default=0.5, ge=0, lt=1, description="share of the training after which a linear schedule starts to decay"
    )
    milestones: tuple[int, ...] = Field(default=(40,), description="epochs at which a step schedule decays")
    decay: Positive = Field(default=0.1, description="factor of a step schedule")
    warmup_epochs: float = Field(default=0.0, ge=0, description="warm-up epochs, starting from lr / 100")
    warmup: Literal["steps", "epochs", "geometric"] = Field(
        default="steps",
        description="steps: linear, with every step; epochs: linear, with every epoch, of which the first has the "
        "value of its end, as in the strong baseline's code; geometric: by one factor an epoch, as in SphereReID's",
    )
    accumulate: Count = Field(default=1, description="gradient accumulation: steps per update")
    clip_norm: float = Field(default=0.0, ge=0, description="gradient clipping: largest norm; 0: none")


class PrecisionSettings(Settings):
    """How the arithmetic is done."""

    autocast: Literal["none", "bfloat16", "float16"] = Field(
        default="none", description="mixed precision of the forward pass"
    )
    channels_last: bool = Field(
        default=True, description="memory format of images; false is faster for small networks on a CPU"
    )
    compile: bool = Field(default=False, description="torch.compile the network")
    threads: int = Field(
        default=0, ge=0, le=4096, description="CPU threads; 0: torch's own choice", json_schema_extra=FREE
    )


class TrainingSettings(RunSettings):
    """What every training needs, whatever it trains."""

    name: str = Field(
        default="experiment",
        description="name of the experiment; its run folder is runs/NAME-seedSEED unless -o names another",
        json_schema_extra=FREE,
    )
    seed: int = Field(default=0, ge=0, description="seed of all random numbers")
    epochs: Count = Field(default=60, description="number of epochs")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...", json_schema_extra=FREE)
    evaluate_every: int = Field(
        default=10,
        ge=0,
        description="epochs between evaluations, which are for reporting only; 0: after the last epoch only",
        json_schema_extra=FREE,
    )
    tensorboard: bool = Field(
        default=False, description="also write the metrics as TensorBoard events", json_schema_extra=FREE
    )
    keep_checkpoints: Count = Field(
        default=2, description="number of latest checkpoints to keep", json_schema_extra=FREE
    )
    optimizer: OptimizerSettings = OptimizerSettings()
    precision: PrecisionSettings = PrecisionSettings()

    @field_validator("name")
    @classmethod
    def _is_no_path(cls, name: str) -> str:
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise ValueError("a name is wanted, not a path; -o says where a run goes")
        return name


class ExperimentSettings(TrainingSettings):
    """What every training of a re-ID model needs; each method adds settings of its own."""

    method: str = Field(default="", description="what is trained; see `reid-da settings --method NAME`")
    steps_per_epoch: int = Field(
        default=0,
        ge=0,
        description="steps in an epoch; 0: one pass over the images, as the method defines it",
    )
    pretrain: dict[str, Any] | None = Field(
        default=None,
        description="pretraining stage: settings that differ from these; method is source unless given; may have a "
        "pretrain of its own",
    )
    init_from: Path | None = Field(
        default=None,
        description="run or weights file to start from; its classifier is kept",
        json_schema_extra=FREE,
    )
    label_free: bool = Field(
        default=True,
        description="at each evaluation, figures on the target's training images that need no labels, to choose among "
        "epochs and runs by: `reid-da select`",
        json_schema_extra=FREE,
    )
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    augment: AugmentSettings = AugmentSettings()
