import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_galleries import DIM, card, fill, images, unit

from reid_da.errors import InputError
from reid_da.gallery import vectors
from reid_da.gallery import writer as writing
from reid_da.gallery.care import verify
from reid_da.gallery.store import Gallery, create

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE)])}


def content(gallery):
    """Vector of each path, as a reader sees them."""
    snapshot = gallery.snapshot()
    paths = [record.path for record in gallery.all_records()]
    found = snapshot.vectors(np.arange(len(snapshot)))
    return {Path(path).name: vector.tobytes() for path, vector in zip(paths, found, strict=True)}


def test_what_is_appended_is_found(gallery):
    vectors = fill(gallery, 5, camera="c1", time=3.5)
    snapshot = gallery.snapshot()
    assert snapshot.ids.tolist() == [1, 2, 3, 4, 5]
    assert snapshot.times.tolist() == [3.5] * 5
    assert [snapshot.camera_names[camid] for camid in snapshot.camids] == ["c1"] * 5
    np.testing.assert_array_equal(snapshot.vectors(np.array([3, 0])), vectors[[3, 0]])
    fill(gallery, 2, prefix="more")
    assert len(snapshot) == 5
    later = gallery.snapshot()
    assert later.camids[5:].tolist() == [-1, -1]
    assert np.isnan(later.times[5:]).all()


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.lists(st.integers(0, 30), min_size=1, max_size=9, unique=True)),
            st.tuples(st.sampled_from(["remove", "forget"]), st.sets(st.integers(0, 30), max_size=9)),
            st.tuples(st.just("compact"), st.none()),
            st.tuples(st.just("reopen"), st.none()),
        ),
        max_size=9,
    )
)
def test_any_order_of_writes_gives_what_a_dictionary_gives(tmp_path_factory, monkeypatch, steps):
    monkeypatch.setattr(writing, "BLOCK_ROWS", 6)
    monkeypatch.setattr(vectors, "SEGMENT_ROWS", 4)
    path = tmp_path_factory.mktemp("any") / "index"
    gallery, expected = create(path, card()), {}
    for number, (action, argument) in enumerate(steps):
        if action == "reopen":
            gallery.close()
            gallery = Gallery(path)
            continue
        with gallery.writing() as writer:
            if action == "add":
                rows = unit(len(argument), DIM, seed=number)
                writer.append(images(*map(str, argument)), rows)
                expected.update({str(name): row.tobytes() for name, row in zip(argument, rows, strict=True)})
            elif action == "compact":
                writer.compact()
                assert gallery.rows("SELECT sum(rows) FROM blocks")[0][0] in (len(expected), None)
            else:
                ids = [r.id for r in gallery.all_records() if int(Path(r.path).name) in argument]
                writer.remove(ids, forget=action == "forget")
                expected = {name: row for name, row in expected.items() if int(name) not in argument}
        assert content(gallery) == expected
    assert verify(gallery) == []
    gallery.close()


class Crash(BaseException):
    """Ends a write as a kill does: nothing but rolling back happens on the way out."""


@pytest.mark.parametrize("action", ["append", "forget", "compact"])
def test_a_write_that_ends_at_any_flush_has_happened_or_not(tmp_path, monkeypatch, action):
    monkeypatch.setattr(writing, "BLOCK_ROWS", 6)
    for stop in range(20):
        with create(tmp_path / f"{action}{stop}", card()) as gallery:
            fill(gallery, 8)
            if action == "compact":
                with gallery.writing() as writer:
                    writer.remove([2, 7])
            before = content(gallery)
            flushes, crashed = iter(range(100)), False

            def fsync(descriptor, flushes=flushes, stop=stop):
                if next(flushes) == stop:
                    raise Crash

            monkeypatch.setattr(vectors.os, "fsync", fsync)
            try:
                with gallery.writing() as writer:
                    if action == "append":
                        writer.append(images(*"abcdefgh"), unit(8, DIM, seed=1))
                    elif action == "forget":
                        writer.remove([2, 7], forget=True)
                    else:
                        writer.compact()
            except Crash:
                crashed = True
            monkeypatch.undo()
            monkeypatch.setattr(writing, "BLOCK_ROWS", 6)
        with Gallery(tmp_path / f"{action}{stop}") as gallery:
            found = content(gallery)
            if action == "forget":  # has begun: the next writer ends it
                assert len(found) == 6
            elif crashed:
                assert found == before
            with gallery.writing():
                pass
            assert content(gallery) == found
            assert verify(gallery) == []
            files = sorted(file.name for file in gallery.path.glob("vectors-*"))
            assert len(files) == len(gallery.rows("SELECT id FROM blocks"))
            with gallery.writing() as writer:
                writer.append(images("last"), unit(1, DIM))
            assert len(content(gallery)) == len(found) + 1
        if not crashed:
            assert stop >= 1
            return
    pytest.fail("no end of flushes")


