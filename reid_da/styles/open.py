"""From what names a camera style to views: a method, a trained run, packed views, or a folder of images."""

import logging
from functools import partial
from pathlib import Path
from typing import Literal, cast, get_args

import torch

from reid_da.datasets import Dataset, SampleTable
from reid_da.errors import InputError, first_few, unknown_name
from reid_da.images import CacheUnavailableError, FailedImage, ImageSource, open_images
from reid_da.images.ahead import available_cores, map_ahead
from reid_da.images.decode import OnError, decode_row, undecodable
from reid_da.images.on_the_fly import MAX_DISK_SHARE
from reid_da.images.pack_file import CACHE_REMEDY, check_output
from reid_da.progress import track
from reid_da.styles import (
    CameraViews,
    FileViews,
    PackedViews,
    Style,
    TransferViews,
    create_foreign_views,
    create_views,
    open_packed_views,
    pack_views,
    style_cache_path,
)
from reid_da.styles.cyclegan import CycleGANSettings
from reid_da.styles.files import OnMissing
from reid_da.styles.generator import PairTransfer
from reid_da.styles.star_networks import check_generator_size
from reid_da.styles.trained import TrainedStyles, load_generator, settings_of_run
from reid_da.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

_OUTPUT_REMEDY = "name another file with --output"

GENERATOR_BLOCK = 32
"""Images that a generator gets at a time."""


def open_style(
    style: str,
    source: ImageSource,
    table: SampleTable,
    *,
    num_cameras: int,
    on_missing: OnMissing = "raise",
    cache: Literal["auto", "always", "never"] = "auto",
    cache_dir: Path | None = None,
    on_error: OnError = "raise",
    device: str = "auto",
) -> CameraViews:
    """Camera views of the images of a training set.

    Views of a trained generator are packed when they are first asked for, as ``cache`` has it; the other kinds are
    quick enough to be made, or decoded, whenever they are wanted.

    Args:
        style: ``statistics``, ``histogram``, ``files`` (ready-made, beside the images); or a path: the run of a
            trained generator, packed views (``.pack``), or a folder of ready-made images.
        source: the N real images.
        table: what they are.
        num_cameras: number of cameras of the data set.
        on_missing: what to do about missing ready-made images.
        cache: whether to pack; see :func:`reid_da.images.open_images`.
        cache_dir: folder of packed files.
        on_error: what a ready-made image does that cannot be decoded.
        device: where a generator computes.

    Raises:
        InputError: there is no such style, or it does not fit the images.
    """
    kind = kind_of_style(style)
    if kind == "run":
        views, identity = generated_views(style, source, table, num_cameras=num_cameras, device=device)
        if cache == "never":
            return views
        path = style_cache_path(table, size=source.size, name=style_name(style), cache_dir=cache_dir)
        share = MAX_DISK_SHARE if cache == "auto" else 1.0
        try:
            return pack_views(views, table, path, style=identity, max_disk_share=share)
        except CacheUnavailableError as error:
            if cache == "always":
                raise
            logger.warning("making styles whenever they are wanted, which is slow: %s", error)
            return views
    if kind == "pack":
        return open_packed_views(Path(style), table, size=source.size, num_cameras=num_cameras)
    return create_views(
        "files" if kind == "folder" else cast(Style, style),
        source,
        table,
        num_cameras=num_cameras,
        folder=Path(style) if kind == "folder" else None,
        on_missing=on_missing,
        open_files=partial(open_images, size=source.size, cache=cache, cache_dir=cache_dir, on_error=on_error),
    )


def open_foreign_style(
    style: str,
    source: ImageSource,
    table: SampleTable,
    *,
    target: ImageSource,
    target_table: SampleTable,
    num_target_cameras: int,
    device: str = "auto",
) -> CameraViews:
    """Views of source images in the styles of the target's cameras.

    Args:
        style: ``statistics``, ``histogram``, or the run of a StarGAN that was trained on the target.
        source: the N source images.
        table: what they are.
        target: the target's training images.
        target_table: what those are.
        num_target_cameras: number of cameras of the target.
        device: where a generator computes.

    Raises:
        InputError: the style cannot restyle images of other cameras than its own.
    """
    camids = torch.tensor(table.camids)
    kind = kind_of_style(style)
    if kind == "run":
        trained = load_generator(Path(style), device=device)
        if isinstance(trained.transfer, PairTransfer):
            raise InputError(f"views.style: {style} leads from target cameras only; a StarGAN takes any image")
        _check_fit(trained, target_table, num_cameras=num_target_cameras, size=source.size)
        # beyond the target's cameras, so that no image counts as one of theirs
        return TransferViews(
            source,
            camids + num_target_cameras,
            trained.transfer,
            num_cameras=num_target_cameras,
            block_size=GENERATOR_BLOCK,
        )
    if style not in ("statistics", "histogram"):
        raise InputError(
            f"views.style: {style!r} has no source images in the target's styles; choose statistics, histogram or the "
            "run of a StarGAN that was trained on the target"
        )
    return create_foreign_views(
        cast(Literal["statistics", "histogram"], style),
        source,
        camids,
        target=target,
        target_camids=torch.tensor(target_table.camids),
        num_target_cameras=num_target_cameras,
    )


