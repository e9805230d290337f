import json
import shutil

import pytest
import torch

from reid_da.models import create_backbone


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "osnet.pth"
    torch.save(create_backbone("osnet_x0_25", weights="none", image_size=(32, 16)).state_dict(), file)
    return file


@pytest.fixture
def index(run, weights, small_sites, tmp_path):
    crops = shutil.copytree(small_sites / "site-b" / "query", tmp_path / "crops")
    options = ("--model", weights, "--backbone", "osnet_x0_25", "--size", "32x16", "--device", "cpu")
    outcome = run("index", "add", tmp_path / "index", crops, *options)
    assert outcome.status == 0, outcome.err
    return tmp_path / "index"


def test_the_life_of_an_index(run, index, tmp_path):
    crops = tmp_path / "crops"
    count = len(list(crops.iterdir()))
    listed = json.loads(run("index", "list", index, "--json").out)
    assert listed["images"] == count
    assert f"{count} images, 0 identities" in run("index", "list", index).out
    assert run("index", "list", index, "--images").out.count("\n") == count + 1
    again = run("index", "add", index, crops)
    assert f"0 images added, {count} were there" in again.out
    assert "1 images removed" in run("index", "remove", index, "1").out
    assert "vectors of 1 removed images dropped" in run("index", "compact", index).out
    assert "1 images forgotten" in run("index", "forget", index, "2").out
    assert json.loads(run("index", "add", index, crops, "--json").out)["forgotten"] == 1
    (crops / sorted(file.name for file in crops.iterdir())[4]).unlink()
    broken = run("index", "verify", index, "--files")
    assert broken.status == 1
    assert "is missing" in broken.out
    assert "1 images removed" in run("index", "remove", index, "--missing").out
    assert run("index", "verify", index, "--files").status == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "nothing"), "no index there"),
        (("add", "new", "INDEX/../crops"), "--model RUN"),
        (("add", "INDEX", "nothing"), "no such folder or image"),
        (("remove", "INDEX"), "give images"),
        (("remove", "INDEX", "nothing"), "no image of"),
        (("forget", "INDEX", "1", "--retain-days", "3"), "give one of"),
        (("forget", "INDEX", "--identity", "3"), "no identity 3"),
    ],
)
def test_mistakes_are_one_line(run, index, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    outcome = run("index", *(argument.replace("INDEX", str(index)) for argument in arguments))
    assert outcome.status == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_search_prints_tables_csv_json_and_pictures(run, index, tmp_path):
    query = sorted((tmp_path / "crops").iterdir())[0]
    table = run("search", index, query, "--top", 3, "--threshold", 0.5, "--picture", tmp_path / "p.png")
    assert table.status == 0, table.err
    assert query.name[:13] in table.out
    assert "threshold 0.5000 (as given)" in table.err
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads(run("search", index, query, "--top", 3, "--json").out)
    assert record["answers"][0]["hits"][0]["path"] == str(query)
    assert run("search", index, query, "--top", 3, "--csv").out.count("\n") == 4
    assert "--kind ivf" in run("search", index, query, "--search", "ivf").err
    assert "finds 100.0 %" in run("index", "build", index, "--kind", "hnsw").out
    hits = run("search", index, query, "--top", 3, "--search", "hnsw", "--csv")
    assert hits.out.count("\n") == 4
    assert "of the 20 nearest" in hits.err


def test_a_threshold_without_labels_is_used_by_search(run, index, tmp_path):
    crops = tmp_path / "crops"
    rows = [
        f"{file.name},{file.name.split('_')[1][1]},{number // 3}" for number, file in enumerate(sorted(crops.iterdir()))
    ]
    (tmp_path / "times.csv").write_text("\n".join(["path,camera,time", *rows]))
    assert "described anew" in run("index", "add", index, crops, "--table", tmp_path / "times.csv").out
    unresolved = run("search", index, crops, "--fpr", "0.5")
    assert unresolved.status == 2
    found = run("index", "threshold", index, "--fpr", "0.5", "--window", "5")
    assert found.status == 0, found.err
    assert "of same-camera at the same time" in found.out
    assert run("search", index, crops, "--fpr", "0.5").status == 0
    styled = run("index", "threshold", index, "--fpr", "0.5", "--window", "5", "--styles", "statistics")
    assert "other style passes (%)" in styled.out
    assert json.loads(run("index", "threshold", index, "--window", "5", "--json").out)["unit"] == "minute"


def test_identities_from_cluster_to_undo(run, index, tmp_path):
    done = run("cluster", index, "--min-samples", 2, "--eps", 0.9, "-o", tmp_path / "m.csv", "--sheets", tmp_path / "s")
    assert done.status == 0, done.err
    listed = json.loads(run("index", "identities", index, "--json").out)
    assert len(listed) == len(list((tmp_path / "s").iterdir())) > 0
    first = listed[0]["id"]
    number = json.loads(run("index", "list", index, "--images", "--json").out)
    ids = [image["id"] for image in number if image["identity"] == first]
    assert f"has {1} images" in run("index", "split", index, ids[0]).out
    assert "is called 'red coat'" in run("index", "name", index, first, "red coat").out
    other = json.loads(run("index", "identities", index, "--json").out)[-1]["id"]
    assert f"identity {first} has the images of all 2" in run("index", "merge", index, first, other).out
    assert "red coat" in run("index", "identities", index).out
    for action in ("merge", "name", "split", "cluster"):
        assert f"{action} taken back" in run("index", "undo", index).out
    assert "nothing to take back" in run("index", "undo", index).out
    mistake = run("cluster", index, "--eps", 5)
    assert mistake.status == 2
    assert "--eps" in mistake.err


def test_a_folder_is_clustered_in_one_command(run, small_sites, tmp_path):
    crops = shutil.copytree(small_sites / "site-b" / "query", tmp_path / "crops")
    arguments = ("cluster", crops, "--model", "osnet_x0_25", "--device", "cpu", "--min-samples", 2)
    assert "--model RUN" in run("cluster", crops).err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reid_da.gallery.embedder.load", _random_model)
        outcome = run(*arguments, "--eps", 0.9, "--json")
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)["identities"] >= 1
    assert (crops / ".gallery" / "index.sqlite").exists()


def _random_model(model, **options):
    from reid_da import load

    return load(model, **{**options, "weights": "none", "image_size": (32, 16)})


def test_nothing_is_left_of_an_index_that_could_not_be_begun(run, weights, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "is a file, and no index" in run("index", "list", tmp_path / "file").err
    (tmp_path / "crops").mkdir()
    options = ("--model", weights, "--backbone", "osnet_x0_25", "--size", "32x16", "--device", "cpu")
    assert "has no images" in run("index", "add", tmp_path / "index", tmp_path / "crops", *options).err
    assert not (tmp_path / "index").exists()
    (tmp_path / "crops" / "0001_c1_1.jpg").write_bytes(b"no image")
    assert "is a file; name a folder" in run("index", "add", tmp_path / "file", tmp_path / "crops", *options).err
    empty = run("index", "add", tmp_path / "index", tmp_path / "crops", *options)
    assert (empty.status, "is still empty, none of 1 images can be decoded" in empty.err) == (2, True)
    nothing = run("search", tmp_path / "index", tmp_path / "crops")
    assert (nothing.status, "has no images yet" in nothing.err) == (2, True)
