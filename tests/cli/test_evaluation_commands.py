import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from reid_da.evaluation import FeatureSet, evaluate_retrieval, save_feature_file
from reid_da.models.backbones import create_backbone
from reid_da.training.trained import TrainedModel

TINY = ("--weights", "none", "--size", "16x8", "--device", "cpu")
KEYS = {"rank1", "rank5", "rank10", "rank20", "mAP", "mAP_trapezoid", "mINP", "num_queries", "num_valid_queries"}


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 16))
    pids = {"query": np.arange(12), "gallery": np.tile(np.arange(12), 5)}
    values = {name: centres[of] + 0.9 * rng.normal(size=(len(of), 16)) for name, of in pids.items()}
    return FeatureSet(
        query_features=values["query"].astype(np.float32),
        query_pids=pids["query"],
        query_camids=np.zeros(12, dtype=np.int64),
        gallery_features=values["gallery"].astype(np.float32),
        gallery_pids=pids["gallery"],
        gallery_camids=np.repeat(np.arange(5), 12),
    )


@pytest.fixture(scope="module")
def npz(features, tmp_path_factory):
    file = tmp_path_factory.mktemp("features") / "f.npz"
    save_feature_file(file, features)
    return file


def test_json_has_the_figures_of_the_function(run, npz, features):
    record = json.loads(run("evaluate-features", npz, "--json").out)
    assert record.keys() >= KEYS
    expected = evaluate_retrieval(*features.arrays).to_json()
    assert {key: record[key] for key in KEYS} == expected


def test_mat_file_gives_the_same(run, npz, features, tmp_path):
    names = ("query_f", "query_label", "query_cam", "gallery_f", "gallery_label", "gallery_cam")
    scipy.io.savemat(tmp_path / "f.mat", dict(zip(names, features.arrays, strict=True)))
    got = json.loads(run("evaluate-features", tmp_path / "f.mat", "--json").out)
    assert got == json.loads(run("evaluate-features", npz, "--json").out)


def test_reranking_and_operating_point(run, npz):
    plain = json.loads(run("evaluate-features", npz, "--json").out)
    record = json.loads(run("evaluate-features", npz, "--rerank", "--operating-point", "0.05", "--json").out)
    assert record["without_rerank"] == {key: plain[key] for key in KEYS}
    assert record["mAP"] != plain["mAP"]
    assert [point["fpr"] for point in record["operating_points"]] == [0.1, 0.05, 0.01, 0.001, 0.0001]
    assert record["operating_points"][-1]["threshold"] is None
    table = run("evaluate-features", npz, "--rerank", "--operating-point", "0.05").out
    assert "re-ranked" in table
    assert "mAP trap." in table
    assert "0.05" in table


def test_extract_a_data_set_and_evaluate_it(run, tmp_path, rendered):
    options = ("--weights", "none", "--size", "16x8", "--device", "cpu")
    outcome = run("extract", "resnet18", *options, rendered / "site-b", "-o", tmp_path / "f.npz")
    assert outcome.status == 0
    assert "198 query and 488 gallery features" in outcome.out
    record = json.loads(run("evaluate-features", tmp_path / "f.npz", "--json").out)
    assert record["num_valid_queries"] == 198
    assert 0 < record["mAP_trapezoid"] < record["mAP"] < 0.5
    with np.load(tmp_path / "f.npz") as archive:
        paths = archive["query_paths"].tolist()
        assert paths == [path.as_posix() for path in sorted((rendered / "site-b" / "query").glob("*.jpg"))]
        assert archive["query_pids"].tolist() == [int(Path(path).name[:4]) for path in paths]
        names = archive["camera_names"].tolist()
        assert [names[camid] for camid in archive["query_camids"]] == [Path(path).name[5:7] for path in paths]
        assert archive["gallery_paths"].shape == (488,)


