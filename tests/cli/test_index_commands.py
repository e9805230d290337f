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
