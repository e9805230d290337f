"""The index on a Qdrant server, compared with the one on disk: in the client's local mode, and on a server if any."""

import json
import os
import shutil
import uuid
from dataclasses import replace

import numpy as np
import pytest
from small_galleries import DIM, card, images, unit

from reid_da.cli import main
from reid_da.errors import InputError
from reid_da.gallery import care, places, server
from reid_da.gallery.care import verify
from reid_da.gallery.embedder import load_embedder
from reid_da.gallery.identities import identities, name, split
from reid_da.gallery.index import add, find_images
from reid_da.gallery.listing import summary
from reid_da.gallery.places import add_folders, copy, open_index
from reid_da.gallery.qdrant import Collection, point_id
from reid_da.gallery.search import Filters, nearest
from reid_da.gallery.store import Gallery, create
from reid_da.gallery.threshold import Point, Thresholds, save, stored

qdrant_client = pytest.importorskip("qdrant_client", reason="the extra qdrant is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect", "ignore:Local mode performs exact")

URL = "qdrant://server:6333/crops"
SERVER = os.environ.get("REID_DA_TEST_QDRANT")
"""URL of a real server, such as http://127.0.0.1:6333."""


@pytest.fixture
def remote(monkeypatch):
    """A client in memory, which every URL leads to."""
    client = qdrant_client.QdrantClient(":memory:")
    monkeypatch.setattr(client, "close", lambda: None)  # its collections would be gone
    monkeypatch.setattr(server, "connect", lambda url: (client, url.rpartition("/")[2]))
    return client


@pytest.fixture
def collection(remote):
    return Collection.create(URL, remote, "crops", card(), {})


def fill_both(collection, gallery, count=120):
    """The same images in both, every tenth vector there twice."""
    vectors = unit(count, DIM)
    vectors[1::10] = vectors[0::10]
    for number in range(count):
        camera = None if number % 7 == 6 else f"c{number % 7}"
        time = None if number % 5 == 4 else float(number)
        new = images(f"{number:03d}", camera=camera, time=time)
        collection.append(new, vectors[number : number + 1])
        with gallery.writing() as writer:
            writer.append(new, vectors[number : number + 1])


def check_like_the_index_on_disk(collection, gallery):
    fill_both(collection, gallery)
    snapshot, queries = gallery.snapshot(), unit(6, DIM, seed=4)
    paths = np.array([record.path for record in gallery.all_records()])
    for filters in (
        Filters(),
        Filters(cameras=("c1", "c5")),
        Filters(after=20, before=70.0),
        Filters(cameras=("c2",), after=50),
        Filters(after=1e6),
    ):
        expected = nearest(snapshot, queries, top=9, filters=filters)
        found, searched = collection.nearest(queries, top=9, filters=filters)
        assert searched == expected.searched
        for of_query, rows, similarities in zip(found, expected.rows, expected.similarities, strict=True):
            np.testing.assert_allclose([value for _, value in of_query], similarities, atol=1e-6)
            # equal similarities are ordered by ids, which differ
            assert {record.path for record, _ in of_query[:-1]} <= set(paths[rows]) | _ties(snapshot, queries, paths)
    assert [r[1:] for r in collection.all_records()] == [r[1:] for r in gallery.all_records()]
    assert collection.gaps() == gallery.gaps()
    assert collection.cameras() == gallery.cameras()
    assert replace(summary(collection), vector_bytes=0) == replace(summary(gallery), vector_bytes=0)


def _ties(snapshot, queries, paths):
    """Paths of vectors that are there twice."""
    return {path for row, path in enumerate(paths) if row % 10 < 2}


def test_search_and_listing_are_those_of_the_index_on_disk(collection, gallery):
    check_like_the_index_on_disk(collection, gallery)


@pytest.mark.skipif(SERVER is None, reason="REID_DA_TEST_QDRANT names no Qdrant server; no package installs one")
def test_a_real_server_is_like_the_index_on_disk(gallery, tmp_path):
    url = f"{SERVER}/reid-da-test-{uuid.uuid4().hex}"
    client, collection_name = server.connect(url)
    collection = Collection.create(url, client, collection_name, card(), {})
    try:
        check_like_the_index_on_disk(collection, gallery)
        collection.remove([point_id("/crops/003")], forget=True)
        assert collection.forgotten([b"003".ljust(16, b"\0"), b"004".ljust(16, b"\0")]) == {b"003".ljust(16, b"\0")}
        assert copy(url, str(tmp_path / "copied")).added == len(collection)
    finally:
        client.delete_collection(collection_name)
        client.delete_collection(f"{collection_name}.forgotten")
        client.close()


