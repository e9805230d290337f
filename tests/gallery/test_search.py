import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_galleries import DIM, card, fill, images, unit

from reid_da.errors import InputError
from reid_da.gallery import search
from reid_da.gallery import writer as writing
from reid_da.gallery.approximate import build, load_candidates
from reid_da.gallery.choice import choose_threshold
from reid_da.gallery.find import find_files, make_filters
from reid_da.gallery.pictures import draw_answers
from reid_da.gallery.search import Filters, answers, nearest
from reid_da.gallery.store import Gallery, create
from reid_da.gallery.threshold import Point, Thresholds, save


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """An index of 300 images in blocks of 70, some removed, of which every tenth is there twice."""
    path = tmp_path_factory.mktemp("mixed") / "index"
    with pytest.MonkeyPatch.context() as patch, create(path, card()) as gallery:
        patch.setattr(writing, "BLOCK_ROWS", 70)
        vectors = unit(300, DIM)
        vectors[1::10] = vectors[0::10]
        with gallery.writing() as writer:
            for number in range(300):
                camera = None if number % 7 == 6 else f"c{number % 7}"
                time = None if number % 5 == 4 else float(number)
                writer.append(images(str(number), camera=camera, time=time), vectors[number : number + 1])
            writer.remove(range(50, 80))
    return path


def brute_force(snapshot, queries, rows, top):
    vectors = snapshot.vectors(np.arange(len(snapshot)))[rows].astype(np.float64)
    queries = queries.astype(np.float64)
    similarities = queries @ vectors.T
    similarities /= np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(vectors, axis=1))
    order = np.argsort(-similarities.round(12), axis=1, kind="stable")[:, :top]
    return rows[order], np.take_along_axis(similarities, order, axis=1)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    top=st.integers(1, 400),
    cameras=st.sets(st.sampled_from(["c0", "c1", "c5"])),
    after=st.one_of(st.none(), st.floats(-5, 305)),
    before=st.one_of(st.none(), st.floats(-5, 305)),
    size=st.sampled_from([1, 7, 2**10]),
    seed=st.integers(0, 99),
)
def test_search_is_that_of_brute_force_among_what_passes(mixed, monkeypatch, top, cameras, after, before, size, seed):
    monkeypatch.setattr(search, "_PIECE_ROWS", (size, size))
    filters = Filters(cameras=tuple(cameras), after=after, before=before, leave_out=(3, 90))
    with Gallery(mixed) as gallery:
        snapshot, records = gallery.snapshot(), gallery.all_records()
        passing = [
            row
            for row, record in enumerate(records)
            if (not cameras or record.camera in cameras)
            and (after is None or (record.time is not None and record.time >= after))
            and (before is None or (record.time is not None and record.time <= before))
            and record.id not in (3, 90)
        ]
        queries = np.concatenate([unit(2, DIM, seed=seed), snapshot.vectors(np.array([seed]))])
        found = nearest(snapshot, queries, top=top, filters=filters)
        assert found.searched == len(passing)
        if passing:
            rows, similarities = brute_force(snapshot, queries, np.array(passing), top)
            np.testing.assert_array_equal(found.rows, rows)
            np.testing.assert_allclose(found.similarities, np.clip(similarities, -1, 1), atol=1e-12)
        else:
            assert found.rows.shape == (3, 0)


def test_mistakes_of_a_search(mixed):
    with Gallery(mixed) as gallery:
        snapshot = gallery.snapshot()
        with pytest.raises(InputError, match="at least 1"):
            nearest(snapshot, unit(1, DIM), top=0)
        with pytest.raises(InputError, match="8 dimensions"):
            nearest(snapshot, unit(1, 5), top=1)
        with pytest.raises(InputError, match="unknown camera 'c9'"):
            nearest(snapshot, unit(1, DIM), top=1, filters=Filters(cameras=("c9",)))
        with pytest.raises(InputError, match="no time is after"):
            make_filters(after="2026-11-27", before="2026-11-26")
        with pytest.raises(InputError, match="is no time"):
            make_filters(after="noon")


