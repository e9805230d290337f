import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_galleries import DIM, images, unit

from reid_da.clustering import ClusteringSettings
from reid_da.errors import InputError
from reid_da.gallery.apart import moments, num_pairs, split_impossible
from reid_da.gallery.identities import assign_identities, merge, split

SETTINGS = ClusteringSettings(metric="cosine", eps=0.2, min_samples=2)


def add(gallery, number, *, time, camera="1", track=None, near=0, like=None):
    vector = unit(1, DIM, seed=100 + near) + 0.02 * unit(1, DIM, seed=number if like is None else like)
    vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    with gallery.writing() as writer:
        writer.append(images(f"{number:02d}", camera=camera, time=time, track=track), vector)


def identity_of(gallery):
    return {record.path[-2:]: record.identity for record in gallery.all_records()}


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(-1, 2), min_size=1, max_size=24),
    seed=st.integers(0, 999),
    frames=st.integers(1, 6),
    least=st.integers(1, 3),
)
def test_no_group_holds_what_cannot_be_one_person(labels, seed, frames, least):
    generator = np.random.default_rng(seed)
    labels = np.array(labels)
    moment = generator.integers(-1, frames, len(labels))
    tracks = generator.integers(-1, 3, len(labels))
    vectors = unit(len(labels), DIM, seed=seed)
    found = split_impossible(labels, vectors, moment, tracks, min_size=least)
    impossible = [
        (one, other)
        for one, other in itertools.combinations(range(len(labels)), 2)
        if moment[one] == moment[other] >= 0 and not (tracks[one] == tracks[other] >= 0)
    ]
    assert num_pairs(moment, tracks) == len(impossible)
    assert not any(found[one] == found[other] >= 0 for one, other in impossible)
    for label in set(found[found >= 0].tolist()):
        assert len(set(labels[found == label])) == 1  # clusters are split, never joined
    for label in range(3):
        members = np.flatnonzero(labels == label)
        if not any(labels[one] == labels[other] == label for one, other in impossible):
            assert (found[members] == label).all()  # the others stay as they were
        elif len(members):
            sizes = np.bincount(found[members][found[members] >= 0]) if (found[members] >= 0).any() else np.array([])
            assert all(size >= least for size in sizes if size)


def test_two_people_side_by_side_are_two_identities(gallery):
    """Two people that the model hardly tells apart, seen together in four frames."""
    for frame in range(4):
        add(gallery, 2 * frame, time=frame + 0.5, near=0)
        add(gallery, 2 * frame + 1, time=frame + 0.5, near=0)
    done = assign_identities(gallery, settings=SETTINGS, same_time="ignore")
    assert (done.new, done.apart) == (1, 0)
    done = assign_identities(gallery, settings=SETTINGS, afresh=True)
    assert done.apart == 4
    found = identity_of(gallery)
    assert all(
        found[f"{2 * frame:02d}"] != found[f"{2 * frame + 1:02d}"] or None in found.values() for frame in range(4)
    )
    # other cameras, and one track, may be together
    add(gallery, 8, time=0.5, camera="2", near=0)
    assign_identities(gallery, settings=SETTINGS)
    assert identity_of(gallery)["08"] is not None


def test_what_joins_is_kept_apart_from_what_is_there(gallery):
    for number in range(3):
        add(gallery, number, time=number + 0.5, track="a")
    assign_identities(gallery, settings=SETTINGS)
    add(gallery, 3, time=0.5, track="b")
    add(gallery, 4, time=0.5, track="a")
    add(gallery, 5, time=9.5, like=0)
    assign_identities(gallery, settings=SETTINGS)
    found = identity_of(gallery)
    assert found["00"] == found["04"] == found["05"] == 1
    assert found["03"] != 1


def test_what_was_put_together_by_hand_stays(gallery):
    add(gallery, 0, time=0.5, near=0)
    add(gallery, 1, time=0.5, near=1)
    for number in (2, 3):
        add(gallery, number, time=number + 0.5, near=0)
    assign_identities(gallery, settings=SETTINGS)
    first, other = identity_of(gallery)["00"], split(gallery, [2])
    merge(gallery, [first, other])
    assign_identities(gallery, settings=SETTINGS)
    assert identity_of(gallery)["00"] == identity_of(gallery)["02"] == first


def test_whole_seconds_of_a_day_are_no_frames(gallery):
    for number in range(4):
        add(gallery, number, time=1.8e9 + number // 2)
    snapshot = gallery.snapshot()
    assert moments(snapshot).tolist() == [-1] * 4
    assert moments(snapshot, "apart").tolist() == [0, 0, 1, 1]
    assert moments(snapshot, "ignore").tolist() == [-1] * 4
    add(gallery, 4, time=1.8e9 + 0.25)
    assert moments(gallery.snapshot()).tolist() == [0, 0, 2, 2, -1]
    with pytest.raises(InputError, match="unknown --same-time"):
        moments(snapshot, "never")
