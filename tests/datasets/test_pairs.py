import numpy as np
import pytest

from reid_da.datasets import Dataset, SampleTable, load_dataset
from reid_da.datasets.pairs import _draw, draw_pairs, read_pairs
from reid_da.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for name, count in (("Ann_A", 3), ("Bob", 2), ("Cy", 1)):
        (tmp_path / name).mkdir()
        for number in range(1, count + 1):
            (tmp_path / name / f"{name}_{number:04d}.jpg").touch()
    return tmp_path


def listed(pairs):
    paths = pairs.images.paths
    rows = zip(pairs.first, pairs.second, pairs.same, pairs.folds, strict=True)
    return [(paths[a], paths[b], bool(same), int(fold)) for a, b, same, fold in rows]


def test_a_file_in_the_format_of_lfw(folder):
    (folder / "pairs.txt").write_text("2\t1\nAnn_A 1 3\nBob 2 Cy 1\n\nBob\t1\t2\nAnn_A 2 Cy 1\n")
    ann, bob, cy = (lambda n, name=name: f"{name}/{name}_{n:04d}.jpg" for name in ("Ann_A", "Bob", "Cy"))
    assert listed(read_pairs(folder / "pairs.txt")) == [
        (ann(1), ann(3), True, 0),
        (bob(2), cy(1), False, 0),
        (bob(1), bob(2), True, 1),
        (ann(2), cy(1), False, 1),
    ]


def test_a_csv_file_with_and_without_folds(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists")
    text = "path1,path2,same\n"
    text += "Bob/Bob_0001.jpg,Bob/Bob_0002.jpg,1\nBob/Bob_0001.jpg,Cy/Cy_0001.jpg,0\n" * 20
    (elsewhere / "pairs.csv").write_text(text)
    pairs = read_pairs(elsewhere / "pairs.csv", folder)
    assert len(pairs) == 40
    assert len(pairs.images) == 3
    assert np.bincount(pairs.folds[pairs.same]).tolist() == [2] * 10
    (elsewhere / "folds.csv").write_text("same,path2,path1,fold\n1,Bob/Bob_0002.jpg,Bob/Bob_0001.jpg,7\n")
    assert listed(read_pairs(elsewhere / "folds.csv", folder)) == [("Bob/Bob_0001.jpg", "Bob/Bob_0002.jpg", True, 7)]
    rows = "Bob/Bob_0001.jpg,Bob/Bob_0002.jpg,1.0,b\nBob/Bob_0001.jpg,Ann_A/Ann_A_0001.jpg,0.0,a\n"
    (elsewhere / "names.csv").write_text(f"path1,path2,same,fold\n{rows}")
    named = read_pairs(elsewhere / "names.csv", folder)
    assert (named.same.tolist(), named.folds.tolist()) == ([True, False], [1, 0])
    (elsewhere / "floats.csv").write_text(f"path1,path2,same,fold\n{rows}".replace(",b", ",2.0").replace(",a", ",10"))
    assert read_pairs(elsewhere / "floats.csv", folder).folds.tolist() == [2, 10]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.csv", "\ufeffpath1,path2,same\r\nBob/Bob_0001.jpg,Bob/Bob_0002.jpg,TRUE\r\n"),
        ("PAIRS.CSV", 'path1, path2 , same\n"Bob/Bob_0001.jpg", "Bob/Bob_0002.jpg", true\n\n'),
        ("pairs.txt", "\ufeff1\nBob 1 2\nBob 1 Ann_A 1\n"),
    ],
)
def test_files_as_spreadsheets_write_them(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8", newline="")
    assert listed(read_pairs(folder / name))[0] == ("Bob/Bob_0001.jpg", "Bob/Bob_0002.jpg", True, 0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("pairs.txt", "Ann 1 2\n", "line 1: expected the number of folds and of pairs, found 'Ann 1 2'"),
        ("pairs.txt", "", "line 1: expected the number"),
        (
            "pairs.txt",
            "1\nBob 1 2\nBob one Cy 1\n",
            "line 3: expected NAME N M or NAME N OTHER M, found 'Bob one Cy 1'",
        ),
        ("pairs.txt", "1 5\nBob 1 2\n", "announces 10 pairs, it has 1"),
        ("pairs.txt", "1\nBob 1 2\nBob 1 Dan 1\n", "1 of 3 images are not in .*Dan/Dan_0001.jpg"),
        (
            "pairs.txt",
            "2 2\nAnn 1 2\nBob 1 2\nAnn 1 3\nAnn 1 Bob 1\n",
            "line 4: more pairs of one person in fold 1 than the 2 of line 1",
        ),
        ("pairs.csv", "a,b\n", "line 1: expected the columns path1, path2, same, found 'a,b'$"),
        ("pairs.csv", "", "line 1: expected the columns path1, path2, same, found ''"),
        ("pairs.csv", "path1;path2;same\nx;y;1\n", "line 1: .* found 'path1;path2;same'; separate with commas$"),
        ("pairs.csv", "path1,path2,same\nx,y,yes\n", "line 2: same should be 0 or 1, false or true, found 'yes'"),
        ("pairs.csv", "path1,path2,same\n\nx,y\n", "line 3: expected 3 fields, path1,path2,same, found 2"),
        ("pairs.csv", "path1,path2,same\nx,y,1,2\n", "line 2: expected 3 fields, path1,path2,same, found 4"),
        ("pairs.csv", "path1,path2,same\nx, ,1\n", "line 2: path2 is empty"),
        ("pairs.csv", "path1,path2,same,fold\nx,y,1,\n", "line 2: fold should be a number or a name, found ''"),
        (
            "pairs.csv",
            'path1,path2,same\nx,y,1\nx,"y,1\n' + "x,y,1\n" * 99,
            r"line 3: cannot be read as CSV \(unexpected end of data\); is a quote not closed\?$",
        ),
        ("pairs.csv", "path1,path2,same\n", "has no pairs"),
    ],
)
def test_files_that_make_no_sense(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_pairs(folder / name)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_pairs(folder / "nothing.txt")


def test_drawn_pairs_cross_cameras_and_have_no_repetitions(rendered):
    dataset = load_dataset(rendered / "site-b")
    pairs = draw_pairs(dataset, 400, seed=3)
    images = pairs.images
    assert (images.camids[pairs.first] != images.camids[pairs.second]).all()
    assert ((images.pids[pairs.first] == images.pids[pairs.second]) == pairs.same).all()
    assert (images.pids >= 0).all()
    assert (images.pids[pairs.second][pairs.same] != dataset.distractor_pid).all()
    assert (pairs.same.sum(), len(pairs)) == (200, 400)
    assert len(set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))) == 400
    for kind in (True, False):
        assert np.bincount(pairs.folds[pairs.same == kind]).tolist() == [20] * 10
    assert all(images.path(row).is_file() for row in range(len(images)))
    again, other = draw_pairs(dataset, 400, seed=3), draw_pairs(dataset, 400, seed=4)
    assert listed(again) == listed(pairs)
    assert listed(other) != listed(pairs)


