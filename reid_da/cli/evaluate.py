"""``reid-da evaluate``, ``extract`` and what else is said of models and their features."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from reid_da.atomic import atomic_paths
from reid_da.cli.arguments import (
    DEFAULT_LOADING,
    K1,
    K2,
    CenterCameras,
    Device,
    Distance,
    Feature,
    Lambda,
    Loading,
    Rerank,
    SameCamera,
    check_data_given,
    loads_model,
    rerank_settings,
)
from reid_da.cli.output import check_output, check_picture, print_json, say, show, show_log
from reid_da.errors import InputError

OperatingPoint = Annotated[
    float | None, typer.Option(help="False positive rate, e.g. 1e-3: also thresholds and true positive rates.")
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Run folder, checkpoint, file of weights, or backbone.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def evaluate_features(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Features of any model: .npz, or .mat.")],
    rerank: Rerank = False,
    k1: K1 = 20,
    k2: K2 = 6,
    lambda_value: Lambda = 0.3,
    operating_point: OperatingPoint = None,
    center_cameras: CenterCameras = False,
    distance: Distance = "cosine",
    same_camera: Annotated[
        str, typer.Option(help="'exclude' (as papers do) or 'include' gallery images of the query's camera.")
    ] = "exclude",
    as_json: AsJson = False,
) -> None:
    """CMC, mAP and mINP of features in a file.

    An .npz file has the arrays query_features, query_pids, query_camids, gallery_features, gallery_pids and
    gallery_camids, with one row of features per image; a .mat file those of the Market-1501 scripts: query_f,
    query_label, query_cam and so on (version 7.3 needs h5py: the extra 'matlab').
    Identities and cameras are numbers or text; without cameras give --same-camera include.

    Example: reid-da evaluate-features features.npz --rerank --operating-point 1e-3
    """
    from reid_da.evaluation import load_feature_file
    from reid_da.evaluation.feature_evaluation import evaluate_feature_set
    from reid_da.reporting.evaluation_tables import format_evaluation

    result = evaluate_feature_set(
        load_feature_file(file),
        distance=distance,
        same_camera=same_camera,
        rerank=rerank_settings(rerank, k1, k2, lambda_value),
        operating_point=operating_point,
        center_cameras=center_cameras,
    )
    if as_json:
        print_json(result.to_json())
    else:
        show(format_evaluation(result))


@loads_model
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Run folder, checkpoint, file of weights, or backbone; several make one table."
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Data set with query and gallery. Default: data.test of the run, or its target.")
    ] = None,
    rerank: Rerank = False,
    k1: K1 = 20,
    k2: K2 = 6,
    lambda_value: Lambda = 0.3,
    operating_point: OperatingPoint = None,
    same_camera: SameCamera = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average features with those of the mirrored images.")] = False,
    center_cameras: CenterCameras = False,
    adabn: Annotated[
        bool,
        typer.Option("--adabn", help="Take batch-norm statistics from the data set's training images first (AdaBN)."),
    ] = False,
    camera_norm: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Take batch-norm statistics of each camera from the data set's training images first; SHARE of them "
            "and the rest of those of the model, such as 0.5.",
        ),
    ] = None,
    loading: Loading = DEFAULT_LOADING,
    as_json: AsJson = False,
) -> None:
    """CMC, mAP and mINP of models on the query and gallery of a data set.

    Results of a run are kept in RUN/evaluations.jsonl. Several models are compared on one data set, that of the first.

    Example: reid-da evaluate runs/rendered-a2b-seed0 --data data/rendered/site-b --rerank

    Example: reid-da evaluate runs/mine/pretrain runs/mine --data people/
    """
    from reid_da.evaluation.feature_evaluation import evaluate_feature_set
    from reid_da.evaluation.operating_point import check_rates
    from reid_da.reporting.evaluation_tables import format_evaluation, format_evaluations
    from reid_da.training.trained import keep_evaluation, load_trained

    show_log()
    if len(set(models)) < len(models):
        raise InputError(f"{', '.join(models)}: name each model once")
    for model in models:
        check_data_given(model, data, purpose="to evaluate on")
    if operating_point is not None:
        check_rates([operating_point], name="--operating-point")
    if adabn and camera_norm is not None:
        raise InputError("give --adabn or --camera-norm: both replace the statistics of the batch norms")
    results, dataset = {}, None
    for model in models:
        trained = load_trained(model, **loading.arguments)
        dataset = dataset or trained.test_data(data)
        if adabn:
            trained = trained.with_batch_norms_of(dataset if len(dataset.train) else None)
        if camera_norm is not None:
            trained = trained.with_camera_norms_of(dataset, share=camera_norm)
        results[model] = evaluate_feature_set(
            trained.extract(dataset, flip=flip),
            same_camera=same_camera or dataset.same_camera,
            rerank=rerank_settings(rerank, k1, k2, lambda_value),
            operating_point=operating_point,
            center_cameras=center_cameras,
        )
        options = {
            "flip": flip,
            "rerank": rerank,
            "center_cameras": center_cameras,
            "adabn": adabn,
            "camera_norm": camera_norm,
        }
        keep_evaluation(trained, dataset, {**options, "feature": trained.feature, **results[model].to_json()})
    if as_json:
        print_json(
            results[models[0]].to_json()
            if len(models) == 1
            else {model: result.to_json() for model, result in results.items()}
        )
    else:
        show(format_evaluation(results[models[0]]) if len(models) == 1 else format_evaluations(results))


@loads_model
def extract(
    model: Model,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files, or one data set.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npz file to write.")],
    split: Annotated[
        list[str] | None,
        typer.Option(help="Of a data set: query, gallery, train; may be given several times. Default: the test split."),
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average features with those of the mirrored images.")] = False,
    center_cameras: CenterCameras = False,
    loading: Loading = DEFAULT_LOADING,
) -> None:
    """Write the features of images to a file.

    For a data set the file has its query and gallery, as evaluate-features reads it, or its training images where it
    has no test split: for each split the arrays SPLIT_features, SPLIT_paths, SPLIT_camids and, where known, SPLIT_pids,
    without junk. For image files it has the arrays features and paths.

    Example: reid-da extract resnet18 --weights none data/rendered/site-b -o features.npz
    """
    from reid_da.evaluation.file_extraction import extract_to_file
    from reid_da.training.trained import load_trained

    show_log()
    check_output(output)
    trained = load_trained(model, **loading.arguments)
    text = extract_to_file(
        trained.for_data,
        images,
        output,
        image_size=trained.image_size,
        flip=flip,
        splits=split or (),
        center=center_cameras,
    )
    say(f"{output}: {text}")


def angles(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or one of its checkpoints.")],
    data: Annotated[Path | None, typer.Option(help="Data set with a gallery. Default: the run's target.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Picture of the angles of pairs: .png, .svg, .pdf or .jpg."),
    ] = None,
    feature: Feature = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Angles between features, identities and class centres, as in ArcFace's Table 3.

    The features are those that the run compares; class centres count where these are the embeddings.

    Example: reid-da angles runs/arcface --data data/rendered/site-b -o angles.png
    """
    from reid_da.reporting.angle_tables import angle_table, draw_angle_histograms
    from reid_da.studies.inspection import angles_of_run

    show_log()
    check_picture(output)
    statistics = angles_of_run(run, data=data, feature=feature, device=device)
    if output is not None:
        draw_angle_histograms(statistics, output)
    if as_json:
        print_json({name: entry.to_json() for name, entry in statistics.items()})
        return
    (used, *_) = (entry.feature for entry in statistics.values())
    show(angle_table(statistics, title=f"{run}, {used} features"))
    if output is not None:
        say(f"picture: {output}", error=True)


