"""Ready-made views: both ways of naming, cameras of two digits, and what can be wrong with a folder."""

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reid_da.config import AugmentSettings
from reid_da.datasets import SampleTable
from reid_da.errors import InputError
from reid_da.images import PackedImages, Selection, TestTransform, TrainTransform, load_batches, open_images
from reid_da.styles import FileViews, find_styled_images
from reid_da.styles.files import default_folder, unique_stems

MakeTable = Callable[..., SampleTable]
MakeSource = Callable[..., PackedImages]

SIZE = (6, 3)


def write_flat(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE[1], SIZE[0]), (level,) * 3).save(path)


def cyclegan_names(table: SampleTable, num_cameras: int) -> dict[str, int]:
    """Names of all views but those of the own cameras, each with a grey level of its own."""
    return {
        f"{Path(path).stem}_fake_{own + 1}to{wanted + 1}.jpg": 10 + 20 * row + wanted
        for row, (path, own) in enumerate(zip(table.paths, table.camids.tolist(), strict=True))
        for wanted in range(num_cameras)
        if wanted != own
    }


def stargan_names(table: SampleTable, num_cameras: int) -> dict[str, int]:
    """Names of all views, those of the own cameras too, each with a grey level of its own."""
    return {
        f"{Path(path).stem}_fake_{wanted + 1}.jpg": 10 + 20 * row + wanted
        for row, path in enumerate(table.paths)
        for wanted in range(num_cameras)
    }


def write_views(table: SampleTable, names: dict[str, int], *, without: Iterable[str] = ()) -> Path:
    """Folder of flat grey images."""
    folder = table.root / "bounding_box_train_camstyle"
    for name in names.keys() - set(without):
        write_flat(folder / name, names[name])
    return folder


def real_images(table: SampleTable, make_source: MakeSource) -> PackedImages:
    """Flat images of level 200 + row."""
    levels = 200 + np.arange(len(table), dtype=np.uint8)
    return make_source(np.broadcast_to(levels[:, None, None, None], (len(table), *SIZE, 3)).copy())


def levels(views: FileViews, index: list[int], cameras: list[int]) -> list[int]:
    images = views.gather(torch.tensor(index), torch.tensor(cameras))
    assert images.dtype == torch.uint8
    assert images.shape == (len(index), 3, *SIZE)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("names_of", [cyclegan_names, stargan_names])
def test_both_ways_of_naming(
    names_of: Callable[[SampleTable, int], dict[str, int]], make_table: MakeTable, make_source: MakeSource
) -> None:
    table = make_table([0, 14, 3, *range(1, 3), *range(4, 14)])
    folder = write_views(table, names_of(table, 15))

    styled = find_styled_images(table, num_cameras=15)

    assert styled.missing == ()
    assert styled.rows.shape == (15, 15)
    assert (styled.rows < 0).sum() == 15
    assert len(styled.table) == 15 * 14
    name = f"{Path(table.paths[0]).stem}_fake_" + ("1to15.jpg" if names_of is cyclegan_names else "15.jpg")
    assert styled.path(0, 14) == folder / name
    assert styled.path(0, 0) is None
    views = FileViews(real_images(table, make_source), styled, open_images(styled.table, size=SIZE, cache="never"))
    # camera 15 of image 0, camera 1 of the image of camera 15, and their real images
    assert levels(views, [0, 1, 0, 1, 2], [14, 0, 0, 14, 3]) == [10 + 14, 10 + 20, 200, 201, 202]


@pytest.mark.parametrize("names_of", [cyclegan_names, stargan_names])
def test_no_camera_of_one_digit(names_of: Callable[[SampleTable, int], dict[str, int]], make_table: MakeTable) -> None:
    table = make_table([9, 14])
    write_views(table, {name: 0 for name in names_of(table, 15) if name.endswith(("10.jpg", "15.jpg"))})

    assert [camid for camid in range(15) if find_styled_images(table, num_cameras=15).path(0, camid)] == [14]


