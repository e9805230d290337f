"""``reid-da curves``, ``ranked-lists``: pictures of runs and models."""

import os
from pathlib import Path
from typing import Annotated

import typer

from reid_da.cli.arguments import PICTURE, SameCamera, Slide, Title, check_data_given
from reid_da.cli.output import check_picture, say, show_log
from reid_da.errors import InputError

Picture = Annotated[Path | None, typer.Option("--output", "-o", help=PICTURE)]


def curves(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    output: Picture = None,
    title: Title = None,
    slide: Slide = False,
) -> None:
    """Plot a run: losses, evaluations and label-free diagnostics.

    Example: reid-da curves runs/rendered-a2b-seed0

    Example: reid-da curves runs/mine -o curves.pdf --slide --title 'Adaptation to the new cameras'
    """
    from reid_da.reporting.training_curves import draw_run
    from reid_da.training.run_folder import RunFolder

    folder = RunFolder.open(run)
    if not folder.records():
        raise InputError(f"{run}: nothing to draw yet, {folder.metrics_file.name} is empty")
    path = output or run / "curves.png"
    check_picture(path)
    draw_run(folder.records(), path, title=folder.name if title is None else title, slide=slide)
    say(f"picture: {path}")


def ranked_lists(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Run folders, such as before and after.")],
    data: Annotated[Path | None, typer.Option(help="Data set. Default: test data of the first run.")] = None,
    queries: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Query to show: its file, or a person, whose first query it is. May be given several times.",
        ),
    ] = None,
    num_queries: Annotated[
        int | None, typer.Option(min=1, help="Queries to show, of different people. Default: 8; fewer on a slide.")
    ] = None,
    num: Annotated[
        int | None, typer.Option(min=1, help="Gallery images in each list. Default: 10; as many as fit on a slide.")
    ] = None,
    same_camera: SameCamera = None,
    similarities: Annotated[
        bool, typer.Option("--similarities", help="Write the cosine similarity below each gallery image.")
    ] = False,
    title: Title = None,
    slide: Slide = False,
    output: Picture = None,
) -> None:
    """Draw the ranked lists of models for the same queries, right and wrong matches marked.

    Example: reid-da ranked-lists runs/demo/pretrain runs/demo -o lists.png

    Example: reid-da ranked-lists runs/mine --queries anna --queries ben --similarities --slide -o lists.pdf
    """
    import torch

    from reid_da.evaluation import evaluate_retrieval
    from reid_da.reporting import ranked_lists as lists_of
    from reid_da.reporting.queries import named_queries
    from reid_da.training.trained import load_trained

    show_log()
    file = output or Path("ranked-lists.png")
    check_picture(file)
    check_data_given(models[0], data, purpose="to search")
    if queries and num_queries is not None:
        raise InputError("--queries names the queries; leave --num-queries out")
    names = _short_names(models)
    trained = {names[model]: load_trained(model) for model in models}
    dataset = trained[names[models[0]]].test_data(data)
    query, gallery = dataset.query.without_junk(), dataset.gallery.without_junk()
    named = named_queries(query, queries, person_names=dataset.person_names or {}) if queries else None
    usual = (8, 10)
    if slide:
        usual = lists_of.slide_layout(
            len(trained),
            num_queries=num_queries if named is None else len(named),
            with_similarities=similarities or bool(dataset.person_names),
        )
    wanted = num_queries or usual[0] if named is None else len(named)
    length = min(num or usual[1], len(gallery))
    lists_of.check_picture(num_queries=min(wanted, len(query)), num=length, num_models=len(trained))
    features = {name: model.extract(dataset) for name, model in trained.items()}
    same_camera = same_camera or dataset.same_camera
    rows = named
    if rows is None:
        result = evaluate_retrieval(*features[names[models[0]]].arrays, same_camera=same_camera)
        rows = lists_of.pick_queries(query, result.per_query.first_match_rank > 0, num=wanted)
    lists = {
        name: lists_of.ranked_lists(
            torch.from_numpy(found.query_features), torch.from_numpy(found.gallery_features), query, gallery,
            rows=rows, num=length, same_camera=same_camera,
        )
        for name, found in features.items()
    }  # fmt: skip
    lists_of.draw_comparison(
        query, gallery, lists, file, camera_names=dataset.camera_names, person_names=dataset.person_names,
        title=title or "", similarities=similarities, slide=slide,
    )  # fmt: skip
    say(f"picture: {file}")


def _short_names(models: list[str]) -> dict[str, str]:
    """The models by what a picture has room for: paths without the folders that all of them have in common."""
    paths = [Path(model).absolute() for model in models]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return {model: path.relative_to(common).as_posix() for model, path in zip(models, paths, strict=True)}
