"""The packed file: what is written is read, and nothing else is taken for it."""

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reid_da import locks
from reid_da.errors import InputError
from reid_da.images import pack_file
from reid_da.images.pack_file import (
    CacheUnavailableError,
    UnusablePackError,
    check_output,
    open_or_build,
    read_pack,
    write_pack,
)
from reid_da.images.partial_pack import PartialPack
from reid_da.images.source import FailedImage

SHAPE = (5, 2, 4, 3, 3)
RECIPE = {"images": "abc", "interpolation": "bilinear"}


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8)


def pick(images, rows: Sequence[int]) -> list:
    """Of fewer images than asked for those that there are."""
    return [images[row] for row in rows if row < len(images)]


def write(path: Path, images=None) -> None:
    write_pack(path, lambda rows: pick(pixels() if images is None else images, rows), shape=SHAPE, recipe=RECIPE)


def unusable(path: Path, **changes) -> str:
    with pytest.raises(UnusablePackError) as caught:
        read_pack(path, shape=changes.pop("shape", SHAPE), recipe=RECIPE | changes, num_workers=2)
    return str(caught.value)


def test_round_trip(tmp_path: Path) -> None:
    images = list(pixels())
    images[3] = FailedImage(index=3, reason="cut off")
    write(tmp_path / "a.pack", images=images)
    pack = read_pack(tmp_path / "a.pack", shape=SHAPE, recipe=RECIPE, num_workers=2)
    expected = pixels()
    expected[3] = 0
    np.testing.assert_array_equal(pack.pixels, expected)
    assert not pack.pixels.flags.writeable
    assert pack.failed == (FailedImage(index=3, reason="cut off"),)
    assert pack.recipe == RECIPE


def test_pixels_lie_at_the_beginning(tmp_path: Path) -> None:
    write(tmp_path / "a.pack")
    raw = np.fromfile(tmp_path / "a.pack", dtype=np.uint8, count=pixels().size)
    np.testing.assert_array_equal(raw.reshape(SHAPE), pixels())


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("pack") / "a.pack"
    write(path)
    return path.read_bytes()


