"""``reid-da camstyle``: camera styles learned from the images themselves."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from reid_da.cli.arguments import PICTURE, Size, parse_size
from reid_da.cli.output import check_picture, print_json, say, show, show_log, stoppable
from reid_da.errors import InputError, unknown_name

if TYPE_CHECKING:
    from reid_da.styles.export import Naming

app = typer.Typer(
    name="camstyle",
    help="Camera styles: images as another camera of the data set would have taken them.",
    no_args_is_help=True,
)

DataSet = Annotated[Path, typer.Argument(metavar="DATA", help="Data set.")]
PackOutput = Annotated[
    Path | None, typer.Option("--output", "-o", help="The .pack file to write. Default: in the cache.")
]
SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Skip images that cannot be decoded.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]


@app.command()
def train(
    data: Annotated[Path | None, typer.Argument(metavar="DATA", help="Data set; not with --resume.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that differ, e.g. epochs=50.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="stargan: one model for all cameras; cyclegan: one for each pair.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder. Default: runs/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Resume an interrupted run.")] = None,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="Resume from the newest intact checkpoint.")
    ] = False,
) -> None:
    """Train camera styles on the training images of a data set, by a StarGAN or by CycleGANs.

    A StarGAN is one generator for all cameras. CycleGANs are two generators for each pair of cameras, trained pair
    after pair in folders pair-1-2, pair-1-3, ... of the run; pairs=[[1,2],[1,3]] trains these only. --resume finishes
    what is missing.

    Pictures of samples go to the folder samples of a run, every evaluate_every epochs. The losses are in
    metrics.jsonl, and as curves with tensorboard=true.

    Example: reid-da camstyle train data/rendered/site-b --config experiments/styles/rendered.yaml -o runs/styles-b

    Example: reid-da camstyle train data/rendered/site-b --method cyclegan data.image_size=[64,32] -o runs/pairs-b
    """
    from reid_da.reporting.style_pictures import draw_views
    from reid_da.styles.train import resume_styles, train_styles
    from reid_da.styles.trained import load_style_settings

    show_log()
    if (data is None) == (resume is None):
        raise InputError("give either DATA or --resume RUN")
    if resume is not None:
        given = {"--method": method, "--config": config, "--output": output}
        if refused := [name for name, value in given.items() if value is not None]:
            raise InputError(f"--resume keeps the settings and the folder of the run: leave {', '.join(refused)} out")
        with stoppable("reid-da camstyle train", resume):
            run = resume_styles(resume, skip_damaged=skip_damaged, draw=draw_views)
    else:
        if skip_damaged:
            raise InputError("--skip-damaged is for --resume: a new run has no checkpoints")
        chosen = [] if method is None else [f"method={method}"]
        settings = load_style_settings(config, [f"data.dataset={data}", *chosen, *(overrides or ())])
        folder = output or Path("runs") / settings.name
        with stoppable("reid-da camstyle train", folder):
            run = train_styles(settings, folder, draw=draw_views)
    say(f"run: {run.path}")


@app.command()
def settings(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that differ, e.g. epochs=50.")
    ] = None,
    method: Annotated[str, typer.Option(help="stargan or cyclegan.")] = "stargan",
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
) -> None:
    """Print all settings of a training of camera styles with their values.

    Example: reid-da camstyle settings --method cyclegan batch=4
    """
    from reid_da.config.describe import describe_settings
    from reid_da.styles.trained import load_style_settings

    given = load_style_settings(config, [f"method={method}", *(overrides or ())])
    typer.echo(describe_settings(given), nl=False)


@app.command()
def generate(
    data: DataSet,
    model: Annotated[Path | None, typer.Argument(metavar="[MODEL]", help="Run of camstyle train.")] = None,
    method: Annotated[str | None, typer.Option(help="Without a model: statistics, or histogram.")] = None,
    size: Size = None,
    output: PackOutput = None,
    jpeg: Annotated[bool, typer.Option("--jpeg", help="Write JPEG files with the published names too.")] = False,
    naming: Annotated[
        str, typer.Option(help="Names of these: 'stargan', NAME_fake_2.jpg, or 'cyclegan', NAME_fake_1to2.jpg.")
    ] = "stargan",
    folder: Annotated[Path | None, typer.Option(help="Their folder. Default: NAME_camstyle beside the images.")] = None,
    skip_broken: SkipBroken = False,
    device: Device = "auto",
) -> None:
    """Render every training image in the style of every camera into a packed file that training reads.

    To resume after an interruption, run the same command again.

    Examples: reid-da camstyle generate data/rendered/site-b runs/styles-b

    reid-da camstyle generate data/rendered/site-b --method statistics --size 64x32 --jpeg --folder runs/fakes
    """
    from reid_da.datasets import load_dataset
    from reid_da.styles import check_export, write_styled_images
    from reid_da.styles.files import NAMES, default_folder
    from reid_da.styles.open import generate_styles

    show_log()
    if (model is None) == (method is None):
        raise InputError("give either MODEL, the run of a trained generator, or --method statistics|histogram")
    if method is not None and method not in ("statistics", "histogram"):
        raise unknown_name("--method", method, ("statistics", "histogram"))
    if naming not in NAMES:
        raise unknown_name("--naming", naming, NAMES)
    dataset = load_dataset(data)
    if jpeg:
        folder = folder or default_folder(dataset.train)
        check_export(dataset.train, folder)
    elif folder is not None:
        raise InputError("--folder is where --jpeg writes files: give both, or name the packed file with --output")
    views, path = generate_styles(
        dataset,
        str(model or method),
        size=parse_size(size),
        output=output,
        on_error="skip" if skip_broken else "raise",
        device=device,
    )
    _say_where(path, len(views), views.num_cameras)
    if folder is not None:
        count = write_styled_images(views, dataset.train, folder, naming=cast("Naming", naming))
        say(f"{folder}: {count:,} files")


@app.command(name="import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Ready-made camera-style images.")],
    data: Annotated[Path | None, typer.Option(help="Their data set. Default: the parent of FOLDER.")] = None,
    size: Size = None,
    output: PackOutput = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Replace missing images by the real ones.")
    ] = False,
    skip_broken: Annotated[
        bool,
        typer.Option(
            "--skip-broken",
            help="Skip real images that cannot be decoded, and replace fakes by the real ones.",
        ),
    ] = False,
) -> None:
    """Pack ready-made camera-style images, named NAME_fake_1to2.jpg or NAME_fake_2.jpg, for training.

    Missing images are counted and named.

    Example: reid-da camstyle import data/Market-1501-v15.09.15/bounding_box_train_camstyle
    """
    from reid_da.datasets import load_dataset
    from reid_da.styles.open import generate_styles

    show_log()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of camera-style images")
    if (folder / "config.yaml").is_file():
        raise InputError(
            f"{folder}: is the folder of a run, not of images; camstyle generate DATA {folder} makes the views of a"
            " generator"
        )
    dataset = load_dataset(data or folder.parent)
    views, path = generate_styles(
        dataset,
        # a bare name could be that of a method
        str(folder.resolve()),
        size=parse_size(size),
        output=output,
        on_missing="real" if allow_missing else "raise",
        on_error="skip" if skip_broken else "raise",
    )
    _say_where(path, len(views), views.num_cameras)


def _say_where(path: Path, num_images: int, num_cameras: int) -> None:
    say(f"{path}: {num_images:,} images in the styles of {num_cameras} cameras; train with views.style={path}")


@app.command()
def check(
    data: DataSet,
    styles: Annotated[
        list[str],
        typer.Argument(
            metavar="STYLE...", help="statistics, histogram, files, runs of camstyle train, packed styles, folders."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Re-ID model: run, checkpoint or backbone; measures whether the person is preserved."),
    ] = None,
    size: Size = None,
    images: Annotated[int, typer.Option(help="Number of real images to use, at most.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the camera classifier.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help=PICTURE)] = None,
    skip_broken: SkipBroken = False,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure camera styles without labels: which camera they look like, and whether the person is preserved.

    The styles are compared with each other and with the unchanged images.

    Example: reid-da camstyle check data/rendered/site-b statistics runs/styles-b --size 64x32 --model runs/demo
    """
    from reid_da.datasets import load_dataset
    from reid_da.reporting.style_tables import draw_style_check, style_table
    from reid_da.studies.inspection import check_named_styles

    show_log()
    if images < 1:
        raise InputError(f"--images: expected at least 1, got {images}")
    check_picture(output)
    dataset = load_dataset(data)
    found = check_named_styles(
        dataset,
        styles,
        model=model,
        size=parse_size(size),
        max_images=images,
        seed=seed,
        on_error="skip" if skip_broken else "raise",
        device=device,
    )
    if output is not None:
        draw_style_check(found, output, camera_names=dataset.camera_names)
    if as_json:
        print_json(found.to_json())
        return
    show(style_table(found))
    if output is not None:
        say(f"picture: {output}", error=True)
