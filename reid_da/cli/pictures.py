"""``reid-da curves``, ``ranked-lists``: pictures of runs and models."""

import os
from pathlib import Path
from typing import Annotated

import typer

from reid_da.cli.arguments import SameCamera, check_data_given
from reid_da.cli.output import check_output, say, show_log
from reid_da.errors import InputError

Picture = Annotated[Path | None, typer.Option("--output", "-o", help="The PNG file to write.")]


def curves(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    output: Picture = None,
) -> None:
    """Plot a run: losses, evaluations and label-free diagnostics.

    Example: reid-da curves runs/rendered-a2b-seed0
    """
    from reid_da.reporting.training_curves import draw_run
    from reid_da.training.run_folder import RunFolder

    folder = RunFolder.open(run)
    if not folder.records():
        raise InputError(f"{run}: nothing to draw yet, {folder.metrics_file.name} is empty")
    path = output or run / "curves.png"
    check_output(path)
    draw_run(folder.records(), path, title=folder.name)
    say(f"picture: {path}")


def ranked_lists(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Run folders, such as before and after.")],
    data: Annotated[Path | None, typer.Option(help="Data set; that of the first run is its target.")] = None,
    num_queries: Annotated[int, typer.Option(min=1, help="Queries to show, of different people.")] = 8,
    num: Annotated[int, typer.Option(min=1, help="Gallery images in each list.")] = 10,
    same_camera: SameCamera = None,
    output: Picture = None,
) -> None:
    """Draw the ranked lists of models for the same queries, right and wrong matches marked.

    Example: reid-da ranked-lists runs/demo/pretrain runs/demo -o lists.png
    """
    import torch

    from reid_da.evaluation import evaluate_retrieval
    from reid_da.reporting.ranked_lists import check_picture, draw_comparison, pick_queries
    from reid_da.reporting.ranked_lists import ranked_lists as rank
    from reid_da.training.trained import load_trained

    show_log()
    file = output or Path("ranked-lists.png")
    check_output(file)
    check_data_given(models[0], data, purpose="to search")
    names = _short_names(models)
    trained = {names[model]: load_trained(model) for model in models}
    dataset = trained[names[models[0]]].test_data(data)
    check_picture(
        num_queries=min(num_queries, dataset.query.num_pids),
        num=min(num, len(dataset.gallery)),
        num_models=len(trained),
    )
    features = {name: model.extract(dataset) for name, model in trained.items()}
    query, gallery = dataset.query.without_junk(), dataset.gallery.without_junk()
    same_camera = same_camera or dataset.same_camera
    result = evaluate_retrieval(*features[names[models[0]]].arrays, same_camera=same_camera)
    rows = pick_queries(query, result.per_query.first_match_rank > 0, num=num_queries)
    lists = {
        name: rank(
            torch.from_numpy(found.query_features), torch.from_numpy(found.gallery_features), query, gallery,
            rows=rows, num=num, same_camera=same_camera,
        )
        for name, found in features.items()
    }  # fmt: skip
    draw_comparison(query, gallery, lists, file, camera_names=dataset.camera_names, person_names=dataset.person_names)
    say(f"picture: {file}")


def _short_names(models: list[str]) -> dict[str, str]:
    """The models by what a picture has room for: paths without the folders that all of them have in common."""
    paths = [Path(model).absolute() for model in models]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return {model: path.relative_to(common).as_posix() for model, path in zip(models, paths, strict=True)}