@given(data=st.data())
def test_any_changed_byte_is_found(
    content: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(content)
    damaged[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pack"
    path.write_bytes(damaged)
    unusable(path)


@given(data=st.data())
def test_any_cut_is_found(content: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.pack"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    unusable(path)


def test_reasons(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pack"
    assert unusable(path) == "there is none"
    path.mkdir()
    assert unusable(path) == "it cannot be read (Is a directory)"
    path.rmdir()
    path.write_bytes(content[:-1])
    assert unusable(path) == "it is cut off"
    path.write_bytes(content[-4:])
    assert unusable(path) == "it is cut off"
    path.write_bytes(content[1:])
    assert unusable(path) == "its length does not agree with its description"
    path.write_bytes(content[:-30] + b"?" + content[-29:])
    assert unusable(path) == "its description is damaged"
    path.write_bytes(b"\1" + content[1:])
    assert unusable(path) == "1 of its images are damaged"
    path.write_bytes(content)
    assert unusable(path, images="def", interpolation="bicubic") == "it was made of other images and interpolation"
    assert unusable(path, shape=(5, 1, 4, 3, 3)) == "its shape is (5, 2, 4, 3, 3), not (5, 1, 4, 3, 3)"
    monkeypatch.setattr(pack_file, "VERSION", 2)
    assert unusable(path) == "it is of version 1, not 2"


def all_of(images):
    return lambda rows: pick(images, rows)


def build(path: Path, images, **options):
    return open_or_build(path, images, shape=SHAPE, recipe=RECIPE, num_workers=1, **options)


def test_images_are_read_only_if_needed(tmp_path: Path) -> None:
    def never(rows: Sequence[int]):
        raise AssertionError

    first = build(tmp_path / "new" / "a.pack", all_of(pixels()))
    second = build(tmp_path / "new" / "a.pack", never)
    np.testing.assert_array_equal(first.pixels, second.pixels)


def test_rebuilding_leaves_open_packs_as_they_are(tmp_path: Path) -> None:
    first = build(tmp_path / "a.pack", all_of(pixels(0)))
    write(tmp_path / "a.pack", images=pixels(1))
    np.testing.assert_array_equal(first.pixels, pixels(0))
    np.testing.assert_array_equal(build(tmp_path / "a.pack", all_of(())).pixels, pixels(1))


def test_one_builds_while_others_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    builds, begun = [], threading.Event()

    def images(rows: Sequence[int]):
        builds.append(1)
        begun.set()
        waiting.wait(timeout=5)
        yield from pixels()

    waiting = threading.Event()
    results = []
    threads = [threading.Thread(target=lambda: results.append(build(tmp_path / "a.pack", images))) for _ in range(3)]
    threads[0].start()
    begun.wait(timeout=5)
    for thread in threads[1:]:
        thread.start()
    while caplog.text.count("waiting for another process") < 2:
        pass
    waiting.set()
    for thread in threads:
        thread.join(timeout=5)
    assert len(results) == 3
    assert len(builds) == 1


def test_error_while_building_leaves_nothing(tmp_path: Path) -> None:
    def images(rows: Sequence[int]):
        yield pixels()[0]
        raise KeyError("boom")

    with pytest.raises(KeyError, match="boom"):
        build(tmp_path / "a.pack", images)
    assert not list(tmp_path.iterdir())


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from reid_da.images.pack_file import open_or_build
def images(rows):
    assert len(rows) == 5
    for image in np.load(sys.argv[2])[:3]:
        yield image
    print("begun", flush=True)
    time.sleep(60)
open_or_build(
    Path(sys.argv[1]),
    images,
    shape=(5, 2, 4, 3, 3),
    recipe={"images": "abc", "interpolation": "bilinear"},
    num_workers=1,
)
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A pack whose writer was killed after three of five images."""
    path = tmp_path / "a.pack"
    np.save(tmp_path / "pixels.npy", pixels())
    arguments = [sys.executable, "-c", KILLED, path, tmp_path / "pixels.npy"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not path.exists()
    return path


def finish(path: Path, images=None, **recipe) -> int:
    """Build the pack; how many images were there already."""
    begun = []

    def rest(rows: Sequence[int]):
        begun.append(rows[0])
        return pick(pixels() if images is None else images, rows)

    expected = pixels() if images is None else images
    pack = open_or_build(path, rest, shape=SHAPE, recipe=RECIPE | recipe, num_workers=1)
    np.testing.assert_array_equal(pack.pixels, expected)
    assert not list(path.parent.glob(".a.pack*"))
    return begun[0]


def test_a_killed_writer_has_not_worked_in_vain(killed: Path) -> None:
    assert finish(killed) == 3


def test_images_that_a_kill_cut_off_or_spoiled_are_made_again(killed: Path) -> None:
    part = killed.with_name(".a.pack.part")
    content = bytearray(part.read_bytes())
    content[2 * pixels()[0].size + 5] ^= 1
    part.write_bytes(content)
    assert finish(killed) == 2


@pytest.mark.parametrize(("cut", "left"), [(1, 2), (pixels()[0].size, 2), (3 * pixels()[0].size, 0)])
def test_pixels_behind_the_log(killed: Path, cut: int, left: int) -> None:
    part = killed.with_name(".a.pack.part")
    part.write_bytes(part.read_bytes()[:-cut])
    assert finish(killed) == left


def test_log_behind_the_pixels(killed: Path) -> None:
    log = killed.with_name(".a.pack.part.log")
    log.write_text(log.read_text()[:-3])
    assert finish(killed) == 2


def test_part_of_another_pack_is_dropped(killed: Path) -> None:
    assert finish(killed, pixels(1), interpolation="bicubic") == 0


def test_failed_images_survive_a_kill(killed: Path) -> None:
    log = killed.with_name(".a.pack.part.log")
    header, first, second, third = log.read_text().splitlines()
    log.write_text("\n".join([header, first, second.replace("null", '"cut off"'), third]) + "\n")
    pack = build(killed, all_of(pixels()))
    assert pack.failed == (FailedImage(index=1, reason="cut off"),)


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=500))
    build(tmp_path / "fits.pack", all_of(pixels()))
    with pytest.raises(
        CacheUnavailableError, match=r"needs 380 bytes, but may take 50% of the 500 bytes .* REID_DA_CACHE"
    ):
        build(tmp_path / "a.pack", all_of(pixels()), max_disk_share=0.5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=370))
    with pytest.raises(CacheUnavailableError):
        build(tmp_path / "a.pack", all_of(pixels()))


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheUnavailableError, match=r"file/a.pack: cannot write the cache of images \("):
        build(tmp_path / "file" / "a.pack", all_of(pixels()))


def test_the_place_of_an_output(tmp_path: Path) -> None:
    for name, content in (("text", b"important"), ("empty", b""), ("cut", b"DPK")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: exists and is not a packed file, .*; name another file"):
            check_output(tmp_path / name)
    with pytest.raises(InputError, match="/dev/full: exists and is not a packed file"):
        check_output(Path("/dev/full"))
    with pytest.raises(InputError, match="is a folder; name a file in it, such as .*/styles.pack"):
        check_output(tmp_path)
    build(tmp_path / "a.pack", all_of(pixels()))
    check_output(tmp_path / "a.pack")
    check_output(tmp_path / "none" / "b.pack")


def test_wrong_number_of_images_is_a_programming_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        write(tmp_path / "a.pack", images=pixels()[:4])
    assert not (tmp_path / "a.pack").exists()


def test_images_that_could_not_be_read_are_tried_again(tmp_path: Path) -> None:
    content, asked = pixels(), []

    def images(rows: Sequence[int]):
        asked.append(list(rows))
        return [found.get(row, content[row]) for row in rows]

    found = {
        1: FailedImage(index=1, reason="not an image"),
        3: FailedImage(index=3, reason="Permission denied", is_passing=True),
        4: FailedImage(index=4, reason="Input/output error", is_passing=True),
    }
    pack = build(tmp_path / "a.pack", images)
    assert pack.failed == tuple(found.values())
    assert build(tmp_path / "a.pack", images).failed == tuple(found.values())
    del found[4]
    pack = build(tmp_path / "a.pack", images)
    assert pack.failed == tuple(found.values())
    found[3] = FailedImage(index=3, reason="empty")
    pack = build(tmp_path / "a.pack", images)
    assert pack.failed == tuple(found.values())
    assert build(tmp_path / "a.pack", images).failed == tuple(found.values())
    assert asked == [[0, 1, 2, 3, 4], [3, 4], [3, 4], [3]]
    content[[1, 3]] = 0
    np.testing.assert_array_equal(pack.pixels, content)


def test_passing_failures_survive_a_kill_as_such(killed: Path) -> None:
    log = killed.with_name(".a.pack.part.log")
    header, first, second, third = log.read_text().splitlines()
    second = second.replace("null, false", '"Input/output error", true')
    log.write_text("\n".join([header, first, second, third]) + "\n")
    write(killed)
    read = read_pack(killed, shape=SHAPE, recipe=RECIPE, num_workers=1)
    assert read.failed == (FailedImage(index=1, reason="Input/output error", is_passing=True),)
    assert build(killed, all_of(pixels())).failed == ()


def test_a_pack_that_cannot_be_read_at_the_moment_is_not_replaced(tmp_path: Path, monkeypatch) -> None:
    build(tmp_path / "a.pack", all_of(pixels()))
    content = (tmp_path / "a.pack").read_bytes()
    monkeypatch.setattr(pack_file, "_read_trailer", failing(errno.EIO))
    with pytest.raises(
        CacheUnavailableError, match=r"a.pack: the cache .* cannot be read \(Input/output error\); remove"
    ):
        build(tmp_path / "a.pack", all_of(pixels(1)))
    assert (tmp_path / "a.pack").read_bytes() == content


def failing(number: int):
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("name", [".a.pack.part", ".a.pack.part.log", "a.pack.lock"])
def test_planted_links_are_not_written_through(tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").write_text("important")
    (tmp_path / name).symlink_to(tmp_path / "victim")
    if name.endswith(".lock"):
        with pytest.raises(CacheUnavailableError, match="is a symbolic link, which is not followed"):
            build(tmp_path / "a.pack", all_of(pixels()))
    else:
        np.testing.assert_array_equal(build(tmp_path / "a.pack", all_of(pixels())).pixels, pixels())
    assert (tmp_path / "victim").read_text() == "important"


def test_without_locks_there_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks.fcntl, "flock", failing(errno.ENOLCK))
    with pytest.raises(CacheUnavailableError, match="No locks available"):
        build(tmp_path / "a.pack", all_of(pixels()))


def test_a_full_disk_names_the_pack_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PartialPack, "_write", failing(errno.ENOSPC))
    with pytest.raises(CacheUnavailableError, match=r"a.pack: cannot write the cache of images \(No space left on"):
        build(tmp_path / "a.pack", all_of(pixels()))
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space left on device: .*b.pack"):
        write(tmp_path / "b.pack")
