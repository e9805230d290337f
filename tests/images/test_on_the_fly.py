"""Decoding on the fly gives what the pack gives, and the choice between them."""

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from reid_da.errors import InputError
from reid_da.images import CacheUnavailableError, FailedImage, OnTheFlyImages, PackedImages, open_images, pack_images

SIZE = (24, 12)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_equals_the_pack(make_table, tmp_path: Path, interpolation: str) -> None:
    table = make_table(9)
    packed = pack_images(table, size=SIZE, interpolation=interpolation, cache_dir=tmp_path)
    images = OnTheFlyImages(table, size=SIZE, interpolation=interpolation, num_workers=3)
    assert (len(images), images.size, images.failed) == (9, SIZE, ())
    index = torch.tensor([8, 0, 3, 3, 1])
    batch = images.gather(index)
    assert torch.equal(batch, packed.gather(index))
    assert torch.equal(batch, images.gather(index, torch.zeros_like(index)))
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert images.gather(index[:0]).shape == (0, 3, *SIZE)


def test_wrong_indices(make_table) -> None:
    images = OnTheFlyImages(make_table(2), size=SIZE)
    with pytest.raises(IndexError):
        images.gather(torch.tensor([-1]))
    with pytest.raises(IndexError):
        images.gather(torch.tensor([0]), torch.tensor([1]))


def test_bad_images(make_table, caplog: pytest.LogCaptureFixture) -> None:
    table = make_table(4)
    whole = OnTheFlyImages(table, size=SIZE).gather(torch.arange(4))
    for row in (2, 1):
        table.path(row).write_text("no image")
    strict = OnTheFlyImages(table, size=SIZE)
    assert torch.equal(strict.gather(torch.tensor([0, 3])), whole[[0, 3]])
    with pytest.raises(InputError, match=rf"1 image of 4 cannot be decoded: {table.path(2)} \(not an image\)"):
        strict.gather(torch.tensor([0, 2]))

    lenient = OnTheFlyImages(table, size=SIZE, on_error="skip")
    for _ in range(2):
        batch = lenient.gather(torch.tensor([3, 2, 1]))
        assert torch.equal(batch[0], whole[3])
        assert not batch[1:].any()
    assert lenient.failed == tuple(FailedImage(index=row, reason="not an image") for row in (1, 2))
    assert [record.getMessage() for record in caplog.records] == [
        f"{table.path(row)}: zeros in its place: not an image" for row in (2, 1)
    ]


def test_choice(make_table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    table = make_table(3)
    folder = tmp_path / "cache"
    assert isinstance(open_images(table, size=SIZE, cache="never", cache_dir=folder), OnTheFlyImages)
    assert not folder.exists()

    nbytes = 3 * 24 * 12 * 3 + 3 * 4
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * nbytes - 1))
    caplog.set_level(logging.WARNING)
    assert isinstance(open_images(table, size=SIZE, cache_dir=folder), OnTheFlyImages)
    assert "decoding on the fly: " in caplog.text
    assert isinstance(open_images(table, size=SIZE, cache="always", cache_dir=folder), PackedImages)
    # now that it is there it needs no room
    assert isinstance(open_images(table, size=SIZE, cache_dir=folder), PackedImages)


def test_folder_that_cannot_be_written(make_table, tmp_path: Path) -> None:
    table = make_table(1)
    (tmp_path / "file").touch()
    assert isinstance(open_images(table, size=SIZE, cache_dir=tmp_path / "file"), OnTheFlyImages)
    with pytest.raises(CacheUnavailableError, match="cannot write the cache of images"):
        open_images(table, size=SIZE, cache="always", cache_dir=tmp_path / "file")


def test_bad_images_are_no_reason_to_decode_on_the_fly(make_table, tmp_path: Path) -> None:
    table = make_table(2)
    table.path(0).write_bytes(b"")
    with pytest.raises(InputError, match="cannot be decoded"):
        open_images(table, size=SIZE, cache_dir=tmp_path)
    assert len(open_images(table, size=SIZE, cache_dir=tmp_path, on_error="skip").failed) == 1


def test_wrong_arguments(make_table) -> None:
    table = make_table(1)
    with pytest.raises(InputError, match="unknown cache 'allways' \\(did you mean 'always'"):
        open_images(table, cache="allways")
    with pytest.raises(InputError, match="there are no images"):
        open_images(table.select([]), cache="never")
    with pytest.raises(InputError, match="num_workers"):
        OnTheFlyImages(table, num_workers=0)