def test_extract_chosen_splits(run, tmp_path, small_sites):
    outcome = run("extract", "resnet18", *TINY, small_sites / "site-a", "--split", "train", "-o", tmp_path / "f.npz")
    assert outcome.status == 0
    with np.load(tmp_path / "f.npz") as archive:
        assert set(archive.files) == {f"train_{what}" for what in ("features", "paths", "pids", "camids")} | {
            "camera_names"
        }
        assert len(set(archive["train_pids"].tolist())) == 5


def test_extract_images_of_unknown_people(run, tmp_path, small_sites):
    """Paths and cameras are known; a pid is not made up."""
    site = shutil.copytree(small_sites / "site-a" / "query", tmp_path / "crops")
    names = sorted(path.name for path in site.glob("*.jpg"))
    lines = [f"crops/{name},,{number % 2},train" for number, name in enumerate(names)]
    (tmp_path / "list.csv").write_text("\n".join(["path,pid,camid,split", *lines]) + "\n")
    outcome = run("extract", "resnet18", *TINY, tmp_path / "list.csv", "-o", tmp_path / "f.npz")
    assert outcome.status == 0
    assert f"{len(names)} train features" in outcome.out
    with np.load(tmp_path / "f.npz") as archive:
        assert "train_pids" not in archive.files
        assert archive["train_camids"].tolist() == [number % 2 for number in range(len(names))]
        assert archive["train_paths"].tolist() == [(site / name).as_posix() for name in names]


