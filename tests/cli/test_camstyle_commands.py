import json
import shutil
from functools import partial

import pytest

from reid_da.studies import inspection
from reid_da.styles.check import check_styles
from reid_da.training.run_folder import RunFolder

SETTINGS = ("data.image_size=[16, 8]", "channels=4", "num_blocks=1", "batch=8", "epochs=1", "device=cpu")


@pytest.fixture
def site(small_sites, tmp_path):
    """A copy of the small site-b, whose folder may be written to."""
    # other tests leave packed images beside the originals
    ignore = shutil.ignore_patterns(".reid-da-cache")
    return shutil.copytree(small_sites / "site-b", tmp_path / "site-b", ignore=ignore)


@pytest.fixture(autouse=True)
def short_checks(monkeypatch):
    """Let the camera classifier of a check train for 20 steps; how well it does is a test of styles/check.py."""
    monkeypatch.setattr(inspection, "check_styles", partial(check_styles, steps=20))


def test_from_training_to_styles_that_are_used(run, site, tmp_path):
    model, fakes = tmp_path / "styles", site / "bounding_box_train_camstyle"
    assert run("camstyle", "train", site, *SETTINGS, "-o", model).status == 0
    assert list((model / "samples").glob("*.png"))
    assert run("curves", model).status == 0
    assert (model / "curves.png").read_bytes().startswith(b"\x89PNG")
    outcome = run("camstyle", "generate", site, model, "--jpeg", "--naming", "cyclegan")
    assert outcome.status == 0
    assert "train with views.style=" in outcome.out
    packed = outcome.out.partition("views.style=")[2].splitlines()[0]
    assert f"{fakes}: " in outcome.out
    assert run("camstyle", "import", fakes, "--size", "16x8").status == 0

    picture = tmp_path / "check.png"
    arguments = ("camstyle", "check", site, "statistics", model, packed, "files", "--size", "16x8", "--images", 40)
    outcome = run(*arguments, "-o", picture)
    assert outcome.status == 0
    assert "identity" in outcome.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = json.loads(run(*arguments, "--json").out)
    assert [style["name"] for style in found["styles"][:3]] == ["identity", "statistics", "styles"]


def test_a_style_that_does_not_fit_is_refused_before_images_are_packed(run, site, small_sites, tmp_path):
    model, crops = tmp_path / "styles", tmp_path / "crops"
    assert run("camstyle", "train", site, *SETTINGS, "-o", model).status == 0
    for number in (1, 2):
        (crops / f"cam{number}").mkdir(parents=True)
        for file in sorted((site / "bounding_box_train").glob(f"*_c{number}*.jpg"))[:4]:
            shutil.copy(file, crops / f"cam{number}")
    outcome = run("camstyle", "check", crops, "statistics", model, "--size", "16x8")
    assert outcome.status == 2
    assert "cameras, and the images are of 2" in outcome.err
    assert "packing" not in outcome.err
    assert not list(crops.rglob("*.pack"))


def test_import_counts_and_names_what_is_missing(run, site):
    folder = site / "bounding_box_train_camstyle"
    assert run("camstyle", "generate", site, "--method", "histogram", "--size", "16x8", "--jpeg").status == 0
    files = sorted(folder.iterdir())
    for file in files[:4]:
        file.unlink()
    outcome = run("camstyle", "import", folder, "--size", "16x8")
    assert outcome.status == 2
    assert f"4 of {len(files)} camera-style images are missing: {files[0].stem}, " in outcome.err
    assert "and 1 more" in outcome.err
    assert run("camstyle", "import", folder, "--size", "16x8", "--allow-missing").status == 0


def test_fakes_in_a_folder_for_each_camera_stay_no_camera(run, site, tmp_path):
    crops = tmp_path / "crops"
    for file in sorted((site / "bounding_box_train").glob("*_c[12]*.jpg")):
        folder = crops / f"cam{file.name[6]}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    for _ in range(2):
        outcome = run("camstyle", "generate", crops, "--method", "statistics", "--size", "16x8", "--jpeg")
    assert "exists already" in outcome.err
    assert sorted(folder.name for folder in crops.glob("[!.]*")) == ["cam1", "cam2", "train_camstyle"]
    assert "2 cameras" in run("camstyle", "import", crops / "train_camstyle", "--size", "16x8").out


def test_broken_images_are_named_or_left_out(run, site, tmp_path):
    fakes, size = tmp_path / "fakes", ("--size", "16x8")
    first = sorted((site / "bounding_box_train").iterdir())[0]
    first.write_bytes(b"broken")
    for arguments in (("generate", site, "--method", "statistics"), ("check", site, "statistics")):
        outcome = run("camstyle", *arguments, *size)
        assert outcome.status == 2
        assert f"1 image of 57 cannot be decoded: {first} (" in outcome.err
        assert "--skip-broken of camstyle" in outcome.err
    generate = ("camstyle", "generate", site, "--method", "statistics", "--skip-broken", *size)
    assert run(*generate, "--jpeg", "--folder", fakes).status == 0
    assert not list(fakes.glob(f"{first.stem}*"))
    found = json.loads(run("camstyle", "check", site, "statistics", "--skip-broken", "--json", *size).out)
    assert found["num_trained"] + found["num_images"] == 56

    for file in sorted(fakes.iterdir())[:4]:
        file.write_bytes(b"broken")
    load = ("camstyle", "import", fakes, "--data", site, "--allow-missing", *size)
    first.unlink()
    outcome = run(*load)
    assert outcome.status == 2
    assert "4 images of " in outcome.err
    assert "and 1 more; repair or remove them" in outcome.err
    assert run(*load, "--skip-broken").status == 0


