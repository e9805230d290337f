"""Every way in which an image file can be damaged is told from the others, and whole files are left in peace."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reid_da.datasets import image_files
from reid_da.datasets.image_files import ImageFile, image_findings, image_sizes, inspect_image, inspect_images
from reid_da.errors import InputError


def noise(width: int = 48, height: int = 96, *, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def bomb(width: int, height: int) -> bytes:
    """The first bytes of a PNG file that claims to be as large as given."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


JPEG = encoded(noise(), "JPEG")
PROGRESSIVE = encoded(noise(), "JPEG", progressive=True)
PNG = encoded(noise(), "PNG")


def inspected(folder: Path, content: bytes, name: str = "image.jpg") -> ImageFile:
    path = folder / name
    path.write_bytes(content)
    return inspect_image(path)


@pytest.mark.parametrize(
    ("content", "image_format"), [(JPEG, "JPEG"), (PROGRESSIVE, "JPEG"), (PNG, "PNG"), (encoded(noise(), "BMP"), "BMP")]
)
def test_whole_image(tmp_path: Path, content: bytes, image_format: str) -> None:
    file = inspected(tmp_path, content)

    assert file.fault is None
    assert (file.format, file.mode, file.width, file.height, file.is_rotated) == (image_format, "RGB", 48, 96, False)


def test_bytes_behind_the_end_of_a_jpeg_do_no_harm(tmp_path: Path) -> None:
    assert inspected(tmp_path, JPEG + bytes(100)).fault is None
    assert inspected(tmp_path, JPEG + b"maker's own data" + bytes(100)).fault is None


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_mode_is_that_of_the_file_and_not_of_the_draft(tmp_path: Path, mode: str) -> None:
    assert inspected(tmp_path, encoded(noise(mode=mode), "JPEG")).mode == mode


def test_jpeg_with_a_second_picture_counts_as_jpeg(tmp_path: Path) -> None:
    content = encoded(noise(), "MPO", save_all=True, append_images=[noise()])

    assert inspected(tmp_path, content).format == "JPEG"


