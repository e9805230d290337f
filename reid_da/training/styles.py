"""From what names a camera style to views: a method, a trained run, packed views, or a folder of images."""

from functools import partial
from pathlib import Path
from typing import Literal, cast, get_args

import torch

from reid_da.camstyle import (
    CameraViews,
    Style,
    TransferViews,
    create_foreign_views,
    create_views,
    open_packed_views,
    pack_views,
    style_cache_path,
)
from reid_da.camstyle.files import OnMissing
from reid_da.datasets import SampleTable
from reid_da.errors import InputError, unknown_name
from reid_da.images import ImageSource, open_images
from reid_da.images.decode import OnError
from reid_da.training.camera_styles import load_generator

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

    Views of a trained generator are packed when they are first asked for, unless ``cache`` is ``never``; the other
    kinds are quick enough to be made, or decoded, whenever they are wanted.

    Args:
        style: ``statistics``, ``histogram``, ``files`` (ready-made, beside the images); or a path: the run of a
            trained generator, packed views (``.pack``), or a folder of ready-made images.
        source: the N real images.
        table: what they are.
        num_cameras: number of cameras of the data set.
        on_missing: what to do about missing ready-made images.
        cache: whether to pack.
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
        path = style_cache_path(table, size=source.size, name=Path(style).resolve().name, cache_dir=cache_dir)
        return pack_views(views, table, path, style=identity)
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
        transfer, _, num_cameras = load_generator(Path(style), device=device)
        _check_cameras(style, num_cameras, num_target_cameras)
        # beyond the target's cameras, so that no image counts as one of theirs
        return TransferViews(
            source,
            camids + num_target_cameras,
            transfer,
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
        InputError: it knows another number of cameras, or the folder holds no trained generator.
    """
    transfer, settings, known = load_generator(Path(run), device=device)
    _check_cameras(run, known, num_cameras)
    camids = torch.tensor(table.camids)
    views = TransferViews(source, camids, transfer, num_cameras=num_cameras, block_size=GENERATOR_BLOCK)
    return views, f"{settings.method} {transfer.fingerprint}"


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


def _check_cameras(run: str | Path, known: int, wanted: int) -> None:
    if known != wanted:
        raise InputError(f"{run}: its generator knows {known} cameras, and the images are of {wanted}")