def test_more_pairs_than_there_are(small_sites, caplog):
    dataset = load_dataset(small_sites / "site-b")
    with pytest.raises(
        InputError, match=r"has \d+ pairs of one person from different cameras; .* --pairs \d+$"
    ) as told:
        draw_pairs(dataset, 10_000)
    most = int(str(told.value).split()[-1])
    with caplog.at_level("INFO"):
        pairs = draw_pairs(dataset)
    assert f"has {most // 2} pairs of one person from different cameras" in caplog.text
    assert (len(pairs), pairs.same.sum()) == (most, most // 2)
    assert len(draw_pairs(dataset, most)) == most
    with pytest.raises(InputError, match=f"--pairs {most}$"):
        draw_pairs(dataset, most + 2)


def test_every_pair_of_two_persons_can_be_drawn(tmp_path):
    """One query is in the camera of most gallery images, so that the others have to give more than their share."""

    def split(name, pids, camids):
        paths = tuple(f"{name}{row}.jpg" for row in range(len(pids)))
        return SampleTable(name=name, root=tmp_path, paths=paths, pids=np.array(pids), camids=np.array(camids))

    query = split("query", [1, 2, 3, -1], [0, 1, 1, 2])
    gallery = split("gallery", [1] * 10 + [2] * 2, [1] + [0] * 9 + [0] * 2)
    dataset = Dataset(
        name="d", format="folders", root=tmp_path, train=query, query=query, gallery=gallery, camera_names=tuple("abc")
    )
    found = _draw(dataset, 100, same=False, rng=np.random.default_rng(0))
    expected = [
        (q, g)
        for q in range(3)
        for g in range(12)
        if query.pids[q] != gallery.pids[g] and query.camids[q] != gallery.camids[g]
    ]
    assert sorted(map(tuple, found.tolist())) == expected
    enough = _draw(dataset, len(expected), same=False, rng=np.random.default_rng(0))
    assert len(enough) == len(expected)
    with pytest.raises(InputError, match="has 3 pairs of one person from different cameras, too few for 10 folds"):
        draw_pairs(dataset)


@pytest.mark.parametrize("count", [101, 18, -2])
def test_numbers_of_pairs_that_cannot_be_halved(rendered, count):
    with pytest.raises(InputError, match=f"--pairs: expected an even number.* at least 20, got {count}"):
        draw_pairs(load_dataset(rendered / "site-b"), count)
