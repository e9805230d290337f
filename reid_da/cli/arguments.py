"""Arguments that several commands take."""

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reid_da.errors import InputError

if TYPE_CHECKING:
    from reid_da.evaluation.reranking import RerankSettings

Rerank = Annotated[bool, typer.Option("--rerank", help="Also report results after k-reciprocal re-ranking.")]
K1 = Annotated[int, typer.Option("--k1", help="Re-ranking: number of neighbours, less than the number of images.")]
K2 = Annotated[int, typer.Option("--k2", help="Re-ranking: neighbours for query expansion, at most k1.")]
Lambda = Annotated[float, typer.Option("--lambda", help="Re-ranking: weight of the original distance, 0 to 1.")]
CenterCameras = Annotated[
    bool, typer.Option("--center-cameras", help="Subtract from each feature the mean of its camera; needs no labels.")
]
Distance = Annotated[str, typer.Option(help="'cosine' or 'euclidean'.")]
SameCamera = Annotated[
    str | None,
    typer.Option(
        help="'exclude' gallery images of the query's identity and camera, as papers do, or 'include' them; by default "
        "exclude, unless all images are by one camera or cameras are not known."
    ),
]
Feature = Annotated[
    str | None,
    typer.Option(help="What of a run's network is compared: 'pooled' or 'embedding'. Default: as in its settings."),
]
PICTURE = "Picture to write; the suffix decides the format: .png, .svg, .pdf or .jpg."
Title = Annotated[str | None, typer.Option(metavar="TEXT", help="Title of the picture.")]
Slide = Annotated[bool, typer.Option("--slide", help="Lay the picture out for a slide, 16 to 9.")]
Size = Annotated[str | None, typer.Option(help="Height and width of the images, e.g. 256x128.")]


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Height and width of ``256x128``; None stays None.

    Raises:
        InputError: it is not of this form.
    """
    if text is None:
        return None
    found = re.fullmatch(r"0*([1-9]\d{0,5})x0*([1-9]\d{0,5})", text, re.ASCII)
    if found is None:
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        raise InputError(f"--size: expected height and width in pixels such as 256x128, got {shown!r}")
    return int(found[1]), int(found[2])


Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a model is loaded: the options that :func:`loads_model` gives to a command."""

    backbone: Annotated[str, typer.Option(help="Network that a file of weights belongs to.")] = "resnet50"
    last_stride: Annotated[int, typer.Option(help="Stride of layer4, for a file of weights or a backbone.")] = 2
    stem_relu: Annotated[
        bool,
        typer.Option(
            help="Whether a ResNet has a ReLU after its first convolution; those of the strong baseline do not."
        ),
    ] = True
    weights: Annotated[str, typer.Option(help="Weights of a backbone: 'imagenet', or 'none' (random).")] = "imagenet"
    size: Size = None
    feature: Feature = None
    device: Device = "auto"

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of :func:`reid_da.training.trained.load_trained`.

        Raises:
            InputError: the size is none.
        """
        values = dict(vars(self))
        size = parse_size(values.pop("size"))
        return {**values, "image_size": size}


DEFAULT_LOADING = Loading()


def loads_model(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose argument ``loading`` is made of the options of :class:`Loading`, which take its place."""
    signature = inspect.signature(command)
    own = list(signature.parameters.values())
    place = list(signature.parameters).index("loading")
    options = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=Loading.__annotations__[name]
        )
        for name, option in inspect.signature(Loading).parameters.items()
    ]
    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own[place + 1 :]]

    @functools.wraps(command)
    def with_options(*arguments: Any, **values: Any) -> None:
        loading = Loading(**{option.name: values.pop(option.name) for option in options})
        command(*arguments, loading=loading, **values)

    parameters = [*own[:place], *options, *keyword]
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def rerank_settings(wanted: bool, k1: int, k2: int, lambda_value: float) -> "RerankSettings | None":
    """Settings of re-ranking, or None where it is not wanted."""
    from reid_da.evaluation.reranking import RerankSettings

    return RerankSettings(k1=k1, k2=k2, lambda_value=lambda_value) if wanted else None


def check_data_given(model: str, data: Path | None, *, purpose: str) -> None:
    """Refuse a file of weights or a backbone without a data set, before its weights are read or even downloaded.

    A run knows its data; about what does not exist, loading it has more to say.

    Args:
        model: what names the model.
        data: the option ``--data``.
        purpose: what to do with the data, e.g. ``to search``.

    Raises:
        InputError: there is no data set.
    """
    from reid_da.models.backbones import is_backbone_name

    if data is None and (Path(model).is_file() or is_backbone_name(model)) and not Path(model).is_dir():
        raise InputError(f"{model}: give the data set {purpose}, --data PATH")