@loads_model
def verify(
    model: Model,
    pairs: Annotated[
        Path | None, typer.Argument(metavar="[PAIRS]", help="Pairs as LFW lists them, or a CSV file.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images. Default: that of PAIRS.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Draw pairs from this data set's test images.")] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--pairs",
            help="Pairs to draw, half of them same-person. Default: all, at most 6000.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random pairs.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Picture of the ROC curve: .png, .svg, .pdf or .jpg.")
    ] = None,
    loading: Loading = DEFAULT_LOADING,
    as_json: AsJson = False,
) -> None:
    """Verify pairs of images: accuracy over folds, TAR at FAR, and rank-1 among distractors.

    A CSV file has the columns path1, path2, same (0 or 1, false or true) and, optionally, fold. With --from,
    distractors are the gallery images of people without a query.

    Example: reid-da verify runs/arcface --from data/rendered/site-b --pairs 2000 -o roc.png
    """
    from reid_da.datasets import load_datasets
    from reid_da.datasets.pairs import draw_pairs, read_pairs
    from reid_da.evaluation.verification import check_pairs
    from reid_da.reporting.verification_tables import draw_roc, verification_table
    from reid_da.studies.inspection import identification, verify_pairs
    from reid_da.training.trained import load_trained

    show_log()
    if (pairs is None) == (source is None):
        raise InputError("give either PAIRS, a file, or --from DATA to draw them")
    if pairs is not None and count is not None:
        raise InputError(f"--pairs is the number of pairs to draw with --from; {pairs} lists all that count")
    if source is not None and images is not None:
        raise InputError("--images belongs to PAIRS, a file; the images of --from are those of the data set")
    check_picture(output)
    dataset = load_datasets(source) if source is not None else None
    if dataset is not None:
        listed = draw_pairs(dataset, count, seed=seed)
    else:
        assert pairs is not None
        listed = read_pairs(pairs, images)
    check_pairs(listed.same, listed.folds, name=listed.name)
    trained = load_trained(model, **loading.arguments)
    result = verify_pairs(trained, listed)
    rates = {} if dataset is None else identification(trained, dataset)
    if output is not None:
        draw_roc(result, output)
    if as_json:
        print_json(
            {
                "feature": trained.feature,
                **result.to_json(),
                "identification": {str(number): rate for number, rate in rates.items()},
            }
        )
        return
    show(verification_table(result, rates, feature=trained.feature))
    if output is not None:
        say(f"picture: {output}", error=True)