@pytest.mark.parametrize("content", [JPEG, PROGRESSIVE])
@given(data=st.data())
def test_no_part_of_a_jpeg_passes_as_whole(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(3, len(content) - 1))

    file = inspected(tmp_path_factory.getbasetemp(), content[:cut])

    assert file.fault in ("truncated", "damaged")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "empty"),
        (b"<html>404 not found</html>", "not-an-image"),
        (b"\0" * 4096, "not-an-image"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (JPEG[: len(JPEG) // 2] + b"\0" * (len(JPEG) // 2), "truncated"),
        (PROGRESSIVE[:-200] + bytes(200), "truncated"),
        (JPEG[:-2], "truncated"),
        (PROGRESSIVE[: len(PROGRESSIVE) // 2], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (encoded(noise(), "BMP")[:-100], "truncated"),
        (PNG[:8] + b"?" * 100, "damaged"),
        (PNG.replace(b"IDAT", b"XXXX"), "damaged"),
        (bomb(10_000, 10_000), "huge"),
        (bomb(60_000, 60_000), "huge"),
    ],
)
def test_each_fault(tmp_path: Path, content: bytes, fault: str) -> None:
    # through the threads, where Pillow's warning of large images must not get lost
    path = tmp_path / "image.jpg"
    path.write_bytes(content)

    assert [file.fault for file in inspect_images([path, path], num_workers=2)] == [fault, fault]


def test_missing_file_and_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()

    assert inspect_image(tmp_path / "absent.jpg").fault == "missing"
    assert inspect_image(tmp_path / "folder.jpg") == ImageFile(fault="unreadable", detail="is a folder")


def test_lack_of_memory_is_not_blamed_on_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)

    with pytest.raises(MemoryError):
        inspected(tmp_path, JPEG)


def test_file_too_large_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_BYTES", len(JPEG) - 1)

    assert inspected(tmp_path, JPEG).fault == "huge"
    assert inspected(tmp_path, JPEG[:-1]).fault == "truncated"


@pytest.mark.parametrize(("orientation", "size"), [(1, (48, 96)), (3, (48, 96)), (6, (96, 48)), (8, (96, 48))])
def test_rotation_by_exif(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation

    file = inspected(tmp_path, encoded(noise(), "JPEG", exif=exif))

    assert file.is_rotated == (orientation != 1)
    assert (file.width, file.height) == size


def test_digest_tells_contents_apart(tmp_path: Path) -> None:
    first, copy, other = (
        inspected(tmp_path, content, name) for content, name in ((JPEG, "a"), (JPEG, "b"), (JPEG[:-1], "c"))
    )

    assert first.digest == copy.digest
    assert first.digest != other.digest


@pytest.mark.parametrize("num_workers", [None, 1, 3])
def test_results_keep_the_order_of_the_paths(tmp_path: Path, num_workers: int | None) -> None:
    widths = [40 + index for index in range(100)]
    paths = [tmp_path / f"{width}.png" for width in widths]
    for path, width in zip(paths, widths, strict=True):
        noise(width, 50).save(path)

    assert [file.width for file in inspect_images(paths, num_workers=num_workers)] == widths
    assert image_sizes(paths, num_workers=num_workers).tolist() == [[50, width] for width in widths]


def test_sizes_of_unreadable_files_are_zero(tmp_path: Path) -> None:
    contents = {
        "whole.jpg": JPEG,
        "cut.jpg": JPEG[: len(JPEG) // 2],
        "text.jpg": b"text",
        "bomb.png": bomb(10**5, 10**5),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)

    sizes = image_sizes([tmp_path / name for name in (*contents, "absent.jpg")])

    # the header of a file that is cut short is whole
    assert sizes.tolist() == [[96, 48], [96, 48], [0, 0], [0, 0], [0, 0]]


def test_no_files() -> None:
    assert inspect_images([]) == []
    assert image_sizes([]).shape == (0, 2)


@pytest.mark.parametrize("function", [inspect_images, image_sizes])
def test_number_of_workers_is_checked(function: object) -> None:
    with pytest.raises(InputError, match="num_workers must be at least 1, got 0"):
        function([], num_workers=0)


GOOD = {"format": "JPEG", "mode": "RGB", "width": 64, "height": 128}


@pytest.mark.parametrize(
    ("name", "changes", "code", "severity"),
    [
        ("a.jpg", {"fault": "missing"}, "missing-files", "problem"),
        ("a.jpg", {"fault": "unreadable"}, "unreadable-files", "problem"),
        ("a.jpg", {"fault": "empty"}, "empty-files", "problem"),
        ("a.jpg", {"fault": "not-an-image"}, "not-images", "problem"),
        ("a.jpg", {"fault": "truncated"}, "truncated-images", "problem"),
        ("a.jpg", {"fault": "damaged"}, "damaged-images", "problem"),
        ("a.jpg", {"fault": "huge"}, "huge-images", "problem"),
        ("a.png", {}, "format-mismatch", "warning"),
        ("a.jpg", {"format": "PNG"}, "format-mismatch", "warning"),
        ("a.jpg", {"width": 31}, "small-images", "warning"),
        ("a.jpg", {"width": 20, "height": 31}, "small-images", "warning"),
        ("a.jpg", {"width": 129}, "wide-images", "warning"),
        ("a.jpg", {"mode": "I;16"}, "deep-images", "problem"),
        ("a.jpg", {"mode": "F"}, "deep-images", "problem"),
        ("a.jpg", {"mode": "L"}, "not-rgb-images", "note"),
        ("a.jpg", {"is_rotated": True}, "rotated-images", "note"),
    ],
)
def test_each_finding_about_a_file(name: str, changes: dict[str, object], code: str, severity: str) -> None:
    sound = ImageFile(**GOOD)
    odd = ImageFile(**{**GOOD, **changes})

    (finding,) = image_findings(["sound.jpg", name, "b/" + name], [sound, odd, odd])

    assert (finding.code, finding.severity, finding.count) == (code, severity, 2)
    assert [example.split()[0] for example in finding.examples] == [name, "b/" + name]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("a.jpg", {}),
        ("a.JPEG", {}),
        ("no-suffix", {}),
        ("a.png", {"format": "PNG"}),
        ("a.tif", {"format": "TIFF"}),
        ("a.jpg", {"width": 32, "height": 32}),
    ],
)
def test_no_finding_about_a_sound_file(name: str, changes: dict[str, object]) -> None:
    assert image_findings([name], [ImageFile(**{**GOOD, **changes})]) == []


def test_detail_is_among_the_examples() -> None:
    (finding,) = image_findings(["a.jpg"], [ImageFile(fault="unreadable", detail="Permission denied")])

    assert finding.examples == ("a.jpg (Permission denied)",)