KILLED = """
import sys
from reid_da.gallery.store import Gallery
from small_galleries import images, unit
with Gallery(sys.argv[1]) as gallery, gallery.writing() as writer:
    for number in range(10**6):
        writer.append(images(*(f"{number}-{part}" for part in range(7))), unit(7, 8, seed=number))
        print(number, flush=True)
"""


def test_a_killed_process_loses_nothing_that_it_has_reported(gallery):
    command = [sys.executable, "-c", KILLED, str(gallery.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) as p:
        for line in p.stdout:
            if int(line) >= 20:
                p.send_signal(signal.SIGKILL)
                break
    assert len(gallery) >= 21 * 7
    assert len(gallery) % 7 == 0
    assert verify(gallery) == []
    found = content(gallery)
    for number in range(21):
        rows = unit(7, DIM, seed=number)
        assert [found[f"{number}-{part}"] for part in range(7)] == [row.tobytes() for row in rows]
    fill(gallery, 3)
    assert verify(gallery) == []


def test_forgotten_vectors_paths_and_history_are_not_on_the_disk(gallery):
    rows = fill(gallery, 9, prefix="secret")
    fill(gallery, 3, prefix="other", seed=1)
    with gallery.writing() as writer:
        writer.remove(range(1, 10), forget=True)
    left = b"".join(file.read_bytes() for file in gallery.path.iterdir())
    assert b"/crops/secret" not in left
    assert rows[4].tobytes() not in left
    assert b"/crops/other" in left


def test_readers_keep_what_they_have_seen_while_blocks_are_written_anew(gallery):
    rows = fill(gallery, 6)
    with Gallery(gallery.path) as reader:
        snapshot = reader.snapshot()
        with gallery.writing() as writer:
            writer.remove([1], forget=True)
        np.testing.assert_array_equal(snapshot.vectors(np.arange(6)), rows)
        np.testing.assert_array_equal(reader.snapshot().vectors(np.arange(5)), rows[1:])


def test_one_process_writes(gallery):
    with Gallery(gallery.path) as other, gallery.writing():
        with pytest.raises(BlockingIOError, match="in use by another process"), other.writing():
            pass
        assert len(other.snapshot()) == 0


def test_a_full_disk_leaves_the_index_as_it_was(gallery, monkeypatch):
    fill(gallery, 4)
    program = f"""
import resource
from reid_da.gallery.store import Gallery
from small_galleries import images, unit
gallery = Gallery({str(gallery.path)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with gallery.writing() as writer:
        for number in range(10**4):
            writer.append(images(*(f"{{number}}-{{part}}" for part in range(50))), unit(50, 8, seed=number))
except OSError as error:
    print(error.filename, error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert str(gallery.path) in done.stdout
    assert len(gallery) % 50 == 4
    assert verify(gallery) == []
    fill(gallery, 3, prefix="later")
    assert verify(gallery) == []


def test_damage_is_found_and_told(gallery):
    fill(gallery, 4)
    file = gallery.files.path(1)
    sound = file.read_bytes()
    file.write_bytes(sound[:9] + bytes([sound[9] ^ 1]) + sound[10:])
    assert "checksum differs; 4 images" in verify(gallery)[0]
    file.write_bytes(sound[:-1])
    assert "cut off" in verify(gallery)[0]
    with pytest.raises(InputError, match="is cut off"):
        gallery.snapshot()
    file.unlink()
    assert "No such file" in verify(gallery)[0]
    with pytest.raises(InputError, match="is missing"):
        gallery.snapshot()


@pytest.mark.parametrize("damage", [b"", b"no database" * 99, b"SQLite format 3\0" + bytes(4000)])
def test_a_file_that_is_no_database_is_one_line(tmp_path, damage):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "index.sqlite").write_bytes(damage)
    with pytest.raises(InputError, match="damaged"):
        Gallery(tmp_path / "index")


def test_a_later_format_and_a_foreign_folder_are_refused(gallery, tmp_path):
    with gallery.writing() as writer:
        writer.set_meta("version", "99")
    with pytest.raises(InputError, match="format 99"):
        Gallery(gallery.path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("x")
    with pytest.raises(InputError, match="not empty, and no index"):
        create(tmp_path / "full", card())
    with pytest.raises(InputError, match="reid-da index add"):
        Gallery(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_what_a_process_leaves_that_is_killed_while_it_makes_an_index_is_no_hindrance(tmp_path):
    (tmp_path / "index").mkdir()
    for name in (".lock", ".index.sqlite.x.tmp", ".index.sqlite.x.tmp-journal"):
        (tmp_path / "index" / name).write_bytes(b"half")
    with create(tmp_path / "index", card()) as gallery:
        fill(gallery, 2)
        assert verify(gallery) == []
    assert not list((tmp_path / "index").glob(".*"))


def test_a_link_in_the_place_of_the_database_is_not_followed(gallery, tmp_path):
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "index.sqlite").symlink_to(gallery.file)
    with pytest.raises(OSError, match="symbolic link"):
        Gallery(tmp_path / "planted")