def test_a_query_without_a_match_is_unknown(mixed):
    with Gallery(mixed) as gallery:
        snapshot = gallery.snapshot()
        queries = np.concatenate([snapshot.vectors(np.array([3])), unit(1, DIM, seed=77)])
        found = nearest(snapshot, queries, top=3)
        assert answers(gallery, snapshot, found, ["a", "b"]).answers[0].is_unknown is None
        listed = answers(gallery, snapshot, found, ["=known", "new"], threshold=0.999, fpr=0.01, source="test")
    assert [answer.is_unknown for answer in listed.answers] == [False, True]
    assert [hit.is_match for hit in listed.answers[0].hits] == [True, False, False]
    assert listed.expected_false == pytest.approx(0.01 * 270)
    lines = listed.to_csv().splitlines()
    assert len(lines) == 1 + 2 * 3
    assert lines[1].startswith("'=known,1,1.000000,yes,4,/crops/3,c3,3 s,")


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_approximate_search_filters_first_and_tells_its_recall(tmp_path, kind):
    pytest.importorskip("faiss", reason="FAISS is not installed")
    with create(tmp_path / "index", card(32)) as gallery:
        vectors = unit(2000, 32)
        with gallery.writing() as writer:
            writer.append(images(*map(str, range(1000)), camera="a"), vectors[:1000])
            writer.append(images(*map(str, range(1000, 2000)), camera="b"), vectors[1000:])
        exhaustive = build(gallery, kind, effort=2000)
        assert exhaustive.recall > 0.999
        built = build(gallery, kind, effort=1)
        assert 0.02 < built.recall < exhaustive.recall
        snapshot = gallery.snapshot()
        build(gallery, kind, effort=2000)
        candidates, _ = load_candidates(gallery, snapshot, kind)
        queries, filters = unit(5, 32, seed=3), Filters(cameras=("b",), after=None)
        exact = nearest(snapshot, queries, top=10, filters=filters)
        found = nearest(snapshot, queries, top=10, filters=filters, candidates=candidates)
        np.testing.assert_array_equal(found.rows, exact.rows)
        with gallery.writing() as writer:
            writer.remove([1])
        with pytest.raises(InputError, match="have come or gone"):
            load_candidates(gallery, gallery.snapshot(), kind)
        with pytest.raises(InputError, match="unknown search"):
            load_candidates(gallery, snapshot, "flat")
        file = gallery.path / f"approximate-{kind}.faiss"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        with pytest.raises(InputError, match="is damaged"):
            load_candidates(gallery, snapshot, kind)
        with gallery.writing() as writer:
            writer.remove([2], forget=True)
        assert not file.exists()


def test_the_threshold_of_a_rate_comes_from_the_index_or_is_asked_for(gallery):
    fill(gallery, 2)
    assert choose_threshold(gallery, None).threshold is None
    assert choose_threshold(gallery, None, threshold=0.5) == (0.5, None, "as given")
    for options in ({"fpr": 0.1}, {"fpr": 0.1, "source": "index"}):
        with pytest.raises(InputError, match="reid-da index threshold"):
            choose_threshold(gallery, None, **options)
    points = (Point(fpr=0.1, threshold=0.4, low=None, high=None, tpr=None),)
    save(gallery, Thresholds(points=points, kinds={}, num_negatives=9, num_positives=0, num_units=1, unit="minute"))
    assert choose_threshold(gallery, None, fpr=0.1).threshold == 0.4
    for options, message in (
        ({"fpr": 0.1, "source": "calibration"}, "not loaded"),
        ({"fpr": 0.01}, "no threshold at 0.01"),
        ({"fpr": 0.1, "threshold": 0.2}, "not both"),
        ({"threshold": 2}, "from -1 to 1"),
        ({"fpr": 0}, "above 0"),
        ({"fpr": 0.1, "source": "guess"}, "unknown source"),
    ):
        with pytest.raises(InputError, match=message):
            choose_threshold(gallery, None, **options)


def test_files_are_searched_and_drawn(indexed, crops, tmp_path):
    files = sorted(crops.iterdir())[:2]
    found = find_files(indexed, files, top=4, threshold=0.99, device="cpu")
    assert [answer.hits[0].image.path for answer in found.answers.answers] == [str(file) for file in files]
    assert "threshold 0.9900 (as given)" in found.notes[0]
    draw_answers(found.answers, found.queries, tmp_path / "found.png")
    draw_answers(found.answers, found.queries, tmp_path / "blurred.png", blur_faces=True)
    many = find_files(indexed, files[:1], top=12, device="cpu")
    draw_answers(many.answers, many.queries, tmp_path / "many.png")
    # the query and ten images in the first row, the others below
    with Image.open(tmp_path / "many.png") as picture:
        width, height = picture.size
    assert width == 2 * (2 * 12 + 11 * (64 + 10))
    assert height == 2 * (2 * 12 + 24 + 2 * (128 + 28 + 10))
    plain, blurred = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("found.png", "blurred.png"))
    changed = np.abs(plain - blurred).sum(axis=(1, 2)) > 0
    assert 40 < changed.sum() < 0.25 * len(changed)
    with pytest.raises(InputError, match="no such image"):
        find_files(indexed, [tmp_path / "none.jpg"], top=1, device="cpu")
    (tmp_path / "no.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"no\.jpg: cannot be decoded"):
        find_files(indexed, [tmp_path / "no.jpg"], top=1, device="cpu")