def test_extract_image_files(run, tmp_path, rendered):
    images = sorted((rendered / "site-a" / "query").glob("*.jpg"))[:3]
    outcome = run("extract", "resnet18", "--weights", "none", "--size", "32x16", *images, "-o", tmp_path / "f.npz")
    assert outcome.status == 0
    with np.load(tmp_path / "f.npz") as archive:
        assert archive["features"].shape == (3, 512)
        assert np.allclose(np.linalg.norm(archive["features"], axis=1), 1, atol=1e-5)
        assert archive["paths"].tolist() == [path.as_posix() for path in images]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate-features", "nope.npz"], "nope.npz: no such file"),
        (["evaluate-features", "{bad}"], "bad.npz: cannot be read as .npz"),
        (["evaluate-features", "{npz}", "--distance", "cos"], "cos"),
        (["evaluate-features", "{npz}", "--operating-point", "2"], "operating point: expected a false positive rate"),
        (["extract", "resnet1", "x.jpg", "-o", "{tmp}/f.npz"], "resnet1: no such run or file of weights"),
        (["extract", "{bad}", "x.jpg", "-o", "{tmp}/f.npz"], "bad.npz"),
        (
            ["extract", "resnet18", "--weights", "none", "x.jpg", "-o", "{tmp}/f.npz"],
            "1 of 1 images are no files: x.jpg",
        ),
        (["extract", "resnet18", "--weights", "none", "{bad}", "-o", "{tmp}/f.npz"], "bad.npz"),
        (["extract", "resnet18", "--weights", "none", "{bad}", "-o", "{tmp}/f.txt"], "f.txt: expected the name"),
        (["extract", "resnet18", *TINY, "{bad}", "--split", "query", "-o", "{tmp}/f.npz"], "--split belongs to a data"),
        (["extract", "resnet18", *TINY, "{site}", "--split", "test", "-o", "{tmp}/f.npz"], "unknown split 'test'"),
        (["evaluate-features", "{npz}", "--rerank", "--k1", "72"], "k1: expected 1 to 71, fewer than the 72 images"),
        (
            ["evaluate-features", "{npz}", "--rerank", "--k1", "5"],
            "k2: expected 1 to k1 = 5, got 6; lower k2 too (--k2)",
        ),
        (["rank", "resnet18"], "give one of: --query and --gallery, two folders; --data, a data set; --features"),
        (["rank", "resnet18", "--query", "{tmp}"], "give one of: --query and --gallery, two folders"),
        (["rank", "--data", "{site}"], "give the MODEL to extract features with"),
        (["rank", "resnet18", "--features", "{npz}"], "resnet18: --features needs no model"),
        (["rank", "--features", "{npz}", "-o", "{tmp}/ranks.txt"], "ranks.txt: expected a name that ends in .csv or"),
        (["rank", "resnet18", *TINY, "--query", "{tmp}/q", "--gallery", "{tmp}/g"], "q: no such folder"),
        (["extract", "resnet18", "--size", "16", "x.jpg", "-o", "{tmp}/f.npz"], "--size: expected height and width"),
        (["extract", "resnet18", "--size", "9" * 5000 + "x1", "x.jpg", "-o", "{tmp}/f.npz"], f"got '{'9' * 37}...'"),
        (["evaluate", "resnet18", "--weights", "none"], "give the data set to evaluate on, --data PATH"),
        # without --weights none: nothing may be downloaded first
        (["evaluate", "resnet18"], "resnet18: give the data set to evaluate on, --data PATH"),
        (["ranked-lists", "resnet18", "{bad}"], "resnet18: give the data set to search, --data PATH"),
        (["ranked-lists", "{tmp}/nothing"], "nothing: no such run or file of weights"),
        (["verify", "resnet18", "{one_fold}", "--pairs", "20"], "--pairs is the number of pairs to draw with --from; "),
        (["verify", "resnet18", "--from", "{site}", "--images", "/"], "--images belongs to PAIRS"),
        (["verify", "resnet18", "{one_fold}", "--images", "/"], "one_fold.csv: all pairs are in one fold"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(run, npz, tmp_path, small_sites, arguments, message):
    bad = tmp_path / "in" / "bad.npz"
    bad.parent.mkdir()
    bad.write_bytes(b"garbage")
    one_fold = bad.parent / "one_fold.csv"
    one_fold.write_text(f"path1,path2,same\n{bad},{bad},1\n{bad},{npz},0\n")
    places = {"npz": npz, "bad": bad, "tmp": tmp_path, "one_fold": one_fold, "site": small_sites / "site-a"}
    outcome = run(*(text.format(**places) for text in arguments))
    assert outcome.status == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("command", ["angles", "verify", "calibrate", "ranked-lists", "extract"])
def test_where_a_file_cannot_go_is_said_before_the_work(run, tmp_path, rendered, command):
    """No command gets as far as its model, which does not exist."""
    folder = tmp_path / ("calibration.png" if command == "calibrate" else "there")
    folder.mkdir()
    source = ("--from", rendered / "site-b") if command == "verify" else ()
    images = ("x.jpg",) if command == "extract" else ()
    if command == "calibrate":
        outcome = run(command, tmp_path)
    else:
        outcome = run(command, tmp_path / "nothing", *images, *source, "-o", folder)
        below = run(command, tmp_path / "nothing", *images, *source, "-o", Path(__file__) / "file.png")
        assert f"file.png: cannot be written, {Path(__file__)} is not a folder" in below.err
    assert outcome.status == 2
    assert outcome.err == f"error: {folder}: is a folder; give the name of the file to write\n"


def test_a_folder_that_must_not_be_written_to(run, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda folder, mode: folder != tmp_path)
    outcome = run("angles", tmp_path / "nothing", "-o", tmp_path / "new" / "file.png")
    assert f"file.png: cannot be written, the folder {tmp_path} is not writable" in outcome.err


def test_pictures_that_would_be_too_large(run, tmp_path, rendered, monkeypatch):
    random = create_backbone("resnet18", width=0.125, weights="none")
    monkeypatch.setattr(
        "reid_da.training.trained.load_trained", lambda model: TrainedModel(network=random, image_size=(16, 8))
    )
    arguments = ("ranked-lists", "some", "--data", rendered / "site-b", "-o", tmp_path / "lists.png")
    outcome = run(*arguments, "--num-queries", 10_000, "--num", 1000)
    assert outcome.status == 2
    assert "queries with 1000 images" not in outcome.err  # there are fewer
    assert "images each would make a picture of" in outcome.err
    assert "ask for fewer with --num-queries or --num" in outcome.err
    assert run(*arguments, "--num-queries", 1, "--num", 2).status == 0


@pytest.fixture
def persons(small_sites, tmp_path):
    """A folder for each person of a site's test images, whatever camera took them."""
    for file in sorted((small_sites / "site-b").glob("*e*/0*.jpg")):
        if file.parent.name != "bounding_box_train":
            (tmp_path / "persons" / file.name[:4]).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / "persons" / file.name[:4])
    return tmp_path / "persons"


