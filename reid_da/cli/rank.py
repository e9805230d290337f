"""``reid-da rank``: the nearest gallery images of each query, for images without labels."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reid_da.cli.arguments import (
    DEFAULT_LOADING,
    K1,
    K2,
    Distance,
    Lambda,
    Loading,
    Rerank,
    loads_model,
    rerank_settings,
)
from reid_da.cli.output import check_output, print_json, say, show_log
from reid_da.errors import InputError

if TYPE_CHECKING:
    from reid_da.evaluation.ranking import NamedFeatures


@loads_model
def rank(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="Run folder, checkpoint, file of weights, or backbone; not for --features."
        ),
    ] = None,
    query: Annotated[Path | None, typer.Option(help="Folder of query images, whatever their names.")] = None,
    gallery: Annotated[Path | None, typer.Option(help="Folder of gallery images, whatever their names.")] = None,
    data: Annotated[Path | None, typer.Option(help="Use the query and gallery of a data set instead.")] = None,
    features: Annotated[
        Path | None,
        typer.Option(help="Use features instead of images: an .npz or .mat file."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .csv or .json file to write. Default: CSV is printed.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Gallery images per query, at most the size of the gallery.")] = 10,
    distance: Distance = "cosine",
    rerank: Rerank = False,
    k1: K1 = 20,
    k2: K2 = 6,
    lambda_value: Lambda = 0.3,
    flip: Annotated[bool, typer.Option("--flip", help="Average features with those of the mirrored images.")] = False,
    loading: Loading = DEFAULT_LOADING,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of CSV.")] = False,
) -> None:
    """Rank gallery images by name for each query, without labels.

    No label is read, so nothing is left out: not the query's own camera, not the query itself if the gallery has it.

    The CSV has the columns query, rank, gallery and distance.

    Example: reid-da rank runs/demo --query new/query --gallery new/gallery --top 20 -o ranks.csv
    """
    from reid_da.evaluation.ranking import (
        check_format,
        rank_gallery,
        write_rankings,
    )

    show_log()
    check_output(output)
    if output is not None:
        check_format(output)
    named = _named_features(model, query, gallery, data, features, flip=flip, loading=loading)
    rankings = rank_gallery(named, top=top, distance=distance, rerank=rerank_settings(rerank, k1, k2, lambda_value))
    if output is not None:
        write_rankings(output, rankings)
        number = len(rankings.query_names)
        say(f"{output}: {number} queries, {rankings.indices.shape[1]} images each", error=as_json)
    if as_json:
        print_json(rankings.to_json())
    elif output is None:
        sys.stdout.write(rankings.to_csv())


def _named_features(
    model: str | None,
    query: Path | None,
    gallery: Path | None,
    data: Path | None,
    features: Path | None,
    *,
    flip: bool,
    loading: Loading,
) -> "NamedFeatures":
    """Features from what was given: two folders, a data set, or a file.

    Raises:
        InputError: it is none of these, or more than one.
    """
    from reid_da.datasets import load_dataset
    from reid_da.evaluation.ranking import extract_named_features, load_named_features, table_of_folder
    from reid_da.training.trained import load_trained

    folders = query is not None or gallery is not None
    if (features is not None) + (data is not None) + folders != 1 or (folders and (query is None or gallery is None)):
        raise InputError("give one of: --query and --gallery, two folders; --data, a data set; --features, a file")
    if (features is None) == (model is None):
        raise InputError(
            "give the MODEL to extract features with" if model is None else f"{model}: --features needs no model"
        )
    if features is not None:
        return load_named_features(features)
    dataset = None if data is None else load_dataset(data)
    if dataset is not None:
        tables = {"query": dataset.query.without_junk(), "gallery": dataset.gallery.without_junk()}
    else:
        assert query is not None
        assert gallery is not None
        tables = {"query": table_of_folder(query), "gallery": table_of_folder(gallery)}
    assert model is not None
    trained = load_trained(model, **loading.arguments)
    return extract_named_features(
        tables,
        trained.for_data(dataset),
        name=str(data or query),
        image_size=trained.image_size,
        flip=flip,
        cache="auto" if data else "never",
    )