def test_published_name(tmp_path: Path) -> None:
    rows = [("bounding_box_train/0002_c1s1_000451_03.jpg", 2, 0), ("bounding_box_train/0002_c2s1_000301_01.jpg", 2, 1)]
    table = SampleTable.from_rows("market1501/train", tmp_path, rows)
    folder = tmp_path / "bounding_box_train_camstyle"
    for name in ("0002_c1s1_000451_03_fake_1to2.jpg", "0002_c2s1_000301_01_fake_2to1.jpg"):
        write_flat(folder / name, 0)

    styled = find_styled_images(table, num_cameras=2)

    assert default_folder(table) == folder
    assert styled.path(0, 1) == folder / "0002_c1s1_000451_03_fake_1to2.jpg"
    assert styled.path(1, 0) == folder / "0002_c2s1_000301_01_fake_2to1.jpg"
    assert styled.table.pids.tolist() == [2, 2]
    assert styled.table.camids.tolist() == [1, 0]


def test_every_view_and_the_packed_cache(make_table: MakeTable, make_source: MakeSource, tmp_path: Path) -> None:
    table = make_table([0, 1, 2, 0])
    write_views(table, cyclegan_names(table, 3))
    styled = find_styled_images(table, num_cameras=3)
    files = open_images(styled.table, size=SIZE, cache="always", cache_dir=tmp_path / "cache")
    views = FileViews(real_images(table, make_source), styled, files)

    index, cameras = np.divmod(np.arange(12), 3)

    expected = [200 + i if table.camids[i] == c else 10 + 20 * i + c for i, c in zip(index, cameras, strict=True)]
    assert levels(views, index.tolist(), cameras.tolist()) == expected
    assert views.gather(torch.arange(4))[:, 0, 0, 0].tolist() == [200, 201, 202, 203]
    assert (len(views), views.size, views.num_cameras, views.failed) == (4, SIZE, 3, ())


def test_own_camera_gives_the_bytes_of_the_real_image(make_table: MakeTable, make_source: MakeSource) -> None:
    table = make_table([0, 1])
    write_views(table, stargan_names(table, 2))
    styled = find_styled_images(table, num_cameras=2)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)

    views = FileViews(make_source(pixels), styled, open_images(styled.table, size=SIZE, cache="never"))

    images = views.gather(torch.tensor([1, 0]), torch.tensor([1, 0]))
    assert (images.permute(0, 2, 3, 1).numpy() == pixels[[1, 0]]).all()


def test_other_suffix_and_folder(make_table: MakeTable, tmp_path: Path) -> None:
    table = make_table([0, 1])
    elsewhere = tmp_path / "my styles"
    for name, level in cyclegan_names(table, 2).items():
        write_flat((elsewhere / name).with_suffix(".png"), level)
    (elsewhere / "readme.txt").write_text("notes")
    for other in ("0000_c1s1_000000_00.png", "0000_c1s1_000000_00_fake_2_old.png"):
        write_flat(elsewhere / other, 0)

    styled = find_styled_images(table, elsewhere, num_cameras=2)

    assert styled.table.paths == ("0000_c1s1_000000_00_fake_1to2.png", "0001_c2s1_000001_00_fake_2to1.png")


def test_missing_files_are_counted_and_named(make_table: MakeTable) -> None:
    table = make_table([0, 1, 2])
    names = cyclegan_names(table, 3)
    gone = sorted(names)[:4]
    folder = write_views(table, names, without=gone)

    with pytest.raises(InputError) as error:
        find_styled_images(table, num_cameras=3)

    message = str(error.value)
    assert message.startswith(f"{folder}: 4 of 6 camera-style images are missing: ")
    assert all(Path(name).stem in message for name in gone[:3])
    assert "and 1 more" in message
    assert "(import --allow-missing, or views.on_missing=real where a training reads them)" in message
    assert "\n" not in message