MODEL = ("resnet18", "--weights", "none", "--size", "16x8", "--device", "cpu")


def test_identities_without_cameras_are_evaluated(run, persons, caplog):
    question = run("evaluate", *MODEL, "--data", f"{persons}#pattern=(?P<pid>[^/]+)/")
    assert "has no query and gallery images to evaluate on" in question.err
    assert run("data", "import", persons, "--pattern", "(?P<pid>[^/]+)/", "--split", "0.8").status == 0
    outcome = run("evaluate", *MODEL, "--data", persons, "--operating-point", "0.5")
    assert outcome.status == 0
    assert "4 of 4 queries have a true match and count" in outcome.out
    assert "matches by the query's own camera" in " ".join(outcome.out.split())
    assert "within cameras too" in outcome.out
    assert f"{persons}: read as manifest (manifest.csv)" in caplog.text
    same = run("evaluate", *MODEL, "--data", persons, "--same-camera", "include", "--operating-point", "0.5")
    assert "4 of 4 queries have a true match and count" in same.out
    refused = run("evaluate", *MODEL, "--data", persons, "--same-camera", "exclude")
    assert refused.status == 2
    assert "count such matches: same_camera='include' (--same-camera include)" in refused.err
    assert "unknown same_camera 'both'" in run("evaluate", *MODEL, "--data", persons, "--same-camera", "both").err


def test_ranked_lists_without_cameras(run, persons, tmp_path, monkeypatch):
    random = create_backbone("resnet18", width=0.125, weights="none")
    monkeypatch.setattr(
        "reid_da.training.trained.load_trained", lambda model: TrainedModel(network=random, image_size=(16, 8))
    )
    assert run("data", "import", persons, "--pattern", "(?P<pid>[^/]+)/", "--split", "0.8").status == 0
    outcome = run("ranked-lists", "some", "--data", persons, "-o", tmp_path / "lists.png", "--num", 3)
    assert outcome.status == 0
    assert (tmp_path / "lists.png").read_bytes().startswith(b"\x89PNG")
    outcome = run("ranked-lists", "some", "--data", persons, "--same-camera", "exclude", "-o", tmp_path / "l.png")
    assert "no query has a true match in the gallery" in outcome.err


@pytest.mark.parametrize("command", ["evaluate", "extract", "verify"])
def test_images_that_cannot_be_decoded_are_all_named(run, tmp_path, small_sites, command):
    shutil.copytree(small_sites / "site-b", tmp_path / "site")
    broken = sorted((tmp_path / "site" / "query").iterdir())[:1] + sorted((tmp_path / "site").glob("*test/*"))[:1]
    for file in broken:
        file.write_bytes(b"no picture")
    model = ("resnet18", "--weights", "none", "--size", "16x8", "--device", "cpu")
    rest = {
        "evaluate": ("--data", tmp_path / "site"),
        "extract": (tmp_path / "site", "-o", tmp_path / "f.npz"),
        "verify": ("--from", tmp_path / "site", "--pairs", 20),
    }
    outcome = run(command, *model, *rest[command])
    assert outcome.status == 2
    line = outcome.err.splitlines()[-1]
    assert "images cannot be decoded" in line
    assert "on_error" not in outcome.err
    assert line.startswith(f"error: {tmp_path / 'site'}: ")
    if command != "verify":  # which may draw one of them only
        assert all(str(file) in line for file in broken)
        assert line.endswith("repair or remove them")


