import json

import numpy as np
import pytest
from small_galleries import DIM, images, unit

from reid_da import load_dataset
from reid_da.clustering import ClusteringSettings
from reid_da.datasets import UNLABELLED_PID
from reid_da.errors import InputError
from reid_da.gallery.care import verify
from reid_da.gallery.identities import assign_identities, export_manifest, identities, merge, name, split, undo
from reid_da.gallery.pictures import draw_sheets
from reid_da.gallery.store import Gallery

SETTINGS = ClusteringSettings(metric="cosine", eps=0.02, min_samples=3)
PEOPLE = unit(6, DIM, seed=5)


def add_people(gallery, people, *, count=4, prefix="", seed=0):
    """Images of some of the people, ``count`` of each, hardly different from each other."""
    generator = np.random.default_rng(seed)
    vectors = np.repeat(PEOPLE[list(people)], count, axis=0) + 0.01 * generator.normal(size=(count * len(people), DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = [f"{prefix}{person}-{number}" for person in people for number in range(count)]
    with gallery.writing() as writer:
        writer.append(images(*names, camera="1"), vectors)


def members(gallery):
    """Names of the images of each identity, without what tells them apart."""
    found = {}
    for record in gallery.all_records():
        found.setdefault(record.identity, []).append(record.path.removeprefix("/crops/").partition("-")[0])
    return found


@pytest.fixture
def people(gallery):
    add_people(gallery, [0, 1, 2])
    assign_identities(gallery, settings=SETTINGS)
    return gallery


def test_people_are_told_apart_and_what_is_added_joins_them(people):
    assert members(people) == {1: ["0"] * 4, 2: ["1"] * 4, 3: ["2"] * 4}
    add_people(people, [1, 4], prefix="new", seed=1)
    add_people(people, [5], count=1)
    done = assign_identities(people, settings=SETTINGS)
    assert (done.joined, done.founded, done.new, done.identities, done.unassigned) == (4, 4, 1, 4, 1)
    assert members(people) == {
        1: ["0"] * 4, 2: ["1"] * 4 + ["new1"] * 4, 3: ["2"] * 4, 4: ["new4"] * 4, None: ["5"],
    }  # fmt: skip
    again = assign_identities(people, settings=SETTINGS)
    assert (again.joined, again.founded, again.new) == (0, 0, 0)


def test_what_was_decided_by_hand_stays(people):
    name(people, 3, "red coat")
    assert merge(people, [1, 3]) == 1
    new = split(people, [5, 6])
    decided = members(people)
    assert decided == {1: ["0"] * 4 + ["2"] * 4, 2: ["1"] * 2, new: ["1"] * 2}
    assert {identity.id: identity.name for identity in identities(people)} == {1: "red coat", 2: None, new: None}
    assign_identities(people, settings=SETTINGS)
    assert members(people) == decided
    add_people(people, [2], prefix="new", seed=3)
    assign_identities(people, settings=SETTINGS)
    assert members(people)[1] == ["0"] * 4 + ["2"] * 4 + ["new2"] * 4


def test_clustering_afresh_keeps_numbers_and_names_where_clusters_are_the_same(people):
    name(people, 3, "red coat")
    merge(people, [1, 2])
    assign_identities(people, settings=SETTINGS, afresh=True)
    found = {identity.id: (identity.name, identity.images) for identity in identities(people)}
    assert found == {1: (None, 4), 3: ("red coat", 4), 4: (None, 4)}


def test_everything_can_be_undone_in_its_order(people):
    states = [(members(people), identities(people))]
    for operation in (
        lambda: name(people, 2, "b"),
        lambda: merge(people, [3, 2]),
        lambda: split(people, [1, 5]),
        lambda: name(people, 3, ""),
        lambda: assign_identities(people, settings=SETTINGS, afresh=True),
    ):
        operation()
        states.append((members(people), identities(people)))
    assert len({json.dumps(state, sort_keys=False, default=str) for state in states}) == len(states)
    for state, action in zip(states[-2::-1], ["cluster", "name", "split", "merge", "name"], strict=True):
        assert undo(people) == action
        assert (members(people), identities(people)) == state
    assert undo(people) == "cluster"
    assert members(people) == {None: ["0"] * 4 + ["1"] * 4 + ["2"] * 4}
    assert undo(people) is None
    assign_identities(people, settings=SETTINGS)
    assert min(identity.id for identity in identities(people)) > 3


def test_undo_leaves_alone_what_has_gone_since(people):
    merge(people, [1, 2])
    with people.writing() as writer:
        writer.remove([1, 5], forget=True)
    assert undo(people) == "merge"
    assert members(people) == {1: ["0"] * 3, 2: ["1"] * 3, 3: ["2"] * 4}
    assert verify(people) == []


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda g: merge(g, [1]), "two identities"),
        (lambda g: merge(g, [1, 9]), "no identity 9"),
        (lambda g: split(g, []), "give the ids"),
        (lambda g: split(g, [99]), "no images with the ids 99"),
        (lambda g: split(g, [1, 2, 3, 4]), "all images of identity 1"),
        (lambda g: name(g, 9, "x"), "no identity 9"),
        (lambda g: name(g, 1, "x" * 101), "at most 100"),
    ],
)
def test_mistakes(people, operation, message):
    before = members(people)
    with pytest.raises(InputError, match=message):
        operation(people)
    assert members(people) == before


def test_a_manifest_that_data_sets_are_read_from(index, tmp_path):
    with Gallery(index) as gallery:
        file = tmp_path / "identities.csv"
        with pytest.raises(InputError, match="reid-da cluster"):
            export_manifest(gallery, file)
        records = gallery.all_records()
        people = {}
        for record in records:
            people.setdefault(record.path.rpartition("/")[2][:4], []).append(record.id)
        numbers = {split(gallery, ids[:-1]): len(ids) - 1 for ids in people.values()}
        name(gallery, min(numbers), "=red coat")
        assert export_manifest(gallery, file) == sum(numbers.values())
        dataset = load_dataset(file)
        assert {int(pid): int((dataset.train.pids == pid).sum()) for pid in np.unique(dataset.train.pids)} == numbers
        assert [dataset.camera_names[camid] for camid in dataset.train.camids[:3]] == [
            record.camera for record in sorted(records, key=lambda record: record.path)[:3]
        ]
        assert "'=red coat" in (tmp_path / "identities.persons.csv").read_text()
        assert export_manifest(gallery, file, with_unknown=True) == len(records)
        assert (load_dataset(file).train.pids == UNLABELLED_PID).sum() == len(people)
        export_manifest(gallery, file, test_share=0.5)
        assert load_dataset(file).query.num_pids >= 1
        with pytest.raises(InputError, match=r"name it \.\.\.\.csv"):
            export_manifest(gallery, tmp_path / "identities.json")


def test_sheets_show_each_identity_and_stale_ones_go(index, tmp_path):
    with Gallery(index) as gallery:
        one, two = split(gallery, [1, 2, 3]), split(gallery, [4, 5])
        assert draw_sheets(gallery, tmp_path / "sheets", blur_faces=True) == 2
        merge(gallery, [two, one])
        assert draw_sheets(gallery, tmp_path / "sheets") == 1
        assert [file.name for file in (tmp_path / "sheets").iterdir()] == [f"identity-{two:06d}.png"]
