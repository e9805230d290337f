import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small_galleries import fill

from reid_da.errors import InputError
from reid_da.gallery import care
from reid_da.gallery import index as indexing
from reid_da.gallery.care import older_than, select, verify
from reid_da.gallery.embedder import check_model, embedder_of, load_embedder
from reid_da.gallery.index import add, find_images
from reid_da.gallery.store import Gallery, create


@pytest.fixture
def own(embedder, crops, tmp_path):
    """A folder with nine images in it, and an empty index."""
    folder = tmp_path / "crops"
    folder.mkdir()
    for file in sorted(crops.iterdir())[:9]:
        shutil.copy(file, folder)
    with create(tmp_path / "index", embedder.card) as gallery:
        yield gallery, folder


def test_vectors_are_those_of_the_model(indexed, embedder, crops):
    with Gallery(indexed) as gallery:
        snapshot, records = gallery.snapshot(), gallery.all_records()
        expected = embedder.model.embed([record.path for record in records])
        np.testing.assert_allclose(snapshot.vectors(np.arange(len(snapshot))), expected, atol=1e-6)
        assert [record.path for record in records] == sorted(str(file) for file in crops.iterdir())
        assert all(record.camera == record.path.split("_c")[1][0] for record in records)
        assert verify(gallery, files=True) == []


def test_adding_again_adds_what_is_new_or_changed(own, embedder):
    gallery, folder = own
    assert add(gallery, embedder, find_images([folder])).added == 9
    first, second = sorted(folder.iterdir())[:2]
    shutil.copy(first, folder / ("9" + first.name[1:]))
    before = gallery.snapshot().vectors(np.arange(9))
    shutil.copy(second, first)
    again = add(gallery, embedder, find_images([folder]))
    assert (again.added, again.unchanged) == (2, 8)
    after = gallery.snapshot()
    paths = [record.path for record in gallery.all_records()]
    np.testing.assert_allclose(after.vectors(np.array([paths.index(str(first))]))[0], before[1], atol=1e-6)
    assert len(gallery) == 10
    nothing = add(gallery, embedder, find_images([folder]))
    assert (nothing.added, nothing.unchanged, nothing.described) == (0, 10, 0)


def test_a_stopped_process_goes_on_where_it_was(own, embedder, monkeypatch):
    gallery, folder = own
    monkeypatch.setattr(indexing, "BATCH", 2)
    batches = []

    def stop_at_third(self, pixels, cameras):
        batches.append(len(pixels))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return np.eye(len(pixels), self.card.dim, dtype=np.float32)

    monkeypatch.setattr(type(embedder), "__call__", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        add(gallery, embedder, find_images([folder]))
    assert len(gallery) == 4
    assert add(gallery, embedder, find_images([folder])).added == 5
    assert batches == [2, 2, 2, 2, 2, 1]


def test_broken_images_are_told_and_tried_again(own, embedder):
    gallery, folder = own
    broken = sorted(folder.iterdir())[4]
    content = broken.read_bytes()
    broken.write_bytes(content[:200])
    result = add(gallery, embedder, find_images([folder]))
    assert result.added == 8
    assert [line.startswith(f"{broken} (") for line in result.broken] == [True]
    broken.write_bytes(content)
    assert add(gallery, embedder, find_images([folder])).added == 1


def test_forgotten_images_do_not_come_back_removed_ones_do(own, embedder):
    gallery, folder = own
    add(gallery, embedder, find_images([folder]))
    first, second = sorted(folder.iterdir())[:2]
    with gallery.writing() as writer:
        writer.remove(select(gallery, [first]), forget=True)
        writer.remove(select(gallery, [second]))
    shutil.copy(first, folder / ("8" + first.name[1:]))
    again = add(gallery, embedder, find_images([folder]))
    assert (again.added, again.forgotten) == (1, 2)


def test_camera_time_and_track_come_from_a_table_and_may_come_later(own, embedder, tmp_path):
    gallery, folder = own
    add(gallery, embedder, find_images([folder], layout="flat"))
    assert gallery.snapshot().camids.tolist() == [-1] * 9
    names = sorted(file.name for file in folder.iterdir())
    table = tmp_path / "origins.csv"
    rows = [
        f"crops/{name},gate {number % 2},2026-11-26T08:00:0{number}Z,t{number}" for number, name in enumerate(names)
    ]
    table.write_text("\n".join(["path,camera,time,track", *rows]))
    result = add(gallery, embedder, find_images([folder], table=table))
    assert (result.unchanged, result.described) == (9, 9)
    record = gallery.all_records()[3]
    assert (record.camera, record.time, record.track) == ("gate 1", 1795680003.0, "t3")
    add(gallery, embedder, find_images([folder], layout="flat"))
    assert gallery.all_records()[3] == record


def test_time_from_exif_data(own, embedder):
    gallery, folder = own
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x9003: "2026:11:26 08:30:15", 0x9011: "+02:00"})
    Image.new("RGB", (16, 32)).save(folder / "0001_c1_x.jpg", exif=exif)
    add(gallery, embedder, find_images([folder]))
    assert [record.time for record in gallery.all_records() if record.time] == [1795674615.0]


def test_another_model_is_refused(indexed, embedder, weights_file, crops):
    with Gallery(indexed) as gallery:
        check_model(gallery, embedder.card)
        for options in ({"image_size": (64, 32)}, {"flip": True}):
            other = load_embedder(
                weights_file, backbone="osnet_x0_25", device="cpu", **{"image_size": (32, 16), **options}
            )
            with pytest.raises(InputError, match="vectors of another model"):
                add(gallery, other, find_images([crops]))
        assert embedder_of(gallery, device="cpu").card == embedder.card
        gallery.card = replace(gallery.card, model="/gone")
        with pytest.raises(InputError, match="give it with --model"):
            embedder_of(gallery)
        assert embedder_of(gallery, model=weights_file, device="cpu").card == embedder.card


def test_selection_by_id_path_and_folder(indexed, crops):
    with Gallery(indexed) as gallery:
        first = sorted(crops.iterdir())[0]
        assert select(gallery, ["1", first]) == [1]
        assert select(gallery, [crops]) == list(range(1, len(gallery) + 1))
        for nothing in ("99999", "9" * 30, str(crops)[:-1], "%"):
            with pytest.raises(InputError, match="no image of"):
                select(gallery, [nothing])


def test_retention_counts_from_when_an_image_was_taken(gallery):
    now = time.time()
    fill(gallery, 1, prefix="old", time=now - 10 * 86400)
    fill(gallery, 1, prefix="film", time=12.0)
    fill(gallery, 1, prefix="unknown")
    assert older_than(gallery, 5) == [1]
    assert older_than(gallery, 5, now=lambda: now + 6 * 86400) == [1, 2, 3]
    with pytest.raises(InputError, match="retain-days"):
        older_than(gallery, 0)


def test_verify_tells_files_that_are_missing_or_changed(own, embedder):
    gallery, folder = own
    add(gallery, embedder, find_images([folder]))
    first, second = sorted(folder.iterdir())[:2]
    first.unlink()
    second.write_bytes(b"x")
    assert verify(gallery) == []
    assert verify(gallery, files=True) == [f"{first}: is missing", f"{second}: has changed"]
    assert care.missing(gallery) == [1]