@pytest.fixture(scope="module")
def weights_with_a_nan(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "broken.pt"
    state = create_backbone("resnet18", weights="none").state_dict()
    state["layer2.1.conv2.weight"][5, 4, 1, 1] = float("nan")
    torch.save(state, file)
    return file


@pytest.mark.parametrize("command", ["evaluate", "extract", "verify", "rank"])
def test_one_nan_in_the_weights_is_blamed_on_the_file(run, tmp_path, small_sites, weights_with_a_nan, command):
    site = small_sites / "site-b"
    rest = {
        "evaluate": ("--data", site),
        "extract": (site, "-o", tmp_path / "f.npz"),
        "verify": ("--from", site, "--pairs", 20),
        "rank": ("--data", site, "-o", tmp_path / "ranks.csv"),
    }
    options = ("--backbone", "resnet18", "--size", "16x8", "--device", "cpu")
    outcome = run(command, weights_with_a_nan, *options, *rest[command])
    assert outcome.status == 2
    line = outcome.err.splitlines()[-1]
    assert line.startswith(f"error: {weights_with_a_nan}: layer2.1.conv2.weight is not finite: it holds NaN")
    assert not list(tmp_path.iterdir())


def test_reranking_few_images(run, tmp_path, features):
    few = replace(
        features,
        gallery_features=features.gallery_features[:4],
        gallery_pids=features.gallery_pids[:4],
        gallery_camids=features.gallery_camids[:4] + 1,
    )
    save_feature_file(tmp_path / "few.npz", few)
    outcome = run("evaluate-features", tmp_path / "few.npz", "--rerank")
    assert outcome.status == 2
    assert "16 images of query and gallery together, got 20; there are few images: lower k1 (--k1)" in outcome.err
    assert run("evaluate-features", tmp_path / "few.npz", "--rerank", "--k1", 5, "--k2", 2).status == 0


def test_rank_folders_without_labels(run, tmp_path, small_sites):
    """Names say nothing about people or cameras; an image that is in the gallery too is found first."""
    for folder, split in (("new", "query"), ("old", "bounding_box_test")):
        (tmp_path / folder).mkdir()
        for number, file in enumerate(sorted((small_sites / "site-b" / split).iterdir())[:6]):
            shutil.copy(file, tmp_path / folder / f"shot {number}.jpg")
    shutil.copy(tmp_path / "new" / "shot 3.jpg", tmp_path / "old" / "again.jpg")
    folders = ("--query", tmp_path / "new", "--gallery", tmp_path / "old")
    outcome = run("rank", "resnet18", *TINY, *folders, "--top", 2, "-o", tmp_path / "ranks.csv")
    assert outcome.status == 0
    assert "6 queries, 2 images each" in outcome.out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "ranks.csv").read_text())))
    assert [row["rank"] for row in rows] == ["1", "2"] * 6
    assert {row["query"] for row in rows} == {str(path) for path in (tmp_path / "new").iterdir()}
    first = next(row for row in rows if row["query"].endswith("shot 3.jpg"))
    assert first["gallery"] == str(tmp_path / "old" / "again.jpg")
    assert float(first["distance"]) == pytest.approx(0, abs=1e-5)
    assert run("rank", "resnet18", *TINY, *folders, "--top", 2).out.count("\n") == 13


def test_rank_a_data_set_and_its_feature_file_alike(run, tmp_path, small_sites):
    run("extract", "resnet18", *TINY, small_sites / "site-b", "-o", tmp_path / "f.npz")
    of_file = json.loads(run("rank", "--features", tmp_path / "f.npz", "--json", "--top", 3).out)
    assert of_file["distance"] == "cosine"
    assert all(len(entry["gallery"]) == 3 for entry in of_file["rankings"])
    # random weights are drawn anew for every command, so only the names of queries can be compared
    of_data = json.loads(run("rank", "resnet18", *TINY, "--data", small_sites / "site-b", "--json").out)
    assert [entry["query"] for entry in of_data["rankings"]] == [entry["query"] for entry in of_file["rankings"]]
    reranked = run("rank", "--features", tmp_path / "f.npz", "--rerank", "--k1", 5, "--k2", 2, "--json")
    assert json.loads(reranked.out)["distance"] == "k-reciprocal re-ranking of cosine"
