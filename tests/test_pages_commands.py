"""The commands of README and docs are run, in the order of their pages, on a few images and with a step an epoch.

What a page calls MODEL or DATA is put in; settings shorten trainings. Commands that have
tests of their own are named in :data:`ELSEWHERE`, and those that need published data in :data:`NOT_RUN`.
"""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch

import reid_da
from reid_da.cli import main
from reid_da.models.backbones import create_backbone

sys.path.insert(0, str(Path(__file__).parent))
from test_readme import COMMANDS, ROOT

TINY = (
    *("epochs=1", "steps_per_epoch=1", "data.image_size=[32,16]", "device=cpu", "model.width=0.125"),
    *("batch.target=8", "pretrain.epochs=1", "pretrain.steps_per_epoch=1", "clustering.eps=0.4"),
    *("clustering.min_samples=2",),
)
NAMES = {
    "MODEL": "runs/demo",
    "RUN": "runs/demo",
    "DATA": "data/rendered/site-b",
    "DATASET": "data/rendered/site-b",
    "PATH/TO/Market-1501": "data/rendered/site-b",
}
ELSEWHERE = {
    "serve": "tests/gallery/test_serve.py",
    "export": "tests/exporting/test_export.py",
    "report": "tests/reporting/test_report.py",
    "ablate": "tests/cli/test_train_commands.py",
    "sweep": "tests/cli/test_train_commands.py",
    "compare": "tests/cli/test_train_commands.py",
    "camstyle": "tests/cli/test_camstyle_commands.py",
    "index": "tests/cli/test_index_commands.py",
    "search": "tests/cli/test_index_commands.py",
    "cluster": "tests/cli/test_index_commands.py",
    "angles": "tests/cli/test_evaluation_commands.py",
}
"""Commands, and the files of tests that run them."""
NOT_RUN = re.compile(
    r"cuhk03-np#|my-msmt17#"  # options of formats: tests/datasets/test_published_layouts.py
    r"|duke2market|supervised/market1501|views\.style=runs/styles-b|rendered/cluster_contrast"  # trained below, or long
    r"|--rerank"  # more neighbours than images
)


def lines() -> list[str]:
    """The commands that are run, each once, in the order of the pages."""
    found = dict.fromkeys(line.strip() for _, line in COMMANDS)
    return [line for line in found if line.split()[1] not in ELSEWHERE and not NOT_RUN.search(line)]


@pytest.fixture(scope="module")
def desk(small_sites, small_tree, tmp_path_factory):
    """A folder with what the pages name: crops, people with names, runs, weights."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "data").mkdir()
    (desk / "data" / "rendered").symlink_to(small_sites)
    (desk / "data" / "Market-1501-v15.09.15").symlink_to(small_sites / "site-b")
    for file in sorted((small_sites / "site-b" / "bounding_box_train").glob("*.jpg")):
        camera = re.search(r"_c(\d)", file.name)[1]
        (desk / "crops" / f"cam{camera}").mkdir(parents=True, exist_ok=True)
        # one time for all of a camera: everybody on them is somebody else to a threshold without labels
        shutil.copy(file, desk / "crops" / f"cam{camera}" / f"20261126-08301{camera}_{file.stem[-9:]}.jpg")
    names = iter(["anna", "ben", "cy", "dora", "eve", "fay", "gus", "hal"])
    people: dict[str, str] = {}
    for file in sorted((small_sites / "site-b" / "bounding_box_test").glob("0*_c*.jpg")):
        if (pid := file.name[:4]) != "0000":
            name = people.setdefault(pid, next(names) if pid not in people else "")
            camera = re.search(r"_c(\d)", file.name)[1]
            (desk / "people" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, desk / "people" / name / f"{file.stem[-9:]}_cam{camera}.jpg")
    for folder, source in (("new/query", "query"), ("new/gallery", "bounding_box_test"), ("old", "bounding_box_test")):
        shutil.copytree(small_sites / "site-b" / source, desk / folder)
    shutil.copy(next((small_sites / "site-b" / "query").glob("*.jpg")), desk / "query.jpg")
    for name in ("osnet_x1_0_msmt17.pth", "osnet_x0_25_msmt17.pth"):
        torch.save(create_backbone("osnet_x0_25", weights="none").state_dict(), desk / name)
    settings = {**small_tree, "epochs": 1, "steps_per_epoch": 1, "evaluate_every": 0, "pretrain": {"epochs": 1}}
    reid_da.fit(settings, desk / "runs" / "demo")
    return desk


def run(line: str) -> int:
    """The exit status of a command, with the names of the page filled in."""
    words = [NAMES.get(word, word) for word in shlex.split(re.sub(r"\[[^\]]*\]", "", line.partition(" #")[0]))[1:]]
    if words[0] == "train":
        words += [] if "--resume" in words else TINY
        words = ["epochs=2" if word == "epochs=60" else word for word in words]
    if (words[0] == "init" and {"--source", "--weights"} & set(words)) or "layout" in line:
        words = ["other.yaml" if word == "my_cameras.yaml" else word for word in words]
    if "data.test=people" in words:
        words = ["runs/other" if word == "runs/mine" else word for word in words]
    if words[0] == "evaluate-features":
        words = ["1e-1" if word == "1e-3" else word for word in words]
    if words[0] == "ranked-lists":
        words += ["--num", "3", *([] if "--queries" in words else ["--num-queries", "2"])]
    if words[0] == "calibrate":
        words = ["1e-1" if word == "1e-3" else word for word in words]
    if words[:2] == ["data", "import"] or words[0] == "init" or words[:2] == ["data", "template"]:
        words.append("--overwrite")
        # the manifest would answer for the folder from then on
        words += ["-o", f"{words[2].strip('/')}-other.csv"] if {"--layout", "--split"} & set(words) else []
    if words[0] in ("evaluate", "extract", "rank", "verify") and not {"--size", "--features"} & set(words):
        words += ["--size", "32x16"] if "osnet" not in line else ["--size", "64x32"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def label(file: Path) -> None:
    """What the page asks for: names in the column pid of a few rows, two of each camera."""
    rows = file.read_text().splitlines()
    people = {1: "anna", 2: "ben"}
    done: dict[str, int] = {}
    for number, row in enumerate(rows[1:], start=1):
        path, _, camera, split = row.split(",")
        done[camera] = done.get(camera, 0) + 1
        rows[number] = f"{path},{people.get(done[camera], '')},{camera},{split}"
    file.write_text("\n".join(rows) + "\n")


def test_the_commands_of_the_pages_run(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    failed = {}
    for line in lines():
        status = run(line)
        output = capsys.readouterr()
        if status:
            failed[line] = output.err.strip().splitlines()[-1:]
        if "data template" in line:
            label(Path("labels.csv"))
    assert not failed, "\n".join(f"{line}: {reason}" for line, reason in failed.items())
    assert len(lines()) > 25


@pytest.mark.parametrize(("command", "file"), ELSEWHERE.items())
def test_other_commands_are_run_by_tests_of_their_own(command, file):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"""["']{command}["']|{command}""", text), file
