import contextlib
import io
import json
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from reid_da.errors import InputError
from reid_da.gallery.store import Gallery
from reid_da.serve.session import Session
from reid_da.serve.settings import ServeSettings, new_token, read_token

pytest.importorskip("httpx", reason="httpx is not installed")
testclient = pytest.importorskip("fastapi.testclient", reason="the extra serve is not installed")
app = pytest.importorskip("reid_da.serve.app")
guards = pytest.importorskip("reid_da.serve.guards")
TOKEN = "t" * 20


@pytest.fixture
def serve(served, embedder, tmp_path):
    """Function that starts a server on a copy of the index and returns a client of it."""
    opened = []

    def start(**options):
        path = shutil.copytree(served, tmp_path / f"index{len(opened)}")
        settings = ServeSettings(**options)
        session = Session(path, embedder=embedder, max_pixels=settings.max_pixels, blur_faces=settings.blur_faces)
        client = testclient.TestClient(app.create_app(session, settings), base_url="http://127.0.0.1:8000")
        client.index = path
        opened.append((client, session))
        return client

    yield start
    for client, session in opened:
        client.close()
        session.close()


@pytest.fixture
def client(serve):
    return serve()


def jpeg(*, size=(32, 64), colour="red", kind="JPEG"):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()


def bomb(width, height):
    """A PNG file of a few bytes whose header promises a picture of the given size."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def upload(client, content, name="query.jpg", **data):
    return client.post("/api/search", files={"image": (name, content)}, data=data)


def test_the_camera_of_an_upload_counts_where_vectors_depend_on_it(client, served, centering, crops, tmp_path):
    content = sorted(crops.iterdir())[3].read_bytes()
    assert client.get("/api/statistics").json()["query_cameras"] == []
    refused = upload(client, content, query_camera="1")
    assert refused.status_code == 422
    assert "neither centred nor normalised by camera; leave it out" in refused.text
    path = shutil.copytree(served, tmp_path / "centered")
    with contextlib.closing(Session(path, embedder=centering)) as session:
        by_camera = testclient.TestClient(app.create_app(session, ServeSettings()), base_url="http://127.0.0.1:8000")
        assert by_camera.get("/api/statistics").json()["query_cameras"] == ["1", "2"]
        pixels = centering.decode(content)[None]
        stored = session.gallery.snapshot().vectors(np.arange(len(session.gallery)))
        for camera in (None, "1", "c2"):
            found = upload(by_camera, content, top=1, **({"query_camera": camera} if camera else {})).json()
            best = (centering(pixels, [camera]) @ stored.T).max()
            assert found["hits"][0]["similarity"] == pytest.approx(best, abs=1e-5)
        refused = upload(by_camera, content, query_camera="7")
        assert refused.status_code == 422
        assert "unknown camera of the query '7'; valid: 1, 2; leave it out" in refused.text


def test_an_upload_finds_what_the_index_holds(client, crops):
    file = sorted(crops.iterdir())[3]
    found = upload(client, file.read_bytes(), top=5, threshold=0.999).json()
    assert found["hits"][0]["path"] == file.name
    assert found["hits"][0]["similarity"] == pytest.approx(1, abs=1e-6)
    assert len(found["hits"]) == 5
    assert found["unknown"] is False
    assert str(crops) not in json.dumps(found)
    rate = upload(client, file.read_bytes(), fpr=0.001).json()
    assert rate["threshold"] == 0.9
    assert rate["expected_false_matches"] == pytest.approx(0.001 * rate["searched"])


def test_an_indexed_image_finds_others_through_filters(client):
    found = client.get("/api/images/1/similar", params={"top": 200}).json()
    assert 1 not in [hit["id"] for hit in found["hits"]]
    cameras = {hit["camera"] for hit in found["hits"]}
    one = sorted(cameras)[0]
    only = client.get("/api/images/1/similar", params={"top": 200, "camera": one}).json()
    assert {hit["camera"] for hit in only["hits"]} == {one}
    assert only["searched"] < found["searched"]


BAD_UPLOADS = {
    "no image": (b"this is no image", 415),
    "empty": (b"", 415),
    "cut off": (jpeg()[:300], 415),
    "60,000 x 60,000": (bomb(60_000, 60_000), 415),
    "5,000 x 5,000": (bomb(5_000, 5_000), 415),
    "0 x 0": (bomb(0, 0), 415),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>', 415),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n", 415),
    "200 MB": (bytes(200 * 2**20), 413),
}


@pytest.mark.parametrize("name", BAD_UPLOADS)
def test_bad_uploads_are_refused_with_one_line(client, name):
    content, status = BAD_UPLOADS[name]
    response = upload(client, content)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    words = {"no image": "(not an image)", "empty": "(empty)", "60,000 x 60,000": "60000", "SVG": "(not an image)"}
    assert words.get(name, "") in response.json()["error"]
    assert "\n" not in response.json()["error"]
    assert client.get("/health").json()["status"] == "ok"


def test_a_body_that_lies_about_its_length_is_cut_off(serve):
    client = serve(max_upload=1000)

    def endless():
        for _ in range(1000):
            yield bytes(2**10)

    response = client.post(
        "/api/search", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert response.status_code in (400, 413)
    assert upload(client, bytes(2000)).status_code == 413


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "/etc/passwd", "a\x00b.jpg", "..\\..\\x.jpg", "x" * 200, "=cmd()"]
)
def test_the_name_of_an_upload_means_nothing(client, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    assert upload(client, jpeg(), name=name).status_code == 200
    after = [path for path in sorted(tmp_path.rglob("*")) if not path.name.startswith("index.sqlite-")]
    assert after == [path for path in before if not path.name.startswith("index.sqlite-")]


@pytest.mark.parametrize(
    "path",
    ["/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page/../app.py", "/api/images/../../index.sqlite",
     "/index.sqlite",
     "/api/images/%2fetc%2fpasswd", "/api/images/1%00", "/api/images/-1", "/api/images/0", "/api/images/1e3",
     "/api/images/99999", "/api/identities/77", "/api/images/" + "9" * 50, "/docs"],
)  # fmt: skip
def test_no_address_leads_out(client, path):
    response = client.get(path)
    assert 400 <= response.status_code < 500
    assert list(response.json()) == ["error"]


@pytest.mark.parametrize(
    "data",
    [{"top": 0}, {"top": 10**9}, {"top": "x"}, {"fpr": 0}, {"fpr": 0.5}, {"threshold": 2}, {"threshold": "nan"},
     {"camera": "nowhere"}, {"after": "noon"}, {"after": "2026-01-02", "before": "2026-01-01"},
     {"fpr": 0.1, "threshold": 0.1}],
)  # fmt: skip
def test_criteria_that_make_no_sense(client, data):
    response = upload(client, jpeg(), **data)
    assert response.status_code == 422
    assert list(response.json()) == ["error"]
    assert str(client.index) not in response.text


def test_identities_are_merged_split_named_and_undone(client):
    assert client.get("/api/identities").json()["total"] == 2
    assert client.put("/api/identities/1/name", json={"name": "=red coat"}).status_code == 200
    assert client.post("/api/merge", json={"identities": [2, 1]}).json() == {"identity": 2}
    assert client.post("/api/split", json={"images": [5]}).json() == {"identity": 3}
    listed = client.get("/api/identities").json()["identities"]
    assert [(entry["id"], entry["name"], entry["images"]) for entry in listed] == [(2, "=red coat", 4), (3, None, 1)]
    text = client.get("/api/identities.csv").text
    assert "2,'=red coat,4" in text
    assert [image["id"] for image in client.get("/api/identities/3").json()["images"]] == [5]
    for action in ("split", "merge", "name"):
        assert client.post("/api/undo").json() == {"undone": action}
    assert client.get("/api/identities").json()["identities"][0]["images"] == 3
    for path, body in (
        ("/api/merge", {"identities": [1]}), ("/api/merge", {"identities": [1, 99]}), ("/api/split", {"images": []}),
        ("/api/split", {"images": [10**30]}), ("/api/merge", {"identities": ["x", 1]}),
    ):  # fmt: skip
        assert client.post(path, json=body).status_code == 422
    assert client.put("/api/identities/1/name", json={"name": "x" * 101}).status_code == 422


def test_another_writer_is_waited_for_by_the_client(client):
    with Gallery(client.index) as gallery, gallery.writing():
        assert client.post("/api/undo").status_code == 409
        assert client.get("/api/identities").status_code == 200
    assert client.post("/api/undo").status_code == 200


def test_what_others_add_is_found_and_what_they_forget_is_gone(client):
    number = client.get("/api/statistics").json()["images"]
    with Gallery(client.index) as gallery, gallery.writing() as writer:
        writer.remove([1], forget=True)
    assert client.get("/api/statistics").json()["images"] == number - 1
    assert client.get("/api/images/1").status_code == 404
    assert client.get("/api/images/1/similar").status_code == 404


def test_thumbnails_are_pictures_and_may_be_blurred(serve):
    plain, blurred = serve().get("/api/images/1"), serve(blur_faces=True).get("/api/images/1")
    assert plain.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(plain.content)).size == (128, 256)
    assert plain.content != blurred.content


def test_other_addresses_need_a_token_and_get_it_by_header_only(serve):
    with pytest.raises(InputError, match="give a token"):
        ServeSettings(host="0.0.0.0")
    with pytest.raises(InputError, match="16 ASCII"):
        ServeSettings(host="0.0.0.0", token="short")
    client = serve(host="0.0.0.0", token=TOKEN)
    for path in ("/", "/page.js", "/health"):
        assert client.get(path).status_code == 200
    for path in ("/api/statistics", "/api/images/1", "/openapi.json", "/nothing", f"/api/statistics?token={TOKEN}"):
        assert client.get(path).status_code == 401
    assert client.post("/api/undo", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/api/statistics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_other_names_and_other_pages_are_refused(client):
    assert client.get("/api/statistics", headers={"Host": "evil.example:8000"}).status_code == 421
    assert client.get("/api/statistics", headers={"Host": "localhost:8000"}).status_code == 200
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert client.post("/api/undo", headers=headers).status_code == 403
    assert client.post("/api/undo", headers={"Origin": "http://127.0.0.1:8000"}).status_code == 200


def test_clients_that_ask_too_often_wait(serve):
    client = serve(requests_per_minute=3)
    assert [client.get("/health").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    now = [0.0]
    rate = guards.RateLimit(60, clock=lambda: now[0])
    assert sum(rate.allows("a") for _ in range(100)) == 60
    assert rate.allows("b")
    now[0] = 2.0
    assert sum(rate.allows("a") for _ in range(100)) == 2


def test_the_audit_log_tells_who_did_what_without_pictures(serve, tmp_path, crops):
    client = serve(audit=tmp_path / "audit.jsonl")
    upload(client, sorted(crops.iterdir())[0].read_bytes(), name="secret.jpg", top=2)
    client.get("/api/images/3/similar")
    client.post("/api/merge", json={"identities": [1, 2]})
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(line["action"], line.get("query")) for line in lines] == [
        ("search", "upload"),
        ("search", "3"),
        ("merge", None),
    ]
    assert lines[0]["found"] == [1]
    assert lines[2]["identities"] == [1, 2]
    assert {"time", "client"} <= set(lines[0])
    assert "secret" not in (tmp_path / "audit.jsonl").read_text()


def test_what_cannot_be_logged_is_not_done(serve, tmp_path, monkeypatch):
    client = serve(audit=tmp_path / "audit.jsonl")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(guards.AuditLog, "write", full)
    response = client.post("/api/merge", json={"identities": [1, 2]})
    assert (response.status_code, response.json()) == (507, {"error": "No space left on device"})
    assert client.get("/api/identities").json()["total"] == 2
    (tmp_path / "link").symlink_to(tmp_path / "audit.jsonl")
    with pytest.raises(OSError, match="symbolic link"):
        guards.AuditLog(tmp_path / "link")


def test_pages_may_load_nothing_from_elsewhere(client):
    for path in ("/", "/page.js", "/page.css", "/icon.svg"):
        response = client.get(path)
        assert response.status_code == 200
        assert "default-src 'self'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        text = response.text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
    assert client.get("/openapi.json").json()["info"]["title"] == "reid-da"


def test_tokens_in_files(tmp_path):
    assert len(new_token()) >= 32
    (tmp_path / "token").write_text(f"  {TOKEN}\nrest")
    assert read_token(tmp_path / "token") == TOKEN
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "absent"):
        with pytest.raises(InputError, match=name):
            read_token(tmp_path / name)
