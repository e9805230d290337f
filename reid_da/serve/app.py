"""The server's addresses: search, identities, pictures, statistics, and the page itself."""

import csv
import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib import resources
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

import reid_da
from reid_da.errors import InputError
from reid_da.gallery import identities
from reid_da.gallery.search import Answers, hit_json
from reid_da.images.decode import ImageError
from reid_da.serve.guards import AuditLog, Guard, UploadTooLargeError
from reid_da.serve.session import MOST_HITS, Session
from reid_da.serve.settings import ServeSettings
from reid_da.text import csv_cell, printable

_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_LONGEST_LIST = 10_000
_Identifier = Annotated[int, Field(ge=1, lt=2**62)]


class Merge(BaseModel):
    """Identities that become the first of them."""

    identities: list[_Identifier] = Field(min_length=2, max_length=_LONGEST_LIST)


class Split(BaseModel):
    """Images that get an identity of their own."""

    images: list[_Identifier] = Field(min_length=1, max_length=_LONGEST_LIST)


class Name(BaseModel):
    """Name of an identity; empty takes it away."""

    name: str = Field(max_length=identities.LONGEST_NAME)


class Criteria(BaseModel):
    """What to find, beside the query."""

    top: int = Field(default=20, ge=1, le=MOST_HITS)
    fpr: float | None = Field(default=None, gt=0, le=1)
    threshold: float | None = Field(default=None, ge=-1, le=1)
    camera: list[str] = Field(default_factory=list, max_length=1000)
    after: str | None = Field(default=None, max_length=100)
    before: str | None = Field(default=None, max_length=100)

    def arguments(self) -> dict[str, Any]:
        """Arguments of :meth:`Session.search`."""
        return {
            "top": self.top, "fpr": self.fpr, "threshold": self.threshold, "cameras": self.camera,
            "after": self.after or None, "before": self.before or None,
        }  # fmt: skip


def create_app(session: Session, settings: ServeSettings) -> FastAPI:
    """The application that serves an index.

    Args:
        session: the index with its model; closed when the server ends.
        settings: limits, token, audit log.

    Raises:
        OSError: the audit log cannot be written.
    """
    audit = AuditLog(settings.audit)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        session.close()

    app = FastAPI(
        title="reid-da", version=reid_da.__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Search and identities of an index of person crops.",
    )  # fmt: skip
    _add_errors(app, str(session.gallery.path))
    _add_page(app)
    _add_search(app, session, settings, audit)
    _add_identities(app, session, audit)
    app.add_middleware(Guard, settings=settings)
    return app


