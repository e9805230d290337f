import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from reid_da.evaluation import FeatureSet, evaluate_retrieval, save_feature_file
from reid_da.models.backbones import create_backbone
from reid_da.training.trained import TrainedModel

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
            "1 of 1 images do not exist: x.jpg",
        ),
        (["extract", "resnet18", "--weights", "none", "{bad}", "-o", "{tmp}/f.npz"], "bad.npz"),
        (["extract", "resnet18", "--weights", "none", "{bad}", "-o", "{tmp}/f.txt"], "f.txt: expected the name"),
        (["extract", "resnet18", "--size", "16", "x.jpg", "-o", "{tmp}/f.npz"], "--size: expected height and width"),
        (["evaluate", "resnet18", "--weights", "none"], "give the data set to evaluate on, --data PATH"),
        # without --weights none: nothing may be downloaded first
        (["evaluate", "resnet18"], "resnet18: give the data set to evaluate on, --data PATH"),
        (["ranked-lists", "resnet18", "{bad}"], "resnet18: give the data set to search, --data PATH"),
        (["ranked-lists", "{tmp}/nothing"], "nothing: no such run or file of weights"),
        (["verify", "resnet18", "{one_fold}", "--images", "/"], "one_fold.csv: all pairs are in one fold"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(run, npz, tmp_path, arguments, message):
    bad = tmp_path / "in" / "bad.npz"
    bad.parent.mkdir()
    bad.write_bytes(b"garbage")
    one_fold = bad.parent / "one_fold.csv"
    one_fold.write_text(f"path1,path2,same\n{bad},{bad},1\n{bad},{npz},0\n")
    outcome = run(*(text.format(npz=npz, bad=bad, tmp=tmp_path, one_fold=one_fold) for text in arguments))
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
        assert f"file.png: cannot be written, {Path(__file__)} is no folder" in below.err
    assert outcome.status == 2
    assert outcome.err == f"error: {folder}: is a folder; give the name of the file to write\n"


def test_a_folder_that_must_not_be_written_to(run, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda folder, mode: folder != tmp_path)
    outcome = run("angles", tmp_path / "nothing", "-o", tmp_path / "new" / "file.png")
    assert f"file.png: cannot be written, the folder {tmp_path} must not be written to" in outcome.err


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