def calibrate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    fpr: Annotated[list[float] | None, typer.Option(help="False positive rate; may be given several times.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Labelled test images. Default: test data of the run."),
    ] = None,
    feature: Feature = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Calibrate the similarity threshold for "same person" across cameras; stored in the run folder.

    Writes RUN/calibration.json and RUN/calibration.png, the histogram of the similarities. Rates that need
    more different-person pairs than there are get no threshold.

    Example: reid-da calibrate runs/demo --fpr 1e-2 --fpr 1e-3
    """
    from reid_da.evaluation.calibration import save_calibration
    from reid_da.reporting.calibration import calibration_table, draw_calibration
    from reid_da.studies.inspection import calibrate_run

    show_log()
    for name in ("calibration.json", "calibration.png"):
        check_output(run / name)
    calibration, notes = calibrate_run(run, fprs=fpr or (1e-2, 1e-3, 1e-4), data=data, feature=feature, device=device)
    # on a full disk, new thresholds beside an old picture would be read as one result
    with atomic_paths(run / "calibration.json", run / "calibration.png") as (record, picture):
        save_calibration(record, calibration, notes=notes)
        draw_calibration(calibration, picture, title=f"{notes['data']}, {calibration.feature} features")
    if as_json:
        print_json({**notes, "feature": calibration.feature, "points": [asdict(point) for point in calibration.points]})
        return
    show(calibration_table(calibration, title=f"{run} on {notes['data']}, {calibration.feature} features"))
    say(f"stored: {run / 'calibration.json'}", error=True)