def test_real_images_stand_in_if_asked(
    make_table: MakeTable, make_source: MakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    table = make_table([0, 1, 2])
    gone = "0001_c2s1_000001_00_fake_2to3.jpg"
    write_views(table, cyclegan_names(table, 3), without=[gone])

    with caplog.at_level(logging.WARNING):
        styled = find_styled_images(table, num_cameras=3, on_missing="real")

    assert styled.missing == (Path(gone).stem,)
    assert styled.path(1, 2) is None
    assert f"1 of 6 camera-style images are missing: {Path(gone).stem}" in caplog.text
    views = FileViews(real_images(table, make_source), styled, open_images(styled.table, size=SIZE, cache="never"))
    assert levels(views, [1, 1, 0], [2, 0, 2]) == [201, 30, 12]


def test_real_images_do_not_stand_in_for_all(make_table: MakeTable) -> None:
    table = make_table([0, 1])
    write_flat(table.root / "bounding_box_train_camstyle" / "somebody_else_fake_1to2.jpg", 0)

    with pytest.raises(InputError, match="2 of 2 .* are missing: .*; name the folder of the"):
        find_styled_images(table, num_cameras=2, on_missing="real")


def test_view_from_a_wrong_camera_is_not_taken(make_table: MakeTable) -> None:
    table = make_table([0, 1, 2])
    names = cyclegan_names(table, 3)
    folder = write_views(table, names)
    (folder / "0000_c1s1_000000_00_fake_1to2.jpg").rename(folder / "0000_c1s1_000000_00_fake_3to2.jpg")

    with pytest.raises(InputError, match="1 of 6 .* missing: 0000_c1s1_000000_00_fake_1to2;"):
        find_styled_images(table, num_cameras=3)


def test_camera_without_training_images_is_not_missed_but_used(make_table: MakeTable, make_source: MakeSource) -> None:
    table = make_table([0, 2, 0])
    names = {name: level for name, level in cyclegan_names(table, 3).items() if "to2" not in name}
    folder = write_views(table, names)
    write_flat(folder / "0000_c1s1_000000_00_fake_1to2.jpg", 99)

    styled = find_styled_images(table, num_cameras=3)

    assert styled.missing == ()
    views = FileViews(real_images(table, make_source), styled, open_images(styled.table, size=SIZE, cache="never"))
    assert levels(views, [0, 1, 2], [1, 1, 1]) == [99, 201, 202]


@pytest.mark.parametrize("cache", ["always", "never"])
def test_real_image_stands_in_for_a_broken_file(
    cache: str, make_table: MakeTable, make_source: MakeSource, tmp_path: Path
) -> None:
    table = make_table([0, 1])
    folder = write_views(table, cyclegan_names(table, 2))
    (folder / "0000_c1s1_000000_00_fake_1to2.jpg").write_bytes(b"cut off")
    styled = find_styled_images(table, num_cameras=2)

    files = open_images(styled.table, size=SIZE, cache=cache, cache_dir=tmp_path / "cache", on_error="skip")  # type: ignore[arg-type]
    views = FileViews(real_images(table, make_source), styled, files)

    assert levels(views, [0, 1], [1, 0]) == [200, 30]


def test_broken_file_is_named(make_table: MakeTable, make_source: MakeSource) -> None:
    table = make_table([0, 1])
    folder = write_views(table, cyclegan_names(table, 2))
    (folder / "0000_c1s1_000000_00_fake_1to2.jpg").write_bytes(b"cut off")
    styled = find_styled_images(table, num_cameras=2)
    views = FileViews(real_images(table, make_source), styled, open_images(styled.table, size=SIZE, cache="never"))

    with pytest.raises(InputError, match=r"0000_c1s1_000000_00_fake_1to2\.jpg"):
        views.gather(torch.tensor([0]), torch.tensor([1]))


def test_folder_that_is_not_there(make_table: MakeTable) -> None:
    with pytest.raises(InputError, match=r"bounding_box_train_camstyle: this folder .* does not exist"):
        find_styled_images(make_table([0, 1]), num_cameras=2)


def test_folder_without_views(make_table: MakeTable) -> None:
    table = make_table([0, 1])
    write_flat(table.root / "bounding_box_train_camstyle" / "0000_c1s1_000000_00.jpg", 0)

    with pytest.raises(InputError, match=r"looked for .* NAME_fake_1to2\.jpg or NAME_fake_2\.jpg, found 1 images"):
        find_styled_images(table, num_cameras=2)


def test_folder_with_both_ways_of_naming(make_table: MakeTable) -> None:
    table = make_table([0, 1])
    write_views(table, cyclegan_names(table, 2) | stargan_names(table, 2))

    with pytest.raises(InputError, match="named in two ways"):
        find_styled_images(table, num_cameras=2)


@pytest.mark.parametrize(
    ("paths", "folder"),
    [
        (["bounding_box_train/a.jpg", "bounding_box_train/b.jpg"], "bounding_box_train_camstyle"),
        (["cam1/a.jpg", "cam2/b.jpg"], "train_camstyle"),
        (["train/0000/a.jpg", "train/0001/b.jpg"], "train_camstyle"),
        (["a.jpg", "b.jpg"], "../site_camstyle"),
    ],
)
def test_default_folder(tmp_path: Path, paths: list[str], folder: str) -> None:
    root = tmp_path / "site"
    table = SampleTable.from_rows("site/train", root, [(path, row, row) for row, path in enumerate(paths)])
    assert default_folder(table) == Path(os.path.normpath(root / folder))


def test_two_images_of_one_name(tmp_path: Path) -> None:
    table = SampleTable.from_rows("own/train", tmp_path, [("a/1.jpg", 1, 0), ("b/1.jpg", 2, 1), ("b/2.jpg", 2, 1)])
    assert unique_stems(table) == ["a_1", "b_1", "b_2"]  # a folder for each camera, equal names in them

    table = SampleTable.from_rows("own/train", tmp_path, [("a/1.jpg", 1, 0), ("a_1.jpg", 2, 1), ("b/1.jpg", 2, 1)])
    with pytest.raises(InputError, match="own/train: 1 names are those of several images"):
        find_styled_images(table, tmp_path, num_cameras=2)


def test_unknown_answer_to_missing_files(make_table: MakeTable) -> None:
    with pytest.raises(InputError, match="on_missing must be raise or real, got 'skip'"):
        find_styled_images(make_table([0, 1]), num_cameras=2, on_missing="skip")  # type: ignore[arg-type]


def test_parts_must_fit(make_table: MakeTable, make_source: MakeSource) -> None:
    table = make_table([0, 1])
    write_views(table, cyclegan_names(table, 2))
    styled = find_styled_images(table, num_cameras=2)
    source = real_images(table, make_source)

    with pytest.raises(ValueError, match=r"3 real images and 2 files do not fit views of 2 images in 2 files"):
        FileViews(real_images(make_table([0, 1, 1]), make_source), styled, source)
    with pytest.raises(ValueError, match=r"\(6, 3\) pixels and files of \(8, 4\)"):
        FileViews(source, styled, open_images(styled.table, size=(8, 4), cache="never"))


def test_rows_and_cameras_out_of_range(make_table: MakeTable, make_source: MakeSource) -> None:
    table = make_table([0, 1])
    write_views(table, cyclegan_names(table, 2))
    styled = find_styled_images(table, num_cameras=2)
    views = FileViews(real_images(table, make_source), styled, open_images(styled.table, size=SIZE, cache="never"))

    with pytest.raises(IndexError, match=r"leaves the range 0..1"):
        views.gather(torch.tensor([-1]), torch.tensor([0]))
    with pytest.raises(IndexError, match=r"leaves the range 0..1"):
        views.gather(torch.tensor([0]), torch.tensor([2]))


@pytest.mark.parametrize("cache", ["never", "always"])
def test_square_files_are_whole_where_crops_are_drawn_in_the_shapes_of_the_files(tmp_path: Path, cache: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    for folder, name, side in (("bounding_box_train", "a.png", 20), ("styled", "a_fake_1to2.png", 40)):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels[0, :, :side]).save(tmp_path / folder / name)
    table = SampleTable.from_rows(
        "train", tmp_path, [("bounding_box_train/a.png", 1, 0), ("bounding_box_train/b.png", 1, 1)]
    )
    Image.fromarray(pixels[1, :, :20]).save(tmp_path / "bounding_box_train" / "b.png")
    styled = find_styled_images(table, tmp_path / "styled", num_cameras=2, on_missing="real")
    real, files = (open_images(x, size=(32, 16), cache=cache, cache_dir=tmp_path) for x in (table, styled.table))
    views = FileViews(real, styled, files)
    index, wanted = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
    assert views.original_sizes(index, wanted).tolist() == [[40, 20], [40, 40], [40, 20]]
    assert views.cuts_files == (cache == "never")
    transform = TrainTransform(AugmentSettings(crop_on="original", flip=0, erase=0), size=(32, 16), seed=0)
    (batch,) = load_batches(views, [Selection(rows=index, views=wanted)], transform, prefetch=0)
    whole = TestTransform(size=(32, 16))(views.gather(index, wanted))
    torch.testing.assert_close(batch.images[1], whole[1], atol=1e-5, rtol=0)
    assert not torch.allclose(batch.images[0], whole[0])
    assert not torch.allclose(batch.images[2], whole[2])