def generate_styles(
    dataset: Dataset,
    style: str,
    *,
    size: tuple[int, int] | None = None,
    output: Path | None = None,
    on_missing: OnMissing = "raise",
    on_error: OnError = "raise",
    device: str = "auto",
) -> tuple[PackedViews, Path]:
    """Make the views of all training images once and keep them in a packed file; those views, and the file.

    Args:
        dataset: whose training images.
        style: as :func:`open_style` takes it, but for packed views.
        size: height and width; that of a run's images, else 256x128, if None.
        output: the file; by default beside the packed images, where training looks for the views of a run.
        on_missing: what to do about missing ready-made images.
        on_error: what to do about images that cannot be decoded: ``raise``, or ``skip``: note those among the real
            ones as failed in the file, and let real images stand in for ready-made ones.
        device: where a generator computes.

    Raises:
        InputError: as :func:`open_style`; all images are of one camera; or ``output`` is something else than packed
            views, or cannot be written.
    """
    kind, table = kind_of_style(style), dataset.train
    if kind == "pack":
        raise InputError(f"{style}: is packed already; train with views.style={style}")
    check_cameras(table)
    if output is not None:
        check_output(output)
    if size is None:
        size = size_of_run(style) if kind == "run" else (256, 128)
    path = output or style_cache_path(table, size=size, name=style_name(style))
    pack = partial(pack_views, table=table, path=path, remedy=_OUTPUT_REMEDY if output else CACHE_REMEDY)
    if kind == "run":
        # before all images are packed, which takes a while
        trained = load_generator(Path(style), device=device)
        _check_fit(trained, table, num_cameras=dataset.num_cameras, size=size)
        generated, identity = _views_of(trained, open_images(table, size=size, on_error=on_error), table)
        return pack(generated, style=identity), path
    source = open_images(table, size=size, on_error=on_error)
    # files are decoded once, here: a pack of theirs would hold the same pixels a second time
    views = open_style(
        style,
        source,
        table,
        num_cameras=dataset.num_cameras,
        on_missing=on_missing,
        cache="never",
        on_error=on_error,
    )
    if not isinstance(views, FileViews):
        return pack(views, style=style), path
    try:
        return pack(views, style=f"files {views.fingerprint}"), path
    except CacheUnavailableError:
        raise
    except InputError as error:
        # it names the first one only
        raise _broken_files(views) or error from error


def check_cameras(table: SampleTable) -> None:
    """Make sure that styles are available.

    Raises:
        InputError: all images are of one camera.
    """
    if len(table.cameras) < 2:
        raise InputError(
            f"{table.name}: there are images of {len(table.cameras)} camera; styles need images of at least two"
        )


def _broken_files(views: FileViews) -> InputError | None:
    """Error that names the ready-made images that cannot be decoded, if there are any."""
    decode = partial(decode_row, views.table, size=views.size, interpolation="bilinear")
    workers = available_cores()
    decoded = map_ahead(decode, range(len(views.table)), workers=workers, ahead=2 * workers)
    failed = [
        image
        for image in track(decoded, "looking for broken images", total=len(views.table))
        if isinstance(image, FailedImage)
    ]
    return undecodable(views.table, failed) if failed else None


def style_name(style: str) -> str:
    """What to call a style: itself where it is a method, the last part of a path."""
    return style if kind_of_style(style) == "method" else Path(style).resolve().name


def size_of_run(run: str) -> tuple[int, int]:
    """Height and width of the images that a generator was trained on."""
    return settings_of_run(RunFolder.open(Path(run))).data.image_size