def test_settings_of_each_method(run):
    assert "critic_steps: 5" in run("camstyle", "settings").out
    outcome = run("camstyle", "settings", "--method", "cyclegan", "optimizer.lr=0.001")
    assert "pool_size: 50" in outcome.out
    assert "lr: 0.001" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "SITE"), "give either MODEL"),
        (("generate", "SITE", "SITE/none", "--method", "statistics"), "give either MODEL"),
        (("generate", "SITE", "--method", "statistic"), "did you mean 'statistics'"),
        (("generate", "SITE", "--method", "statistics", "--naming", "stargam"), "did you mean 'stargan'"),
        (("generate", "SITE", "SITE/none"), "none: no such run of camstyle train"),
        (("generate", "SITE", "--method", "statistics", "--size", "big"), "--size: expected height and width"),
        (("import", "SITE/nothing"), "no such folder of camera-style images"),
        (("import", "SITE/query"), "looked for camera-style images named like"),
        (("check", "SITE", "SITE/none"), "none: no such run of camstyle train"),
        (("check", "SITE", "statistics", "statistics"), "have one name"),
        (("import", "RUN", "--data", "SITE"), "run: is the folder of a run, not of images; camstyle generate DATA"),
        (("generate", "SITE", "--method", "statistics", "--folder", "SITE/fakes"), "--folder is where --jpeg writes"),
        (
            ("generate", "ONE", "--method", "statistics"),
            "there are images of 1 camera; styles need images of at least two",
        ),
        (("check", "ONE", "statistics"), "there are images of 1 camera; styles need images of at least two"),
        (("check", "SITE", "statistics", "--images", "0"), "--images: expected at least 1, got 0"),
        (("check", "SITE", "statistics", "-o", "SITE"), "site-b: is a folder; give the name of the file to write"),
        (("train", "SITE", "epochs"), "'epochs' should be key=value, for example optimizer.lr=0.0001"),
        (("train", "SITE", "--skip-damaged"), "--skip-damaged is for --resume"),
        (("train", "--resume", "RUN", "--method", "cyclegan", "-o", "SITE"), "leave --method, --output out"),
        (("train", "--resume", "RUN"), "run: is a run of reid-da train, not of reid-da camstyle train"),
        (("train",), "give either DATA or --resume RUN"),
        (
            ("train", "SITE", "batsh=3"),
            "did you mean 'batch'?); `reid-da camstyle settings` lists",
        ),
        (("settings", "--method", "stylegan"), "unknown method 'stylegan'"),
    ],
)
def test_mistakes(run, site, small_settings, tmp_path, arguments, message):
    places = {"SITE": site, "RUN": tmp_path / "run", "ONE": tmp_path / "one"}
    RunFolder.create(places["RUN"], small_settings)
    (places["ONE"] / "cam1").mkdir(parents=True)
    shutil.copy(next((site / "query").iterdir()), places["ONE"] / "cam1")
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    outcome = run("camstyle", *arguments)
    assert outcome.status == 2
    assert message in outcome.err
    assert outcome.err.strip().splitlines()[-1].startswith("error: ")


def test_files_that_cannot_be_written_are_told_before_the_work(run, site, tmp_path):
    generate = ("camstyle", "generate", site, "--method", "statistics", "--size", "16x8", "--jpeg")
    assert "exists already; remove it" in run(*generate, "--folder", tmp_path).err
    shutil.copytree(site / "bounding_box_train", tmp_path / "crops" / "cam1")
    shutil.copytree(site / "bounding_box_train", tmp_path / "crops" / "cam2")
    twin = next((tmp_path / "crops" / "cam1").iterdir())
    (tmp_path / "crops" / "cam1" / "a").mkdir()
    shutil.copy(twin, tmp_path / "crops" / "cam1" / "a" / "b.jpg")
    shutil.copy(twin, tmp_path / "crops" / "cam1" / "a_b.jpg")
    crops = f"{tmp_path / 'crops'}#pattern=(?P<camera>cam.)/.*"
    assert "are those of several images" in run(*generate[:2], crops, *generate[3:]).err
    assert not list(tmp_path.glob("**/*.pack"))


def test_equal_names_in_the_folders_of_cameras_are_told_apart(run, site, tmp_path):
    files = sorted((site / "bounding_box_train").iterdir())[:2]
    for number, file in enumerate(files, start=1):
        (tmp_path / "crops" / f"cam{number}").mkdir(parents=True)
        shutil.copy(file, tmp_path / "crops" / f"cam{number}" / "0001.jpg")
    outcome = run("camstyle", "generate", tmp_path / "crops", "--method", "statistics", "--size", "16x8", "--jpeg")
    assert outcome.status == 0
    written = sorted(file.name for file in (tmp_path / "crops" / "train_camstyle").iterdir())
    assert written == ["cam1_0001_fake_2.jpg", "cam2_0001_fake_1.jpg"]
