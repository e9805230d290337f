"""The packed cache of a table: its pixels, when it is made anew, and what bad files do to it."""

import logging
import os
import pwd
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reid_da.datasets import SampleTable, load_dataset
from reid_da.errors import InputError
from reid_da.images import (
    CacheUnavailableError,
    FailedImage,
    PackedImages,
    decode,
    default_cache_dir,
    pack,
    pack_images,
    usable_rows,
)

SIZE = (24, 12)


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_equals_pillow_on_the_rendered_set(rendered: Path, tmp_path: Path) -> None:
    table = load_dataset(rendered / "site-b").query.select(range(40))
    images = pack_images(table, size=(64, 32), cache_dir=tmp_path)
    assert (len(images), images.size, images.num_views, images.failed) == (40, (64, 32), 1, ())
    index = torch.tensor([39, 0, 7, 7])
    batch = images.gather(index)
    assert batch.shape == (4, 3, 64, 32)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for row, image in zip(index.tolist(), batch, strict=True):
        with Image.open(table.path(row)) as file:
            expected = np.asarray(file.convert("RGB").resize((32, 64), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


def packs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pack"))


def rebuilt_because(caplog: pytest.LogCaptureFixture) -> list[str]:
    texts = [record.getMessage().split(".pack: ")[1] for record in caplog.records if ".pack: " in record.getMessage()]
    caplog.clear()
    return ["there is none" if text.startswith("building") else text.partition("image cache: ")[2] for text in texts]


def test_is_used_again_until_something_changes(make_table, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = make_table(4)
    pack_images(table, size=SIZE, cache_dir=tmp_path)
    assert rebuilt_because(caplog) == ["there is none"]
    pack_images(table, size=SIZE, cache_dir=tmp_path)
    assert rebuilt_because(caplog) == []
    assert packs(tmp_path) == [f"photos-train-{table.fingerprint}-24x12-bilinear.pack"]

    Image.new("RGB", (30, 60), "red").save(table.path(2))
    images = pack_images(table, size=SIZE, cache_dir=tmp_path)
    assert rebuilt_because(caplog) == ["it was made of other image files"]
    assert images.gather(torch.tensor([2]))[0, 0].min() > 250

    status = table.path(1).stat()
    os.utime(table.path(1), ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    pack_images(table, size=SIZE, cache_dir=tmp_path)
    assert rebuilt_because(caplog) == ["it was made of other image files"]
    table.path(1).write_bytes(table.path(1).read_bytes() + b"more")
    os.utime(table.path(1), ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    pack_images(table, size=SIZE, cache_dir=tmp_path)
    assert rebuilt_because(caplog) == ["it was made of other image files"]
    assert len(packs(tmp_path)) == 1


def test_other_tables_sizes_and_interpolations_have_packs_of_their_own(make_table, tmp_path: Path) -> None:
    table = make_table(4)
    for size, interpolation in (((24, 12), "bilinear"), ((24, 12), "bicubic"), ((12, 24), "bilinear")):
        assert pack_images(table, size=size, interpolation=interpolation, cache_dir=tmp_path).size == size
    pack_images(table.select([2, 1]), size=SIZE, cache_dir=tmp_path)
    assert len(packs(tmp_path)) == 4


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:], "1 of its images are damaged"),
        (lambda content: content[:-5], "it is cut off"),
        (lambda content: b"", "it is cut off"),
    ],
)
def test_damage_is_found_and_mended(make_table, tmp_path: Path, caplog, damage, reason: str) -> None:
    table = make_table(3)
    whole = pack_images(table, size=SIZE, cache_dir=tmp_path).pixels.copy()
    path = tmp_path / packs(tmp_path)[0]
    path.write_bytes(damage(path.read_bytes()))
    caplog.clear()
    np.testing.assert_array_equal(pack_images(table, size=SIZE, cache_dir=tmp_path).pixels, whole)
    assert rebuilt_because(caplog) == [reason]


def test_bad_images(make_table, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = make_table(8)
    good = pack_images(table, size=SIZE, cache_dir=tmp_path).pixels.copy()
    for row in (1, 3, 4, 6):
        table.path(row).write_bytes(b"")
    message = (
        rf"^photos/train: 4 images of 8 cannot be decoded: {table.path(1)} \(empty\), {table.path(3)} \(empty\),"
        rf" {table.path(4)} \(empty\) and 1 more; repair or remove them, or leave them out: "
        r"data.on_error=skip in settings, --skip-broken of camstyle$"
    )
    with pytest.raises(InputError, match=message):
        pack_images(table, size=SIZE, cache_dir=tmp_path)
    caplog.clear()

    images = pack_images(table, size=SIZE, cache_dir=tmp_path, on_error="skip")
    assert [record.getMessage() for record in caplog.records] == [
        f"{table.path(row)}: left out: empty" for row in (1, 3, 4, 6)
    ]
    assert images.failed == tuple(FailedImage(index=row, reason="empty") for row in (1, 3, 4, 6))
    assert usable_rows(images).tolist() == [0, 2, 5, 7]
    np.testing.assert_array_equal(images.pixels[[0, 2, 5, 7]], good[[0, 2, 5, 7]])
    assert not images.gather(torch.tensor([1, 3, 4, 6])).any()

    with pytest.raises(InputError, match="4 images of 8"):
        pack_images(table, size=SIZE, cache_dir=tmp_path)


def test_missing_image_and_empty_table(make_table, tmp_path: Path) -> None:
    table = make_table(3)
    table.path(2).unlink()
    with pytest.raises(InputError, match=r"1 image of 3 cannot be decoded: .*002.jpg \(No such file or directory\);"):
        pack_images(table, size=SIZE, cache_dir=tmp_path)
    with pytest.raises(InputError, match="photos/train: there are no images to pack"):
        pack_images(table.select([]), size=SIZE, cache_dir=tmp_path)
    with pytest.raises(InputError, match="size must be"):
        pack_images(table, size=(-1, 4), cache_dir=tmp_path)


def views() -> PackedImages:
    return PackedImages(np.arange(4 * 3 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 3, 2, 2, 3))


def test_views() -> None:
    images = views()
    batch = images.gather(torch.tensor([3, 0, 3]), torch.tensor([1, 2, 0]))
    for image, (row, view) in zip(batch, ((3, 1), (0, 2), (3, 0)), strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), images.pixels[row, view])
    with pytest.raises(ValueError, match="each image has 3 views"):
        images.gather(torch.tensor([0]))
    with pytest.raises(IndexError, match=r"views from 3 to 3 leaves the range 0\.\.2"):
        images.gather(torch.tensor([0]), torch.tensor([3]))


def test_wrong_indices() -> None:
    images = PackedImages(views().pixels[:, :1])
    assert images.gather(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 2, 2)
    for index in ([-1], [0, 4]):
        with pytest.raises(IndexError, match=r"leaves the range 0\.\.3"):
            images.gather(torch.tensor(index))
    with pytest.raises(TypeError, match="int64 vector, got torch.int32"):
        images.gather(torch.tensor([0], dtype=torch.int32))
    with pytest.raises(TypeError, match=r"of shape \(1, 1\)"):
        images.gather(torch.tensor([[0]]))
    with pytest.raises(ValueError, match=r"expected uint8 pixels \(N, V, H, W, 3\), got uint8 \(4, 2, 2, 3\)"):
        PackedImages(views().pixels[:, 0])


def test_batches_are_copies() -> None:
    images = PackedImages(np.ones((2, 1, 2, 2, 3), dtype=np.uint8))
    images.gather(torch.tensor([0])).zero_()
    assert images.pixels.all()


def test_default_folder(make_table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make_table(1)
    other = SampleTable.from_rows("other", tmp_path / "elsewhere" / "photos", [])
    monkeypatch.delenv("REID_DA_CACHE", raising=False)
    assert default_cache_dir(table) == table.root / ".reid-da-cache"

    monkeypatch.setenv("REID_DA_CACHE", str(tmp_path / "cache"))
    named = default_cache_dir(table)
    assert named.parent == tmp_path / "cache"
    assert named.name.startswith("photos-")
    assert named != default_cache_dir(other)
    pack_images(table, size=SIZE)
    assert len(packs(named)) == 1

    monkeypatch.delenv("REID_DA_CACHE")
    monkeypatch.setattr(os, "access", lambda folder, _: folder != table.root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir(table).parent == tmp_path / "xdg" / "reid-da"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_dir(table).parent == tmp_path / "home" / ".cache" / "reid-da"


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of a user without a home, who must not write to the data."""

    def no_such_user(uid: int) -> None:
        raise KeyError(uid)

    for name in ("REID_DA_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_such_user)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir(mode=0o777)
    pack._temporary_cache_dir.cache_clear()
    return tmp_path / "tmp"


def test_without_a_home_there_is_the_temporary_folder(make_table, homeless: Path, caplog) -> None:
    table = make_table(2)
    for _ in range(2):
        pack_images(table, size=SIZE)
    assert len(packs(homeless / f"reid-da-{os.getuid()}" / default_cache_dir(table).name)) == 1
    assert stat.S_IMODE((homeless / f"reid-da-{os.getuid()}").stat().st_mode) == 0o700
    assert caplog.text.count("no home folder: images are packed in") == 1


@pytest.mark.parametrize("plant", ["link", "open"])
def test_a_planted_temporary_folder_is_not_used(make_table, homeless: Path, plant: str) -> None:
    place = homeless / f"reid-da-{os.getuid()}"
    if plant == "link":
        (homeless / "elsewhere").mkdir()
        place.symlink_to(homeless / "elsewhere")
    else:
        place.mkdir()
        place.chmod(0o777)
    with pytest.raises(CacheUnavailableError, match="belongs to somebody else; name a folder for the cache"):
        default_cache_dir(make_table(1))


def test_an_unknown_home_is_refused(make_table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REID_DA_CACHE", "~nobody-of-this-name/cache")
    with pytest.raises(InputError, match="REID_DA_CACHE=~nobody-of-this-name/cache: there is no such home folder"):
        default_cache_dir(make_table(1))


def test_a_file_that_can_be_read_again_is_no_longer_left_out(make_table, tmp_path: Path, monkeypatch) -> None:
    table = make_table(3)
    whole = pack_images(table, size=SIZE, cache_dir=tmp_path / "whole").pixels
    read_regular, denied = decode.read_regular, [table.path(1)]

    def read(path: Path, *, limit: int) -> bytes:
        if path in denied:
            raise PermissionError(13, "Permission denied", str(path))
        return read_regular(path, limit=limit)

    monkeypatch.setattr(decode, "read_regular", read)
    images = pack_images(table, size=SIZE, cache_dir=tmp_path, on_error="skip")
    assert images.failed == (FailedImage(index=1, reason="Permission denied", is_passing=True),)
    with pytest.raises(InputError, match="1 image of 3 cannot be decoded: .*Permission denied"):
        pack_images(table, size=SIZE, cache_dir=tmp_path)
    denied.clear()
    images = pack_images(table, size=SIZE, cache_dir=tmp_path, on_error="skip")
    assert images.failed == ()
    np.testing.assert_array_equal(images.pixels, whole)