def generated_views(
    run: str | Path, source: ImageSource, table: SampleTable, *, num_cameras: int, device: str = "auto"
) -> tuple[TransferViews, str]:
    """Views that a trained generator makes whenever they are asked for, and what tells it from other generators.

    Args:
        run: folder of its training.
        source: the N real images.
        table: what they are.
        num_cameras: number of cameras of the data set.
        device: where it computes.

    Raises:
        InputError: it knows another number of cameras or not all pairs of them, the images have a size that it cannot
            work on, or the folder holds no trained generator.
    """
    trained = load_generator(Path(run), device=device)
    _check_fit(trained, table, num_cameras=num_cameras, size=source.size)
    return _views_of(trained, source, table)


def _views_of(trained: TrainedStyles, source: ImageSource, table: SampleTable) -> tuple[TransferViews, str]:
    transfer = trained.transfer
    if isinstance(transfer, PairTransfer):
        transfer = transfer.without(set(range(trained.num_cameras)) - set(table.cameras.tolist()))
    camids = torch.tensor(table.camids)
    views = TransferViews(source, camids, transfer, num_cameras=trained.num_cameras, block_size=GENERATOR_BLOCK)
    return views, f"generator {transfer.fingerprint}"


def kind_of_style(style: str) -> Literal["method", "run", "pack", "folder"]:
    """What a style's name is: that of a method, or a path.

    Raises:
        InputError: neither.
    """
    path = Path(style)
    if style in get_args(Style):
        return "method"
    if (path / "config.yaml").is_file():
        return "run"
    if path.exists():
        return "folder" if path.is_dir() else "pack"
    if path.name != style:
        raise InputError(f"{style}: no such run of camstyle train, packed styles or folder of camera-style images")
    raise unknown_name("camera style", style, get_args(Style))


def check_style(style: str, table: SampleTable, *, num_cameras: int, size: tuple[int, int]) -> None:
    """See to it that there is such a style and, if it is a run, that it fits, before hours are spent on packing images.

    Raises:
        InputError: there is no such style, or it does not fit; see :func:`open_style`.
    """
    if kind_of_style(style) == "run":
        _check_possible(load_generator(Path(style), device="cpu"), table, num_cameras=num_cameras, size=size)


def _check_fit(trained: TrainedStyles, table: SampleTable, *, num_cameras: int, size: tuple[int, int]) -> None:
    """See to it that a generator can restyle the images of a table, and warn if it was trained on others.

    Raises:
        InputError: it cannot.
    """
    _check_possible(trained, table, num_cameras=num_cameras, size=size)
    run = trained.folder
    known = trained.settings.data.dataset
    if trained.fingerprint != table.fingerprint and known is not None and not _is_of(table, known):
        logger.warning(
            "%s: its generator was trained on %s, and these are other images, in %s: unless their cameras are the same,"
            " all styles are of wrong cameras",
            run,
            known,
            table.root,
        )


def _check_possible(trained: TrainedStyles, table: SampleTable, *, num_cameras: int, size: tuple[int, int]) -> None:
    run = trained.folder
    if trained.num_cameras != num_cameras:
        raise InputError(
            f"{run}: its generator knows {trained.num_cameras} cameras, and the images are of {num_cameras}"
        )
    check_generator_size(size, what=str(run))
    if isinstance(trained.transfer, PairTransfer):
        _check_pairs(trained, trained.transfer, table)


def _check_pairs(trained: TrainedStyles, transfer: PairTransfer, table: SampleTable) -> None:
    count = len(table.cameras)
    missing = transfer.missing_pairs(table.cameras.tolist())
    if not missing:
        return
    settings = trained.settings
    named = first_few(f"{first + 1}-{second + 1}" for first, second in missing)
    assert isinstance(settings, CycleGANSettings)
    if settings.pair is not None:
        remedy = "train all of them in one run (pairs)"
    elif settings.pairs is None:
        remedy = f"train them with camstyle train --resume {trained.folder}"
    else:
        remedy = f"add them to pairs in its config.yaml, then train them with camstyle train --resume {trained.folder}"
    raise InputError(
        f"{trained.folder}: has no generators for {len(missing)} of {count * (count - 1) // 2} pairs of cameras:"
        f" {named}; {remedy}"
    )


def _is_of(table: SampleTable, dataset: Path) -> bool:
    """Whether a table is of the data set at a path: its folder, one that holds that, or a manifest in it."""
    root, known = table.root.resolve(), dataset.resolve()
    return root.is_relative_to(known) or (known.is_file() and root == known.parent)
