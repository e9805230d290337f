"""Camera styles by name: methods, trained generators, packed files, folders of images."""

import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from reid_da.config import merge
from reid_da.datasets import load_dataset
from reid_da.errors import InputError
from reid_da.experiments.runs import train
from reid_da.images import open_images
from reid_da.methods import settings_of
from reid_da.styles import FileViews, PackedViews, TransferViews, write_styled_images
from reid_da.styles.open import (
    generate_styles,
    generated_views,
    open_foreign_style,
    open_style,
    size_of_run,
)
from reid_da.styles.train import train_styles
from reid_da.styles.trained import load_style_settings
from reid_da.training.run_folder import RunFolder

SIZE = (16, 8)


@pytest.fixture(scope="module")
def generator(flat, tmp_path_factory):
    """Run of a generator that has hardly learned anything."""
    tiny = ["device=cpu", "data.image_size=[16, 8]", "channels=8", "num_blocks=1", "batch=8", "epochs=1"]
    settings = load_style_settings(None, [f"data.dataset={flat}", *tiny])
    return train_styles(settings, tmp_path_factory.mktemp("styles") / "run").path


@pytest.fixture
def opened(flat, tmp_path):
    """Function that opens a style of the flat data set, with the cache in a folder of its own."""
    dataset = load_dataset(flat)
    source = open_images(dataset.train, size=SIZE, cache="never")

    def open_it(style, **options):
        options = {"num_cameras": 2, "cache_dir": tmp_path, **options}
        return open_style(str(style), source, dataset.train, **options)

    return open_it


def whole(views):
    """All views but those of the own cameras, one camera after the other."""
    index = torch.arange(len(views))
    return torch.cat([views.gather(index, torch.full_like(index, camid)) for camid in range(views.num_cameras)])


def test_views_of_a_generator_are_packed_when_they_are_first_asked_for(opened, generator, tmp_path):
    live = opened(generator, cache="never")
    packed = opened(generator)
    assert isinstance(live, TransferViews)
    assert isinstance(packed, PackedViews)
    # a convolution adds up in another order for another number of images
    assert (whole(live).int() - whole(packed).int()).abs().max() <= 1
    (file,) = tmp_path.glob("*styles-run.pack")
    times = file.stat().st_mtime_ns
    assert torch.equal(whole(opened(generator)), whole(packed))
    assert torch.equal(whole(opened(file)), whole(packed))
    assert file.stat().st_mtime_ns == times


def test_without_room_views_are_made_whenever_they_are_wanted(opened, generator, tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        views = opened(generator, cache_dir=tmp_path / "file" / "cache")
    assert isinstance(views, TransferViews)
    assert "making styles whenever they are wanted, which is slow" in caplog.text
    with pytest.raises(InputError, match="cannot write the cache of images"):
        opened(generator, cache_dir=tmp_path / "file" / "cache", cache="always")


def test_methods_and_folders(opened, flat, tmp_path):
    statistics = opened("statistics")
    assert isinstance(statistics, TransferViews)
    folder = tmp_path / "fakes"
    write_styled_images(statistics, load_dataset(flat).train, folder, naming="cyclegan")
    files = opened(folder)
    assert isinstance(files, FileViews)
    assert (whole(files).int() - whole(statistics).int()).abs().float().mean() < 6


@pytest.mark.parametrize("kind", ["statistics", "run", "folder"])
def test_generated_styles_are_found_again(flat, generator, tmp_path, kind, opened):
    dataset = load_dataset(flat)
    style = kind
    if kind == "run":
        style = str(generator)
    elif kind == "folder":
        style = str(tmp_path / "fakes")
        write_styled_images(opened("histogram"), dataset.train, tmp_path / "fakes", naming="stargan")
    size = None if kind == "run" else SIZE
    views, path = generate_styles(dataset, style, size=size, output=tmp_path / "styles.pack", device="cpu")
    assert path == tmp_path / "styles.pack"
    assert views.size == SIZE
    assert torch.equal(whole(opened(path)), whole(views))
    written = path.stat().st_mtime_ns
    generate_styles(dataset, style, size=size, output=path, device="cpu")
    assert path.stat().st_mtime_ns == written


def test_another_folder_of_files_makes_the_pack_anew(flat, opened, tmp_path):
    dataset = load_dataset(flat)
    folder, path = tmp_path / "fakes", tmp_path / "styles.pack"
    write_styled_images(opened("histogram"), dataset.train, folder, naming="stargan")
    generate_styles(dataset, str(folder), size=SIZE, output=path)
    changed = sorted(folder.iterdir())[0]
    Image.new("RGB", (8, 16), (1, 2, 3)).save(changed)
    views, _ = generate_styles(dataset, str(folder), size=SIZE, output=path)
    row = [name.rpartition("/")[2][:-4] for name in dataset.train.paths].index(changed.name.partition("_fake")[0])
    camera = int(changed.stem[-1]) - 1
    colour = views.gather(torch.tensor([row]), torch.tensor([camera])).float().mean((0, 2, 3))
    np.testing.assert_allclose(colour, [1, 2, 3], atol=2)


def test_training_on_the_styles_of_a_generator(small_settings, small_sites, tmp_path):
    tiny = ["device=cpu", "data.image_size=[32, 16]", "channels=4", "num_blocks=1", "batch=8", "epochs=1"]
    generator = train_styles(
        load_style_settings(None, [f"data.dataset={small_sites / 'site-b'}", *tiny]), tmp_path / "g"
    )
    tree = merge(
        small_settings.model_dump(mode="json"),
        {"epochs": 1, "views": {"style": str(generator.path)}, "data": {"cache_dir": str(tmp_path / "cache")}},
    )
    for name, changes in (("ecn", {}), ("camstyle", {"method": "camstyle"})):
        run = train(settings_of(merge(tree, changes), where="test"), tmp_path / name)
        assert run.records("train")[0].keys() & {"loss_exemplar", "loss_restyled"}
    assert list((tmp_path / "cache").glob("*styles-g.pack"))


def test_foreign_images_through_a_generator(flat, generator, small_sites):
    target = load_dataset(flat)
    table = load_dataset(small_sites / "site-a").train
    source = open_images(table, size=SIZE, cache="never")
    views = open_foreign_style(
        str(generator),
        source,
        table,
        target=open_images(target.train, size=SIZE, cache="never"),
        target_table=target.train,
        num_target_cameras=2,
        device="cpu",
    )
    index = torch.arange(4)
    images = views.gather(index, torch.tensor([0, 1, 0, 1]))
    assert all(not torch.equal(image, real) for image, real in zip(images, source.gather(index), strict=True))


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("statstics", r"unknown camera style 'statstics' \(did you mean 'statistics'"),
        ("no/such/run", "no/such/run: no such run of camstyle train, packed styles or folder of camera-style images"),
    ],
)
def test_no_such_style(opened, style, message):
    with pytest.raises(InputError, match=message):
        opened(style)


