import numpy as np
import pytest
from small_galleries import DIM, card, fill, images, unit

from reid_da.errors import InputError
from reid_da.gallery.listing import threshold_table
from reid_da.gallery.store import create
from reid_da.gallery.threshold import _threshold, estimate, impossible_pairs, save, stored, track_numbers


def put(gallery, vectors, cameras, times, tracks=None):
    tracks = tracks if tracks is not None else [None] * len(vectors)
    new = [
        images(str(number), camera=camera, time=time, track=track)[0]
        for number, (camera, time, track) in enumerate(zip(cameras, times, tracks, strict=True))
    ]
    with gallery.writing() as writer:
        writer.append(new, vectors)


def crowd(seed, *, moments=120, people=3):
    """Images of ``people`` different people at each of many moments, each of them on one track of three images."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(moments * people, DIM)) + np.array([1.5] + [0] * (DIM - 1))
    vectors = np.repeat(centres, 3, axis=0) + 0.2 * generator.normal(size=(3 * moments * people, DIM))
    moment = np.repeat(np.arange(moments), 3 * people) * 100.0
    frame = np.tile(np.arange(3), moments * people)
    tracks = np.repeat(np.arange(moments * people), 3).astype(str)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), moment + frame, tracks


def brute_force(times, camids, tracks, window, *, same):
    found = set()
    for one in range(len(times)):
        for two in range(one):
            apart = abs(times[one] - times[two])
            is_track = tracks[one] == tracks[two] and tracks[one] >= 0
            if apart <= window and (camids[one] == camids[two]) == same and not is_track:
                found.add((two, one))
    return found


@pytest.mark.parametrize("window", [0.0, 2.0])
@pytest.mark.parametrize("kind", ["same-camera", "other-camera"])
def test_impossible_pairs_are_those_of_brute_force(gallery, kind, window):
    generator = np.random.default_rng(0)
    times = generator.integers(0, 12, size=60).astype(float).tolist()
    times[3] = None
    cameras = generator.choice(["a", "b", "c"], size=60).tolist()
    cameras[5] = None
    tracks = [None if number < 2 else str(number) for number in generator.integers(0, 6, size=60)]
    put(gallery, unit(60, DIM), cameras, times, tracks)
    snapshot, numbers = gallery.snapshot(), track_numbers(gallery)
    pairs = impossible_pairs(snapshot, numbers, kind, window, 10**6, generator)
    usable = np.where(snapshot.camids >= 0, snapshot.times, np.nan)
    expected = brute_force(usable, snapshot.camids, numbers, window, same=kind == "same-camera")
    found = [tuple(sorted(pair)) for pair in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)]
    assert len(found) == len(set(found))
    assert set(found) == expected
    part = impossible_pairs(snapshot, numbers, kind, window, 20, generator)
    assert len(part) <= 20
    assert {tuple(sorted(pair)) for pair in zip(part.first.tolist(), part.second.tolist(), strict=True)} <= expected


@pytest.mark.parametrize("fpr", [0.5, 0.25, 0.1, 0.01])
def test_the_threshold_is_the_lowest_that_lets_no_more_through(fpr):
    values = np.sort(np.random.default_rng(0).normal(size=200).round(1))[::-1]
    threshold = _threshold(values, np.ones(200), fpr)
    assert (values >= threshold).mean() <= fpr
    below = values[values < threshold].max()
    assert (values >= below).mean() > fpr
    assert _threshold(values, np.ones(200), 1.0) == -1
    assert _threshold(values, np.ones(200), 0.004) is None


def test_weights_count_as_often_as_they_say():
    values, weights = np.array([0.9, 0.7, 0.5, 0.3]), np.array([0, 3, 1, 6])
    assert _threshold(values, weights, 0.3) == pytest.approx(0.5)
    assert _threshold(values, weights, 0.29) == pytest.approx(0.7)
    assert _threshold(values, weights, 0.4) == pytest.approx(0.3)


def test_the_interval_holds_the_true_threshold_about_as_often_as_it_says(tmp_path):
    vectors, _, _ = crowd(999, moments=700)
    own = vectors[::3]
    similarities = (own @ own.T)[np.triu_indices(len(own), 1)]
    truth = _threshold(np.sort(similarities)[::-1], np.ones(len(similarities)), 0.1)
    hits, widths = 0, []
    for seed in range(30):
        with create(tmp_path / str(seed), card()) as gallery:
            vectors, times, tracks = crowd(seed)
            put(gallery, vectors, ["a"] * len(times), times.tolist(), tracks.tolist())
            thresholds = estimate(gallery, fprs=[0.1], seed=seed)
        point = thresholds.points[0]
        assert thresholds.unit == "track"
        hits += point.low <= truth <= point.high
        widths.append(point.high - point.low)
        assert point.tpr > 0.9
    assert hits >= 24
    assert 0.02 < np.mean(widths) < 0.3


def test_without_tracks_minutes_are_resampled(gallery):
    vectors, times, _ = crowd(0)
    put(gallery, vectors, ["a"] * len(times), times.tolist())
    thresholds = estimate(gallery, fprs=[0.1, 1e-6])
    assert (thresholds.unit, thresholds.num_positives) == ("minute", 0)
    assert thresholds.points[0].low < thresholds.points[0].threshold < thresholds.points[0].high
    assert thresholds.points[1].threshold is None
    save(gallery, thresholds)
    assert stored(gallery) == thresholds
    assert stored(gallery).at(0.1) == thresholds.points[0].threshold
    assert stored(gallery).at(0.2) is None


def test_other_cameras_count_only_where_their_views_are_disjoint(gallery):
    put(gallery, unit(40, DIM), ["a", "b"] * 20, np.repeat(np.arange(20.0), 2).tolist())
    with pytest.raises(InputError, match="of one camera at the same time .* 40 of 40"):
        estimate(gallery)
    thresholds = estimate(gallery, fprs=[0.5], disjoint_views=True)
    assert thresholds.kinds == {"same-camera": 0, "other-camera": 20}


def test_too_few_minutes_give_no_interval(gallery):
    put(gallery, unit(40, DIM), ["a"] * 40, [1.0] * 40)
    point = estimate(gallery, fprs=[0.1]).points[0]
    assert point.threshold is not None
    assert (point.low, point.high) == (None, None)


@pytest.mark.parametrize("options", [{"fprs": [0]}, {"fprs": [2]}, {"window": -1}, {"window": float("nan")}])
def test_settings_out_of_range(gallery, options):
    with pytest.raises(InputError, match="expected"):
        estimate(gallery, **options)


def test_whole_seconds_without_tracks_are_warned_of(gallery):
    fill(gallery, 4, camera="1", time=1.8e9)
    assert estimate(gallery, fprs=[0.5]).is_coarse
    assert "pictures of one person within a second" in threshold_table(estimate(gallery, fprs=[0.5])).notes[-1]
    fill(gallery, 2, prefix="x", camera="1", time=1.8e9 + 0.5)
    assert not estimate(gallery, fprs=[0.5]).is_coarse