def test_two_machines_add_the_same_and_different_images(collection, remote):
    other = Collection(URL, remote, "crops")
    other.host = "other"
    vectors = unit(3, DIM)
    collection.append(images("a", "b", camera="1"), vectors[:2])
    other.append(images("b", "c", camera="1"), vectors[1:])
    assert [record.path for record in collection.all_records()] == ["/crops/a", "/crops/b", "/crops/c"]
    with pytest.raises(InputError, match="other has added another image under this path"):
        collection.append([replace(images("c")[0], digest=b"z" * 16)], vectors[:1])
    changed = replace(images("c")[0], digest=b"z" * 16)
    other.append([changed], vectors[:1])
    assert len(collection) == 3


def test_ids_that_collide_are_noticed(collection, monkeypatch):
    monkeypatch.setattr("reid_da.gallery.qdrant.point_id", lambda path: 7)
    collection.append(images("a"), unit(1, DIM))
    with pytest.raises(InputError, match="the same id as another image"):
        collection.known(["/crops/b"])


def test_images_are_added_once_and_forgotten_ones_stay_away(remote, embedder, weights_file, crops, tmp_path):
    folder = tmp_path / "crops"
    folder.mkdir()
    files = sorted(crops.iterdir())[:4]
    for file in files:
        shutil.copy(file, folder)
    options = {"backbone": "osnet_x0_25", "image_size": (32, 16)}

    def add_again():
        return add_folders(URL, [folder], model=weights_file, device="cpu", model_options=options)

    assert (add_again().added, add_again().unchanged) == (4, 4)
    with open_index(URL) as index:
        expected = embedder.model.embed([folder / file.name for file in files])
        found = {point.image.path: point.vector for point in index.points([r.id for r in index.all_records()])}
        np.testing.assert_allclose([found[str(folder / f.name)] for f in files], expected, atol=1e-6)
        first, second = (care.select(index, [folder / file.name]) for file in files[:2])
        assert care.select(index, [folder]) == sorted(r.id for r in index.all_records())
        assert care.select(index, [str(first[0])]) == first
        index.remove(first, forget=True)
        index.remove(second)
        again = add_again()
        assert (again.added, again.forgotten, again.images) == (1, 1, 3)
        (folder / files[2].name).unlink()
        assert [record.path for record in index.records(care.missing(index)).values()] == [str(folder / files[2].name)]
        assert len(care.older_than(index, 1, now=lambda: 1e11)) == 3
        other = load_embedder(weights_file, **{**options, "image_size": (64, 32)}, device="cpu")
        with pytest.raises(InputError, match="vectors of another model"):
            add(index, other, find_images([folder]))


def test_a_copy_on_disk_follows_the_server_and_gives_identities_back(remote, collection, tmp_path):
    vectors = unit(5, DIM)
    collection.append(images(*"abcde", camera="1", time=3.0), vectors)
    copied = str(tmp_path / "copied")
    assert copy(URL, copied).added == 5
    with Gallery(copied) as local:
        assert verify(local) == []
        assert split(local, [1, 2]) == 1
        name(local, 1, "red coat")
        points = (Point(fpr=0.1, threshold=0.5, low=None, high=None, tpr=None),)
        save(local, Thresholds(points=points, kinds={}, num_negatives=9, num_positives=0, num_units=1, unit="minute"))
    assert copy(copied, URL).described == 2
    fresh = Collection(URL, remote, "crops")
    assert {record.path[-1]: record.name for record in fresh.all_records() if record.identity == 1} == {
        "a": "red coat",
        "b": "red coat",
    }
    assert stored(fresh).at(0.1) == 0.5
    # somebody changes the collection meanwhile
    fresh.remove([point_id("/crops/e")])
    fresh.append([replace(images("c")[0], digest=b"z" * 16)], vectors[:1])
    fresh.describe({point_id("/crops/d"): ("2", None, None)})
    done = copy(URL, copied)
    assert (done.added, done.described, done.removed) == (1, 1, 1)
    with Gallery(copied) as local:
        assert {r.path[-1]: (r.camera, r.identity) for r in local.all_records()} == {
            "a": ("1", 1), "b": ("1", 1), "c": (None, None), "d": ("2", None),
        }  # fmt: skip
        third = local.snapshot().vectors(np.array([len(local) - 1]))
        np.testing.assert_allclose(third, vectors[:1], atol=1e-6)
    # what was removed on the server does not come back from a copy of it
    fresh.remove([point_id("/crops/d")])
    assert copy(copied, URL).added == 0
    # a second person's copy has the identities
    copy(URL, str(tmp_path / "second"))
    with Gallery(tmp_path / "second") as second:
        assert [(i.id, i.name, i.images) for i in identities(second)] == [(1, "red coat", 2)]
        assert split(second, [second.all_records()[-1].id]) == 2