def test_generator_of_other_cameras(opened, generator):
    with pytest.raises(InputError, match="its generator knows 2 cameras, and the images are of 3"):
        opened(generator, num_cameras=3)


def test_generator_of_other_images_with_as_many_cameras(generator, flat, tmp_path, caplog):
    def open_it(table):
        source = open_images(table, size=SIZE, cache="never")
        with caplog.at_level(logging.WARNING):
            generated_views(generator, source, table, num_cameras=2)

    same = load_dataset(flat).train
    other = shutil.copytree(flat, tmp_path / "other")
    for table in (same, same.select(range(40)), load_dataset(other).train):
        open_it(table)
    assert not caplog.records
    first = sorted((other / "bounding_box_train").iterdir())[0]
    first.rename(first.with_name("0099_c1s1_000099_01.jpg"))
    open_it(load_dataset(other).train)
    assert f"its generator was trained on {flat}, and these are other images, in {other}" in caplog.text


def test_generators_of_some_pairs_are_refused_before_anything_is_packed(three, tmp_path):
    tiny = ["device=cpu", "data.image_size=[16, 8]", "channels=4", "num_blocks=1", "batch=4", "epochs=1"]
    for name, pairs, missing in (
        (
            "two",
            "[[1, 2], [15, 1]]",
            "no generators for 1 of 3 pairs of cameras: 2-15; add them to pairs in its config.yaml",
        ),
        ("all", "null", None),
    ):
        overrides = [f"data.dataset={three}", "method=cyclegan", f"pairs={pairs}", *tiny]
        run = str(train_styles(load_style_settings(None, overrides), tmp_path / name).path)
        output = tmp_path / f"{name}.pack"
        if missing is None:
            views, _ = generate_styles(load_dataset(three), run, output=output, device="cpu")
            index = torch.arange(4)
            # no image is of camera 8
            assert torch.equal(views.gather(index, torch.full_like(index, 7)), views.gather(index))
        else:
            with pytest.raises(InputError, match=missing):
                generate_styles(load_dataset(three), run, output=output, size=(32, 16), device="cpu")
            assert not list(three.glob(".reid-da-cache/*32x16*"))


def test_a_run_of_another_kind_is_no_style(opened, small_settings, tmp_path):
    run = RunFolder.create(tmp_path / "run", small_settings).path
    for use in (lambda: opened(run), lambda: size_of_run(run)):
        with pytest.raises(InputError, match="run: is a run of reid-da train, not of reid-da camstyle train"):
            use()


def test_sizes_that_a_generator_cannot_work_on(flat, generator, tmp_path):
    for size in ((18, 9), (8, 4)):
        with pytest.raises(InputError, match="are no multiples of 4 from 8 on; use a size such as 64x32"):
            generate_styles(load_dataset(flat), str(generator), size=size, output=tmp_path / "styles.pack")
        assert not list(flat.glob(f".reid-da-cache/*{size[0]}x{size[1]}*"))


def test_an_output_replaces_nothing_but_packed_styles(flat, tmp_path):
    dataset, text = load_dataset(flat), tmp_path / "notes.txt"
    text.write_text("important")
    for output, message in ((text, "exists and is not a packed file"), (tmp_path, "is a folder; name a file in it")):
        with pytest.raises(InputError, match=message):
            generate_styles(dataset, "statistics", size=SIZE, output=output)
    with pytest.raises(InputError, match="name another file with --output"):
        generate_styles(dataset, "statistics", size=SIZE, output=text / "a.pack")
    assert text.read_text() == "important"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}.lock"))


def test_packed_styles_are_not_packed_again(flat, opened, generator, tmp_path):
    opened(generator)
    (file,) = tmp_path.glob("*.pack")
    with pytest.raises(InputError, match="is packed already; train with views.style="):
        generate_styles(load_dataset(flat), str(file))
