"""Histograms of a calibration show the band that similarities lie in, whatever it is."""

import json

import numpy as np
import pytest

from reid_da.errors import InputError
from reid_da.evaluation.calibration import calibrate, load_calibration, save_calibration
from reid_da.evaluation.feature_files import FeatureSet
from reid_da.reporting.calibration import draw_calibration


def features(spread):
    """Features of 30 persons on 2 cameras around one direction."""
    generator = np.random.default_rng(0)
    persons = np.eye(1, 64) + spread * generator.normal(size=(30, 64)) / 8
    first, second = (persons + 0.3 * spread * generator.normal(size=persons.shape) / 8 for _ in range(2))
    pids = np.arange(30)
    return FeatureSet(
        query_features=first.astype(np.float32),
        query_pids=pids,
        query_camids=np.zeros(30, dtype=np.int64),
        gallery_features=second.astype(np.float32),
        gallery_pids=pids,
        gallery_camids=np.ones(30, dtype=np.int64),
    )


@pytest.mark.parametrize("spread", [0.03, 0.1, 1.0, 100.0])
def test_bins_span_the_similarities(spread, tmp_path):
    given = features(spread)
    sides = (given.query_features, given.gallery_features)
    units = [side.astype(np.float64) / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
    similarities = units[0] @ units[1].T
    found = calibrate(given, fprs=[1e-1])
    assert (sum(found.positives), sum(found.negatives)) == (30, 870)
    # to a bin of the fine histogram on either side
    edges = np.array(found.edges)
    assert edges[0] == pytest.approx(similarities.min(), abs=1e-4)
    assert edges[-1] == pytest.approx(similarities.max(), abs=1e-4)
    assert (np.diff(edges) > 0).all()
    # most of the pairs are not in one bin, as they would be from -1 to 1
    assert max(found.negatives) < 0.2 * 870
    is_same = np.eye(30, dtype=bool)
    for kind, counts in ((is_same, found.positives), (~is_same, found.negatives)):
        # thresholds have the resolution of the fine histogram
        least, most = ([(similarities[kind] < edge + side).sum() for edge in edges[1:-1]] for side in (-4e-5, 4e-5))
        assert (least <= np.cumsum(counts)[:-1]).all()
        assert (np.cumsum(counts)[:-1] <= most).all()
    # both kinds together fill the bins evenly, as far as they are that fine
    shares = np.array(found.positives) / 30 + np.array(found.negatives) / 870
    if spread > 0.05:  # else the resolution of the thresholds is too coarse
        assert shares.max() < 0.2
    save_calibration(tmp_path / "c.json", found, notes={})
    assert load_calibration(tmp_path / "c.json") == found
    draw_calibration(found, tmp_path / "c.png", title="test")


def test_bins_of_earlier_versions_and_the_feature_that_is_compared(tmp_path):
    file = tmp_path / "c.json"
    save_calibration(file, calibrate(features(1.0), fprs=[0.1], feature="pooled"), notes={})
    assert load_calibration(file, feature="pooled").feature == "pooled"
    with pytest.raises(InputError, match="is of pooled features, and the model compares embedding ones; .* --feature"):
        load_calibration(file, feature="embedding")
    record = {key: value for key, value in json.loads(file.read_text()).items() if key not in ("checksum", "edges")}
    count = len(record["positives"])
    file.write_text(json.dumps({**record, "low": 0.5, "high": 1.0}))
    assert np.allclose(load_calibration(file).edges, np.linspace(0.5, 1, count + 1))


def test_a_changed_digit_is_noticed(tmp_path):
    file = tmp_path / "c.json"
    save_calibration(file, calibrate(features(1.0), fprs=[0.1]), notes={"epoch": 3})
    whole = file.read_text()
    assert load_calibration(file, epoch=3).resolved_points[0].fpr == 0.1
    file.write_text(whole.replace('"fpr": 0.1', '"fpr": 0.2'))
    with pytest.raises(InputError, match="c.json: is not a calibration: damaged or changed: its checksum"):
        load_calibration(file)
    # earlier versions wrote none
    file.write_text(json.dumps({key: value for key, value in json.loads(whole).items() if key != "checksum"}))
    assert load_calibration(file).resolved_points[0].fpr == 0.1