def test_an_index_on_disk_moves_to_a_server(remote, gallery):
    with gallery.writing() as writer:
        writer.append(images("a", "b", camera="1", track="t"), unit(2, DIM))
    split(gallery, [2])
    done = copy(str(gallery.path), URL)
    assert done.added == 2
    assert [r[1:] for r in open_index(URL).all_records()] == [r[1:] for r in gallery.all_records()]
    with pytest.raises(InputError, match="an index of its own"):
        copy(URL, str(gallery.path))
    for both in ((URL, URL), (str(gallery.path), "other")):
        with pytest.raises(InputError, match="give a URL and a folder"):
            copy(*both)


def test_collections_of_others_and_other_models_are_refused(remote, gallery, tmp_path):
    models = qdrant_client.models
    remote.create_collection("foreign", vectors_config=models.VectorParams(size=3, distance=models.Distance.DOT))
    with pytest.raises(InputError, match="is a collection of something else"):
        open_index("qdrant://server/foreign")
    with pytest.raises(InputError, match="no index there"):
        open_index("qdrant://server/none")
    Collection.create(URL, remote, "crops", replace(card(), fingerprint="0" * 32), {})
    with pytest.raises(InputError, match="vectors of another model"):
        copy(str(gallery.path), URL)
    with create(tmp_path / "old", card()) as old:
        old.close()
    with pytest.raises(InputError, match="no copy of"):
        copy(URL, str(tmp_path / "old"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("qdrant://server", "expected qdrant://HOST"),
        ("qdrant://server:x/crops", "is no URL"),
        ("qdrant://server/a/b", "expected qdrant://HOST"),
        ("qdrant://server/crops?x=1", "expected qdrant://HOST"),
        ("http://me:secret@server/crops", "must not hold a key"),
        ("http://127.0.0.1:9/crops", "cannot be reached"),
    ],
)
def test_mistakes_about_urls(url, message):
    with pytest.raises(InputError, match=message) as found:
        open_index(url)
    assert "secret" not in str(found.value)


def test_keys_come_from_the_environment(monkeypatch):
    made = {}
    monkeypatch.setattr(qdrant_client, "QdrantClient", lambda **options: made.update(options))
    monkeypatch.setenv(server.API_KEY, "key")
    assert server.connect("https://server/crops")[1] == "crops"
    assert (made["https"], made["port"], made["api_key"]) == (True, 443, "key")
    server.connect("qdrant://server/crops")
    assert (made["https"], made["port"]) == (False, 6333)


def test_commands_take_a_url(remote, weights_file, crops, capsys, tmp_path):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        return ended.value.code or 0, *capsys.readouterr()

    model = ("--model", weights_file, "--backbone", "osnet_x0_25", "--size", "32x16", "--device", "cpu")
    query = sorted(crops.iterdir())[0]
    assert "no index there" in run("search", URL, query)[2]
    assert f"{len(list(crops.iterdir()))} in all" in run("index", "add", URL, crops, *model)[1]
    answer = json.loads(run("search", URL, query, "--top", 3, "--camera", 2, "--json", "--device", "cpu")[1])
    assert answer["answers"][0]["hits"][0]["path"] == str(query)
    assert {hit["camera"] for hit in answer["answers"][0]["hits"]} == {"2"}
    assert "unknown camera '9'" in run("search", URL, query, "--camera", 9)[2]
    assert "not measured" in run("search", URL, query, "--search", "hnsw", "--device", "cpu")[2]
    assert "unknown search 'ivf'" in run("search", URL, query, "--search", "ivf", "--device", "cpu")[2]
    assert json.loads(run("index", "list", URL, "--json")[1])["images"] == len(list(crops.iterdir()))
    assert "1 images forgotten" in run("index", "forget", URL, query)[1]
    assert "1 images removed" in run("index", "remove", URL, sorted(crops.iterdir())[1])[1]
    assert "images added" in run("index", "copy", URL, tmp_path / "copied")[1]
    for command in (("cluster",), ("index", "threshold"), ("index", "verify"), ("serve",)):
        status, _, err = run(*command, URL)
        assert status == 2
        assert f"reid-da index copy {URL} FOLDER" in err
    assert places.open_index(tmp_path / "copied").card.dim > 0
