import json
import shutil

import pytest

import reid_da


def test_version_and_help(run):
    assert run("--version").out == f"reid-da {reid_da.__version__}\n"
    for command in ("check", "stats", "import"):
        help_text = run("data", command, "--help")
        assert help_text.status == 0
        assert "Example" in help_text.out


def test_check_of_a_sound_set(run, rendered):
    outcome = run("data", "check", rendered / "site-b")
    assert outcome.status == 0
    assert outcome.out.startswith("valid")
    report = json.loads(run("data", "check", rendered / "site-b", "--json").out)
    assert report["is_sound"] is True
    assert {split["name"]: split["images"] for split in report["splits"]} == {
        "train": 1152,
        "query": 198,
        "gallery": 514,
    }


def test_check_of_a_damaged_set(run, rendered, tmp_path):
    root = shutil.copytree(rendered / "site-b", tmp_path / "set")
    first = next((root / "query").glob("*.jpg"))
    first.write_bytes(first.read_bytes()[:700])
    outcome = run("data", "check", root)
    assert outcome.status == 1
    assert first.name in outcome.out
    assert not json.loads(run("data", "check", root, "--json").out)["is_sound"]


def test_stats_with_a_picture(run, rendered, tmp_path):
    outcome = run("data", "stats", rendered / "site-a", "--picture", tmp_path / "p.png")
    assert outcome.status == 0
    assert "138" in outcome.out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(run("data", "stats", rendered / "site-a", "--json").out)["name"] == "site-a (dukemtmcreid)"


def test_import_then_check_in_one_command_each(run, rendered, tmp_path):
    crops = shutil.copytree(rendered / "site-b" / "bounding_box_train", tmp_path / "crops")
    outcome = run("data", "import", crops, "--split", "0.5")
    assert outcome.status == 0
    assert "manifest.csv: train " in outcome.out
    report = json.loads(run("data", "check", crops, "--json").out)
    assert report["is_sound"]
    assert report["format"] == "manifest"


def test_what_names_do_not_tell_is_asked_and_the_answer_is_kept(run, rendered, tmp_path):
    for number, file in enumerate(sorted((rendered / "site-b" / "query").glob("*.jpg"))[:12]):
        (tmp_path / "crops" / f"p{file.name[:4]}").mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "crops" / f"p{file.name[:4]}" / f"{number}.jpg")
    crops = tmp_path / "crops"
    question = run("data", "check", crops)
    assert question.status == 2
    assert question.err.count("\n") == 1
    assert "--layout person-folders" in question.err
    assert f"reid-da data import {crops} --layout person-folders" in question.err
    answered = run("data", "check", crops, "--layout", "person-folders")
    assert answered.status == 0
    assert "a folder for each person, cameras unknown" in " ".join(answered.out.split())
    assert run("data", "check", f"{crops}#layout=person-folders").out.splitlines()[3:] == answered.out.splitlines()[3:]
    assert run("data", "import", crops, "--layout", "person-folders").status == 0
    kept = json.loads(run("data", "check", crops, "--json").out)
    assert kept["format"] == "manifest"
    assert kept["reading"].endswith("cameras unknown")


def test_import_tells_where_the_names_of_persons_are(run, rendered, tmp_path):
    for name, file in zip(("ann", "bob"), sorted((rendered / "site-b" / "query").glob("*.jpg")), strict=False):
        (tmp_path / "[crops]" / name).mkdir(parents=True)
        shutil.copy(file, tmp_path / "[crops]" / name)
    outcome = run("data", "import", tmp_path / "[crops]", "--layout", "person-folders")
    assert outcome.out.splitlines() == [
        f"{tmp_path}/[crops]/manifest.csv: train 2; cameras unknown",
        f"{tmp_path}/[crops]/manifest.persons.csv: which person has which pid",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere"], "error: nowhere: no such file or folder"),
        (["check", "{site}", "--format", "duke"], "unknown format 'duke' (did you mean 'dukemtmcreid'?)"),
        (["check", "{site}", "--pattern", "(?P<split>x)"], "it needs (?P<camera>...)"),
        (["check", "{site}", "--layout", "flat"], "all of them would be taken for training images"),
        (["check", "{site}", "--trial", "1"], "option trial belongs to the format vehicleid, prid2011, viper"),
        (["import", "{site}", "--pattern", "(?P<pid>x)", "-o", "{tmp}/m.csv"], "would be taken for training images"),
        (["stats", "{site}", "--boxes", "detected"], "option boxes belongs to the format cuhk03np"),
        (["stats", "{site}", "--picture", "/proc/x/p.png"], "/proc/x"),
        (["import", "{site}/query", "--split", "1.5", "-o", "{tmp}/m.csv"], "above 0 and at most 1, got 1.5"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(run, rendered, tmp_path, arguments, message):
    outcome = run("data", *(text.format(site=rendered / "site-b", tmp=tmp_path) for text in arguments))
    assert outcome.status == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
