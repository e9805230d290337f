import json

import pytest

from reid_da.datasets import load_dataset
from reid_da.images import pack_images


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.delenv("REID_DA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user" / "reid-da"


def test_caches_are_announced_listed_and_cleared(run, small_sites, elsewhere, tmp_path, caplog):
    caplog.set_level("INFO", "reid_da")
    table = load_dataset(small_sites / "site-b").query
    site = tmp_path / "data" / "site"
    pack_images(table, size=(16, 8), cache_dir=site / ".reid-da-cache")
    assert "building the image cache" in caplog.text
    assert "reid-da cache" in caplog.text
    pack_images(table, size=(16, 8), cache_dir=elsewhere / "other-01234567")
    (site / ".reid-da-cache" / "mine.txt").write_text("not the cache's")
    listed = json.loads(run("cache", "list", tmp_path / "data", "--json").out)
    assert [entry["path"] for entry in listed] == [str(site / ".reid-da-cache"), str(elsewhere / "other-01234567")]
    assert all(entry["bytes"] > 16 * 8 * 3 * len(table) for entry in listed)
    assert "total" in run("cache", "list", tmp_path / "data").out
    assert run("cache", "clear", tmp_path / "data").out.count("removed") == 2
    assert [file.name for file in (site / ".reid-da-cache").iterdir()] == ["mine.txt"]
    assert not (elsewhere / "other-01234567").exists()
    assert json.loads(run("cache", "list", tmp_path / "data", "--json").out) == []
    assert "no such folder" in run("cache", "list", tmp_path / "nowhere").err
