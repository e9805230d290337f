"""Ranked names against sorting by hand."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from reid_da.errors import InputError
from reid_da.evaluation.feature_files import save_arrays
from reid_da.evaluation.ranking import (
    NamedFeatures,
    load_named_features,
    rank_gallery,
    table_of_folder,
    write_rankings,
)
from reid_da.evaluation.reranking import RerankSettings, rerank

RNG = np.random.default_rng(0)
QUERY, GALLERY = RNG.standard_normal((4, 5)), RNG.standard_normal((9, 5))
NAMES = tuple(f"{letter}/{number}.jpg" for number, letter in enumerate("ihgfedcba"))
FEATURES = NamedFeatures(query_features=QUERY, query_names=tuple("wxyz"), gallery_features=GALLERY, gallery_names=NAMES)


def by_hand(distances, top):
    """[(gallery name, distance)] of each query, nearest first, equal ones in the order of the gallery."""
    return [
        [(NAMES[column], row[column]) for column in sorted(range(len(row)), key=lambda j: (row[j], j))[:top]]
        for row in distances.tolist()
    ]


def listed(rankings):
    record = rankings.to_json()
    return [[(item["name"], item["distance"]) for item in entry["gallery"]] for entry in record["rankings"]]


def assert_alike(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        assert [distance for _, distance in ours] == pytest.approx([distance for _, distance in theirs], abs=1e-6)


def cosine_distances():
    units = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (QUERY, GALLERY)]
    return 1 - units[0] @ units[1].T


@pytest.mark.parametrize("top", [1, 3, 9, 50])
def test_nearest_by_name(top):
    assert_alike(listed(rank_gallery(FEATURES, top=top)), by_hand(cosine_distances(), top))
    euclidean = np.linalg.norm(QUERY[:, None] - GALLERY[None], axis=2)
    assert_alike(listed(rank_gallery(FEATURES, top=top, distance="euclidean")), by_hand(euclidean, top))


def test_reranked_by_name():
    settings = RerankSettings(k1=4, k2=2, lambda_value=0.5)
    blocks = rerank(QUERY, GALLERY, k1=4, k2=2, lambda_value=0.5)
    distances = blocks.block(slice(None), slice(None)).numpy()
    assert_alike(listed(rank_gallery(FEATURES, top=5, rerank=settings)), by_hand(distances, 5))
    with pytest.raises(
        InputError, match=r"k1: expected 1 to 12, fewer than the 13 images .* lower k1 .--k1., or leave"
    ):
        rank_gallery(FEATURES, rerank=RerankSettings())


def test_files(tmp_path):
    rankings = rank_gallery(FEATURES, top=2)
    write_rankings(tmp_path / "r.json", rankings)
    write_rankings(tmp_path / "r.csv", rankings)
    record = json.loads((tmp_path / "r.json").read_text())
    assert record == rankings.to_json()
    assert [entry["query"] for entry in record["rankings"]] == list("wxyz")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert [row["query"] for row in rows] == list("wwxxyyzz")
    assert [row["rank"] for row in rows] == ["1", "2"] * 4
    expected = [item for entry in by_hand(cosine_distances(), 2) for item in entry]
    assert [row["gallery"] for row in rows] == [name for name, _ in expected]
    assert [float(row["distance"]) for row in rows] == pytest.approx([value for _, value in expected], abs=1e-6)
    with pytest.raises(InputError, match=r"r.txt: expected a name that ends in .csv or .json"):
        write_rankings(tmp_path / "r.txt", rankings)


def test_names_with_commas_and_quotes_survive_csv():
    odd = replace(FEATURES, gallery_names=tuple(f'a, "{number}"' for number in range(9)))
    rows = list(csv.reader(io.StringIO(rank_gallery(odd, top=9).to_csv())))
    assert {row[2] for row in rows[1:]} == set(odd.gallery_names)


def test_names_are_no_formulas_in_csv():
    odd = replace(FEATURES, query_names=tuple(f"=cmd|{number}" for number in range(4)))
    rows = list(csv.DictReader(io.StringIO(rank_gallery(odd, top=1).to_csv())))
    assert [row["query"] for row in rows] == [f"'=cmd|{number}" for number in range(4)]


def test_feature_files_without_labels(tmp_path):
    arrays = {"query_features": QUERY, "gallery_features": GALLERY, "gallery_paths": np.array(NAMES)}
    save_arrays(tmp_path / "f.npz", arrays)
    found = load_named_features(tmp_path / "f.npz")
    assert found.query_names == ("0", "1", "2", "3")
    assert found.gallery_names == NAMES
    assert listed(rank_gallery(found)) == listed(rank_gallery(FEATURES))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"query_features": QUERY}, r"f.npz: no gallery_features .found: query_features"),
        (
            {
                "query_features": QUERY.T,
                "gallery_features": GALLERY.T,
                "gallery_paths": np.array(NAMES),
                "query_paths": np.array(list("wxyz")),
            },
            r"f.npz: query_features: the shape \(5, 4\) with 4 labels has one column per image",
        ),
        (
            {"query_features": QUERY, "gallery_features": GALLERY, "query_paths": np.array(list("wxy"))},
            r"f.npz: query_paths: expected 4 texts",
        ),
    ],
)
def test_feature_files_that_do_not_fit(tmp_path, arrays, message):
    save_arrays(tmp_path / "f.npz", arrays)
    with pytest.raises(InputError, match=message):
        load_named_features(tmp_path / "f.npz")


def test_what_cannot_be_ranked():
    with pytest.raises(InputError, match="top: expected at least 1, got 0"):
        rank_gallery(FEATURES, top=0)
    broken = torch.from_numpy(GALLERY.copy())
    broken[3, 1] = torch.nan
    with pytest.raises(InputError, match=r"gallery_features: 1 rows hold NaN .*: 3\)"):
        rank_gallery(replace(FEATURES, gallery_features=broken))


def test_folders(tmp_path):
    with pytest.raises(InputError, match="nothing: no such folder"):
        table_of_folder(tmp_path / "nothing")
    with pytest.raises(InputError, match="has no images in it"):
        table_of_folder(tmp_path)
    (tmp_path / "b").mkdir()
    for name in ("b/x.jpg", "a.PNG", "notes.txt"):
        (tmp_path / name).touch()
    table = table_of_folder(tmp_path)
    assert table.paths == ("a.PNG", "b/x.jpg")
    assert not table.is_labelled