def _add_page(app: FastAPI) -> None:
    def serve(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
        content = (resources.files("reid_da.serve") / "page" / name).read_bytes()

        async def page() -> Response:
            return Response(content, media_type=kind)

        return page

    for path, (name, kind) in _PAGE.items():
        app.get(path, include_in_schema=False)(serve(name, kind))

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server lives."""
        return {"status": "ok", "version": reid_da.__version__}


def _add_search(app: FastAPI, session: Session, settings: ServeSettings, audit: AuditLog) -> None:
    @app.get("/api/statistics")
    async def statistics() -> dict[str, Any]:
        """The index in figures, its cameras, and the thresholds that it knows."""
        return await run_in_threadpool(session.statistics)

    @app.post("/api/search")
    async def search(
        request: Request,
        image: Annotated[UploadFile, File(description="A crop of a person: JPEG, PNG, WebP, BMP, TIFF, GIF or PPM.")],
        top: Annotated[int, Form(ge=1, le=MOST_HITS)] = 20,
        fpr: Annotated[float | None, Form(gt=0, le=1)] = None,
        threshold: Annotated[float | None, Form(ge=-1, le=1)] = None,
        camera: Annotated[list[str] | None, Form(max_length=1000)] = None,
        after: Annotated[str | None, Form(max_length=100)] = None,
        before: Annotated[str | None, Form(max_length=100)] = None,
        query_camera: Annotated[str | None, Form(max_length=255)] = None,
    ) -> dict[str, Any]:
        """The images that are most similar to a picture, which is not kept.

        ``query_camera`` is the camera that took it, one of the ``query_cameras`` of the statistics.
        """
        criteria = Criteria(top=top, fpr=fpr, threshold=threshold, camera=camera or [], after=after, before=before)
        content = await image.read(settings.max_upload + 1)
        if len(content) > settings.max_upload:
            raise UploadTooLargeError
        vector = await run_in_threadpool(session.embed, content, query_camera or None)
        return await _answer(request, vector, "upload", criteria, ())

    @app.get("/api/images/{number}/similar")
    async def similar(request: Request, number: _Identifier, criteria: Annotated[Criteria, Query()]) -> dict[str, Any]:
        """The images that are most similar to an indexed one, which is left out."""
        vector = await run_in_threadpool(session.vector_of, number)
        return await _answer(request, vector, str(number), criteria, (number,))

    async def _answer(
        request: Request, vector: Any, name: str, criteria: Criteria, leave_out: Sequence[int]
    ) -> dict[str, Any]:
        find = partial(session.search, vector, name, leave_out=leave_out, **criteria.arguments())
        found = await run_in_threadpool(find)
        best = found.answers[0].hits[:1]
        details = {key: value for key, value in criteria.model_dump().items() if value not in (None, [])}
        await run_in_threadpool(
            audit.write, _client(request), "search", query=name, **details, found=[hit.image.id for hit in best]
        )
        return _public(found)

    @app.get("/api/images/{number}", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
    async def picture(number: _Identifier) -> Response:
        """An indexed image, as JPEG."""
        return Response(await run_in_threadpool(session.thumbnail, number), media_type="image/jpeg")


def _add_identities(app: FastAPI, session: Session, audit: AuditLog) -> None:
    @app.get("/api/identities")
    async def list_identities(
        offset: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> dict[str, Any]:
        """Identities by number."""
        found = await run_in_threadpool(session.identities)
        return {"total": len(found), "identities": found[offset : offset + limit]}

    @app.get("/api/identities.csv", response_class=Response, responses={200: {"content": {"text/csv": {}}}})
    async def csv_of_identities() -> Response:
        """Identities as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(identities.Identity._fields)
        for identity in await run_in_threadpool(session.identities):
            writer.writerow("" if value is None else csv_cell(printable(value)) for value in identity.values())
        headers = {"Content-Disposition": 'attachment; filename="identities.csv"'}
        return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)

    @app.get("/api/identities/{number}")
    async def images_of(number: _Identifier) -> dict[str, Any]:
        """Images of an identity, by camera and time."""
        images = await run_in_threadpool(session.images_of, number)
        return {"identity": number, "images": [_named(image) for image in images]}

    async def change(request: Request, action: str, operation: Callable[[Any], Any], **details: Any) -> Any:
        # before the change: what cannot be logged is not done
        await run_in_threadpool(audit.write, _client(request), action, **details)
        return await run_in_threadpool(session.change, operation)

    @app.post("/api/merge")
    async def merge(request: Request, body: Merge) -> dict[str, Any]:
        """Make several identities one: the first."""
        operation = partial(identities.merge, numbers=body.identities)
        return {"identity": await change(request, "merge", operation, identities=body.identities)}

    @app.post("/api/split")
    async def split(request: Request, body: Split) -> dict[str, Any]:
        """Give images an identity of their own."""
        operation = partial(identities.split, images=body.images)
        return {"identity": await change(request, "split", operation, images=body.images)}

    @app.put("/api/identities/{number}/name")
    async def name(request: Request, number: _Identifier, body: Name) -> dict[str, Any]:
        """Name an identity."""
        operation = partial(identities.name, number=number, text=body.name)
        await change(request, "name", operation, identity=number)
        return {"identity": number}

    @app.post("/api/undo")
    async def undo(request: Request) -> dict[str, Any]:
        """Take back the last change of identities."""
        return {"undone": await change(request, "undo", identities.undo)}


def _add_errors(app: FastAPI, root: str) -> None:
    """Every error is one line of JSON; none tells a path of this machine that the client did not send."""

    def answer(status: int, reason: str) -> JSONResponse:
        return JSONResponse({"error": " ".join(printable(reason).split())}, status_code=status)

    @app.exception_handler(InputError)
    async def mistake(_: Request, error: InputError) -> JSONResponse:
        return answer(422, str(error).replace(root, "the index"))

    @app.exception_handler(ImageError)
    async def no_image(_: Request, error: ImageError) -> JSONResponse:
        return answer(415, f"cannot be decoded as an image ({error})")

    @app.exception_handler(KeyError)
    async def absent(_: Request, error: KeyError) -> JSONResponse:
        return answer(404, f"there is no {error.args[0]}")

    @app.exception_handler(UploadTooLargeError)
    async def too_large(_: Request, __: UploadTooLargeError) -> JSONResponse:
        return answer(413, "the upload is too large")

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return answer(422, f"{'.'.join(map(str, first['loc'][1:])) or 'request'}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail))

    @app.exception_handler(BlockingIOError)
    async def busy(_: Request, __: BlockingIOError) -> JSONResponse:
        return answer(409, "another process is writing to the index; try again later")

    @app.exception_handler(OSError)
    async def failed(_: Request, error: OSError) -> JSONResponse:
        return answer(507, error.strerror or "cannot be written")


def _client(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def _named(image: dict[str, Any]) -> dict[str, Any]:
    """An image as clients see it: its path is its name."""
    return {**image, "path": PurePath(os.fspath(image["path"])).name}


def _public(found: Answers) -> dict[str, Any]:
    """An answer to one query, without the paths of this machine."""
    answer = found.answers[0]
    hits = [_named(hit_json(hit)) for hit in answer.hits]
    source = "calibration of the run" if found.source.startswith("calibration") else found.source
    return {
        "unknown": answer.is_unknown,
        "threshold": found.threshold,
        "fpr": found.fpr,
        "threshold_source": source,
        "searched": found.searched,
        "expected_false_matches": found.expected_false,
        "hits": hits,
    }
