"""Files with the published names, which the reader of such files finds complete."""

import errno
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reid_da import locks
from reid_da.datasets import SampleTable
from reid_da.errors import InputError
from reid_da.images import PackedImages
from reid_da.locks import lock_file
from reid_da.styles import TransferViews, export, find_styled_images, write_styled_images
from reid_da.styles.files import default_folder

CAMIDS = [0, 14, 2, 0]


def grey_of_camera(images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
    return (10 * to_camids).to(torch.uint8)[:, None, None, None].expand_as(images)


@pytest.fixture
def table(make_table: Callable[..., SampleTable]) -> SampleTable:
    return make_table(CAMIDS)


@pytest.fixture
def views(make_source: Callable[..., PackedImages]) -> TransferViews:
    source = make_source(np.zeros((4, 8, 4, 3), dtype=np.uint8), failed=[3])
    return TransferViews(source, torch.tensor(CAMIDS), grey_of_camera, num_cameras=15)


@pytest.mark.parametrize(
    ("naming", "name"),
    [("cyclegan", "0000_c1s1_000000_00_fake_1to15.jpg"), ("stargan", "0000_c1s1_000000_00_fake_15.jpg")],
)
def test_names_and_pixels(views: TransferViews, table: SampleTable, naming: str, name: str) -> None:
    folder = default_folder(table)
    assert write_styled_images(views, table, folder, naming=naming) == 6  # type: ignore[arg-type]
    assert len(list(folder.iterdir())) == 6
    assert np.abs(np.asarray(Image.open(folder / name)).astype(int) - 140).max() <= 2
    whole = table.select([0, 1, 2])
    styled = find_styled_images(whole, folder, num_cameras=15)
    assert not styled.missing
    assert styled.path(1, 2) is not None


def test_folder_that_exists(views: TransferViews, table: SampleTable, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already; remove it, or name another folder"):
        write_styled_images(views, table, tmp_path, naming="stargan")


def test_folder_that_cannot_be_made(views: TransferViews, table: SampleTable, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_styled_images(views, table, tmp_path / "file" / "styles", naming="stargan")


def test_an_interruption_waits_for_the_threads_and_leaves_nothing(
    views: TransferViews, table: SampleTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(written: Iterator[int], *_: object, **__: object) -> Iterator[int]:
        yield next(written)
        raise KeyboardInterrupt

    def slow(*arguments: Any, **options: Any) -> int:
        begun.append(arguments)
        time.sleep(0.1 if len(begun) > 1 else 0)
        finished.append(write(*arguments, **options))
        return finished[-1]

    begun: list[object] = []
    finished: list[int] = []
    write = export._write_views
    monkeypatch.setattr(export, "_write_views", slow)
    monkeypatch.setattr(export, "track", interrupted)
    monkeypatch.setattr(export, "available_cores", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        write_styled_images(views, table, tmp_path / "fakes", naming="stargan")
    assert 1 < len(begun) == len(finished)
    assert not list(tmp_path.glob(".fakes.*"))


def leftover(folder: Path) -> Path:
    killed = folder.with_name(f".{folder.name}.abcd.tmp")
    killed.mkdir()
    (killed / "0000_c1s1_000000_00_fake_3.jpg").write_text("")
    return killed


def test_leftovers_of_a_killed_process_are_removed(views: TransferViews, table: SampleTable, tmp_path: Path) -> None:
    killed, other = leftover(tmp_path / "fakes"), leftover(tmp_path / "other")
    write_styled_images(views, table, tmp_path / "fakes", naming="stargan")
    assert not killed.exists()
    assert other.exists()
    assert not (tmp_path / ".fakes.lock").exists()


def test_what_another_process_writes_is_left_alone(views: TransferViews, table: SampleTable, tmp_path: Path) -> None:
    living = leftover(tmp_path / "fakes")
    with lock_file(tmp_path / ".fakes.lock"):
        with pytest.raises(InputError, match="fakes: is being written by another process"):
            write_styled_images(views, table, tmp_path / "fakes", naming="stargan")
        assert list(living.iterdir())


def test_without_locks_nothing_is_taken_for_a_leftover(
    views: TransferViews, table: SampleTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    living = leftover(tmp_path / "fakes")
    assert write_styled_images(views, table, tmp_path / "fakes", naming="stargan") == 6
    assert living.exists()


def test_an_error_leaves_no_folder(table: SampleTable, make_source: Callable[..., PackedImages]) -> None:
    def broken(images: Tensor, from_camids: Tensor, to_camids: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    source = make_source(np.zeros((4, 8, 4, 3), dtype=np.uint8))
    views = TransferViews(source, torch.tensor(CAMIDS), broken, num_cameras=15)
    with pytest.raises(RuntimeError, match="out of memory"):
        write_styled_images(views, table, table.root / "styles", naming="stargan")
    assert not list(table.root.glob("*styles*"))
