"""Choosing by label-free figures: the order, what it says of labels, and the correlations of the study."""

import pytest
from scipy.stats import weightedtau

from reid_da.errors import InputError
from reid_da.studies import selection
from reid_da.training.run_folder import RunFolder

FIGURES = {
    "a": {2: (0.5, 0.3, 0.20), 4: (0.7, 0.2, 0.30)},
    "b": {2: (0.6, 0.1, 0.25), 4: (0.9, 0.4, 0.40)},
}
"""Stable clusters, share of outliers and mAP after the epochs of two runs."""


@pytest.fixture
def runs(small_settings, tmp_path):
    """Folder of two runs that were evaluated after two and four epochs."""
    for name, epochs in FIGURES.items():
        run = RunFolder.create(tmp_path / "runs" / name, small_settings)
        for epoch, (stable, outliers, precision) in epochs.items():
            run.log({"kind": "label_free", "epoch": epoch, "clusters_stable": stable, "clusters_outliers": outliers})
            run.log({"kind": "evaluation", "epoch": epoch, "mAP": precision, "rank1": precision})
    return tmp_path / "runs"


def order_of(found):
    return [(candidate.run.name, candidate.epoch) for candidate in found]


def test_candidates_are_ranked_by_the_figure(runs):
    found = selection.candidates([runs])
    assert order_of(selection.ranked(found)) == [("b", 4), ("a", 4), ("b", 2), ("a", 2)]
    # of outliers there should be few
    assert order_of(selection.ranked(found, by="clusters_outliers")) == [("b", 2), ("a", 4), ("a", 2), ("b", 4)]
    assert order_of(selection.ranked(selection.last_of_each(found))) == [("b", 4), ("a", 4)]
    with pytest.raises(InputError, match="--by"):
        selection.ranked(found, by="density")


def test_correlations_are_those_of_scipy(runs):
    taus = selection.rank_correlations(selection.candidates([runs]))
    precisions = [0.20, 0.30, 0.25, 0.40]
    assert taus["clusters_stable"] == pytest.approx(1)
    assert taus["clusters_outliers"] == pytest.approx(weightedtau([-0.3, -0.2, -0.1, -0.4], precisions).statistic)
    assert taus["density"] != taus["density"]


def test_runs_without_figures_are_named(small_settings, tmp_path):
    RunFolder.create(tmp_path / "run", small_settings)
    with pytest.raises(InputError, match="no label-free figures"):
        selection.candidates([tmp_path / "run"])
