"""Decoding against plain Pillow, and every way in which a file can be no good."""

import errno
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDoneError
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid_da.errors import InputError
from reid_da.images import decode
from reid_da.images.decode import ImageError, UnreadableImageError, check_settings, decode_image, decode_row
from reid_da.images.source import FailedImage

SIZE = (32, 16)


def gradient(height: int = 24, width: int = 10) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack((rows * 9, columns * 20, rows + columns), axis=2).astype(np.uint8))


def reason(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(path, size=SIZE, interpolation="bilinear")
    return str(caught.value)


@pytest.mark.parametrize(
    ("interpolation", "resampling"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]
)
@pytest.mark.parametrize("size", [(256, 128), (48, 20), (128, 64)])
def test_equals_pillow(rendered: Path, interpolation: str, resampling: Image.Resampling, size: tuple[int, int]) -> None:
    for path in sorted((rendered / "site-b" / "query").glob("*.jpg"))[:5]:
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB").resize((size[1], size[0]), resampling))
        np.testing.assert_array_equal(decode_image(path, size=size, interpolation=interpolation), expected)


def test_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter clockwise to see it upright
    gradient(10, 24).save(tmp_path / "lying.png", exif=exif)
    Image.fromarray(np.rot90(np.asarray(gradient(10, 24)), k=-1)).save(tmp_path / "upright.png")
    lying, upright = (
        decode_image(tmp_path / name, size=SIZE, interpolation="bilinear") for name in ("lying.png", "upright.png")
    )
    np.testing.assert_array_equal(lying, upright)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.tif"
    gradient().convert(mode).save(path)
    pixels = decode_image(path, size=(24, 10), interpolation="bilinear")
    assert pixels.shape == (24, 10, 3)
    if mode in ("RGBA", "CMYK"):
        np.testing.assert_allclose(pixels.astype(int), np.asarray(gradient()).astype(int), atol=2)
    if mode in ("L", "LA", "1"):
        assert (pixels == pixels[:, :, :1]).all()


def test_files_that_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    assert reason(path) == "No such file or directory"
    path.touch()
    assert reason(path) == "empty"
    path.write_text("<html>404</html>")
    assert reason(path) == "not an image"


def test_truncated_and_damaged_files(tmp_path: Path, rendered: Path) -> None:
    content = next((rendered / "site-a" / "query").glob("*.jpg")).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    assert "truncated" in reason(tmp_path / "cut.jpg")
    gradient().save(tmp_path / "broken.png")
    content = bytearray((tmp_path / "broken.png").read_bytes())
    content[-30] ^= 0xFF
    (tmp_path / "broken.png").write_bytes(content)
    assert reason(tmp_path / "broken.png")


def test_more_than_eight_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 10), 4000, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert reason(tmp_path / "deep.png") == "more than 8 bits per channel (mode I;16)"
    Image.fromarray(np.zeros((20, 10), dtype=np.float32)).save(tmp_path / "float.tif")
    assert "mode F" in reason(tmp_path / "float.tif")


def png_header(width: int, height: int) -> bytes:
    """PNG that promises an image of this size and holds none of it."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT"]
    framed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "pixels" in reason(tmp_path / "bomb.png")


def test_row_of_a_table(make_table) -> None:
    table = make_table(2)
    table.path(1).write_bytes(b"")
    expected = decode_image(table.path(0), size=SIZE, interpolation="bicubic")
    np.testing.assert_array_equal(decode_row(table, 0, size=SIZE, interpolation="bicubic"), expected)
    assert decode_row(table, 1, size=SIZE, interpolation="bicubic") == FailedImage(index=1, reason="empty")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (0, 8)}, "size must be .* got 0x8"),
        ({"interpolation": "nearest"}, "interpolation must be bilinear or bicubic, got 'nearest'"),
        ({"on_error": "ignore"}, "on_error must be raise or skip, got 'ignore'"),
        ({"num_workers": 0}, "num_workers must be from 1 to 1024, got 0"),
        ({"num_workers": 100_000}, "num_workers must be from 1 to 1024, got 100000"),
        ({"size": (10**9, 10**9)}, "size must be of at most 89,478,485 pixels, got 1000000000x1000000000"),
    ],
)
def test_wrong_settings(changes: dict, message: str) -> None:
    settings = {"size": (8, 4), "interpolation": "bilinear", "on_error": "raise", "num_workers": None, **changes}
    with pytest.raises(InputError, match=message):
        check_settings(settings.pop("size"), **settings)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_faults_of_the_moment_are_told_from_those_of_the_bytes(make_table, monkeypatch, number: int) -> None:
    table = make_table(1)
    monkeypatch.setattr(decode, "read_regular", failing(number))
    failed = decode_row(table, 0, size=SIZE, interpolation="bilinear")
    assert failed == FailedImage(index=0, reason=os.strerror(number), is_passing=True)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
def test_what_this_process_lacks_is_no_fault_of_an_image(make_table, monkeypatch, number: int) -> None:
    table = make_table(1)
    monkeypatch.setattr(decode, "read_regular", failing(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        decode_row(table, 0, size=SIZE, interpolation="bilinear")


def failing(number: int):
    def fail(*_: object, **__: object) -> bytes:
        raise OSError(number, os.strerror(number))

    return fail


def test_devices_pipes_and_huge_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(2**40)
    for name, why in (("zero", "not a regular file"), ("pipe", "not a regular file"), ("huge", "bytes, more than")):
        with pytest.raises(UnreadableImageError, match=why):
            decode_image(tmp_path / f"{name}.jpg", size=SIZE, interpolation="bilinear")


def test_large_images_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_LARGE_PIXELS", 100)
    gradient().save(tmp_path / "large.png")
    Image.new("RGB", (10, 10)).save(tmp_path / "small.png")
    with decode._large_image, ThreadPoolExecutor(1) as pool:
        small = pool.submit(decode_image, tmp_path / "small.png", size=SIZE, interpolation="bilinear")
        large = pool.submit(decode_image, tmp_path / "large.png", size=SIZE, interpolation="bilinear")
        assert small.result(timeout=10).shape == (*SIZE, 3)
        with pytest.raises(NotDoneError):
            large.result(timeout=0.1)
        decode._large_image.release()
        assert large.result(timeout=10).shape == (*SIZE, 3)
        decode._large_image.acquire()
