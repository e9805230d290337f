"""The report of runs: what is in it, and how a browser shows it."""

import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

import reid_da
from reid_da.cli import main
from reid_da.errors import InputError
from reid_da.evaluation.extraction import features_of_splits
from reid_da.reporting.page import Section, render
from reid_da.reporting.tables import Column, Row, Table
from reid_da.studies.looking import labelled_look, look_at, map_of
from reid_da.studies.report import write_report

TITLES = [
    *("Result", "Settings", "Ranked lists", "Training", "Without labels", "Cameras"),
    *("Map of the features", "Clusters", "Camera styles", "Data", "Cost"),
]


class Outline(HTMLParser):
    """Elements of a page that must be closed, what it loads, and its text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.text, self.anchors = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.sources += [values[name] for name in ("src", "href", "srcset", "action", "data") if values.get(name)]
        if "id" in values:
            self.anchors.append(values["id"])
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def runs(small_tree, tmp_path_factory):
    """A run with a stage before it and one without, both of the same target."""
    folder = tmp_path_factory.mktemp("runs")
    reid_da.fit(small_tree, folder / "adapted", steps_per_epoch=1, label_free=True, pretrain={"epochs": 1})
    changed = {"loss_weight": 0.5, "epochs": 1, "name": "<b>&"}
    reid_da.fit(small_tree, folder / "<b>&", steps_per_epoch=1, **changed)
    return folder


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    assert write_report([runs / "adapted"], file, map_method="pca", device="cpu") == TITLES
    return file


def test_a_report_is_one_file_that_loads_nothing(page):
    outline = Outline(page.read_text())
    assert outline.open == []
    assert len(outline.anchors) == len(set(outline.anchors)) == len(TITLES)
    links = [source for source in outline.sources if not source.startswith("data:")]
    assert links == [f"#{anchor}" for anchor in outline.anchors]
    assert "<script" not in page.read_text()
    assert page.stat().st_size < 3e6
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]


def test_its_figures_are_those_of_the_runs(page, runs):
    text = Outline(page.read_text()).text
    for folder in (runs / "adapted" / "pretrain", runs / "adapted"):
        result = reid_da.load(folder, device="cpu").evaluate()
        row = text[text.index("mINP") :]
        assert f"{100 * result.rank(1):.1f}" in row
        assert f"{100 * result.mean_ap:.1f}" in row
    assert "mAP: mean of the precisions at the true matches" in text
    # what differs between the stages, and nothing that is equal
    assert "method" in text
    assert "embedding_dim" not in text
    # the epoch that is chosen without labels
    assert re.search(r"chosen: .*adapted, epoch [12]", text)


def test_features_are_extracted_once_and_known_by_weights_and_images(runs, small_sites, tmp_path, monkeypatch):
    run, site = shutil.copytree(runs / "adapted", tmp_path / "run"), shutil.copytree(small_sites, tmp_path / "sites")
    extracted = []

    def counting(tables, *arguments, **options):
        extracted.extend(map(len, tables.values()))
        return features_of_splits(tables, *arguments, **options)

    monkeypatch.setattr("reid_da.studies.feature_cache.features_of_splits", counting)

    def features(data, run=run):
        found = next(iter(look_at([run], data=data, device="cpu", with_stages=False).features.values()))
        return found.gallery_features

    expected = features(site / "site-b")
    assert len(extracted) == 2
    np.testing.assert_array_equal(features(site / "site-b"), expected)
    assert len(extracted) == 2
    # the images of the query set have changed, then a file of features, then the weights
    image = next((site / "site-b" / "query").iterdir())
    image.write_bytes(image.read_bytes() + b" ")
    features(site / "site-b")
    assert len(extracted) == 3
    for file in (run / "features").iterdir():
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    np.testing.assert_array_equal(features(site / "site-b"), expected)
    assert len(extracted) == 5
    assert not np.array_equal(features(site / "site-b", run=run / "pretrain"), expected)
    assert len(extracted) == 7
    # without room they are not kept, and that is all
    shutil.rmtree(run / "features")
    (run / "features").write_text("a file in the way")
    np.testing.assert_array_equal(features(site / "site-b"), expected)


def test_names_of_others_are_text(runs, tmp_path):
    before = runs / "adapted" / "pretrain"
    write_report([before, runs / "<b>&"], tmp_path / "r.html", map_method="pca", device="cpu")
    content = (tmp_path / "r.html").read_text()
    outline = Outline(content)
    assert outline.open == []
    assert "<b>&" in outline.text
    assert "<b>" not in content
    assert "loss_weight" in outline.text


def test_what_is_not_known_is_left_out(runs, small_sites, tmp_path):
    for camera in ("1", "2"):
        (tmp_path / "crops" / f"cam{camera}").mkdir(parents=True)
        for image in (small_sites / "site-b" / "bounding_box_train").glob(f"*_c{camera}*"):
            shutil.copy(image, tmp_path / "crops" / f"cam{camera}")
    titles = write_report(
        [runs / "adapted"], tmp_path / "r.html", data=tmp_path / "crops", device="cpu", blur_faces=True
    )
    assert [title for title in TITLES if title not in titles] == ["Ranked lists", "Cameras"]
    assert "The identities of these images are not known" in (tmp_path / "r.html").read_text()
    _, groups, _ = map_of(look_at([runs / "adapted"], data=tmp_path / "crops", device="cpu"), "pca")
    assert list(groups) == ["by camera", "by cluster"]
    with pytest.raises(InputError, match="no query and gallery with known identities"):
        labelled_look([runs / "adapted"], data=tmp_path / "crops", device="cpu")
    with pytest.raises(InputError, match="not a run folder"):
        write_report([tmp_path], tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_single_pictures(runs, tmp_path, capsys):
    for command in ("cmc", "camera-matrix", "map"):
        file = tmp_path / f"{command}.png"
        with pytest.raises(SystemExit) as ended:
            main([command, str(runs / "adapted"), "-o", str(file), "--device", "cpu"])
        assert not ended.value.code
        assert file.read_bytes().startswith(b"\x89PNG")
        assert capsys.readouterr().out == f"picture: {file}\n"


def test_blocks_are_escaped():
    section = Section(title="A <b>")
    section.paragraph("<i>1</i>")
    section.items(["<i>2</i>"])
    section.table(Table(columns=[Column(heading="<i>3</i>")], rows=[Row(cells=["<i>4</i>"])]))
    outline = Outline(render("<i>5</i>", "<i>6</i>", [section, Section(title="empty")]))
    assert all(f"<i>{number}</i>" in outline.text for number in range(1, 7))
    assert "empty" not in outline.text


@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_it_within_its_window(chromium, page, width):
    chromium.get(page.as_uri())
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert chromium.get_log("browser") == []
    assert chromium.execute_script("return document.documentElement.scrollWidth") == width
    outside = "e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll')"
    found = chromium.execute_script(f"return [...document.body.querySelectorAll('*')].filter(e => {outside}).length")
    assert found == 0
    loaded = chromium.execute_script("return [...document.images].map(i => i.complete && i.naturalWidth > 0)")
    assert len(loaded) > 30
    assert all(loaded)
    chromium.find_element("link text", "Clusters").click()
    assert abs(chromium.execute_script("return document.getElementById('clusters').getBoundingClientRect().top")) < 2
