"""The service's routes. FastAPI's where a request is rare, lean ones (`lean.py`) where speed counts; all in one document.

GET  /  /page/FILE  /docs  /openapi.json                        pages
GET  /api/info  /api/health  /metrics
POST /api/search  /api/search/batch  /api/search/image  /api/count       GET /api/search?text=...
GET  /api/pairs/PART/ROW  .../thumbnail?side=  .../image        GET /api/classes/ID/pairs
GET  PUT /api/review                                            a run's marks
POST /knn-service  /metadata     GET /indices-list              clip-retrieval's
"""

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body, FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import Response

from reactvl import __version__
from reactvl.pool.images import extension_of
from reactvl.serve import pages, reference, schemas
from reactvl.serve.access import Access
from reactvl.serve.asking import Term
from reactvl.serve.knn_service import KnnService, Numbering
from reactvl.serve.lean import CLOSE, JSON, Lean, Refused, encode, lean, said
from reactvl.serve.metrics import MIME as METRICS_MIME
from reactvl.serve.metrics import Timed
from reactvl.serve.review import Review
from reactvl.serve.service import Limits, Service
from reactvl.serve.wire import BROKEN

if TYPE_CHECKING:
    from reactvl.serve.explorer import Explorer

SIDES = (64, 512)  # of a thumbnail
MOST_CLASS_PAIRS = 200  # of one request
SHOWN = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif"}
PICTURE_CSP = "default-src 'none'; frame-ancestors 'none'; sandbox"
UNKNOWN = "application/octet-stream"
PICTURE = {200: {"content": {mime: {} for mime in SHOWN.values()}}}
Number = Annotated[int, InPath(ge=0, le=2**53)]
ABOUT = (
    "Search a pool of image-text pairs by text, picture, pair or a weighted mix; look at what is found; judge it. "
    "A token, where the service has one, goes into the header `Authorization: Bearer TOKEN`."
)


def build(explorer: "Explorer", *, token: str | None = None, limits: Limits | None = None) -> tuple[Any, Service]:
    """The ASGI application over an explorer, and the service under it, to be closed at the end.

    token: what every request must show; without one only this machine's own requests are answered (see access.py).
    """
    service = Service(explorer, limits)
    routes = Routes(service)
    app = FastAPI(
        title="reactvl", version=__version__, description=ABOUT, docs_url=None, redoc_url=None, openapi_url=None
    )
    paper = FastAPI()  # the lean routes once more, for their documentation alone
    for declared in routes.lean():
        app.router.routes.append(lean(declared, service.limits.upload, service.limits.seconds))
        paper.add_api_route(declared.path, declared.function, methods=[declared.method])
    routes.add(app)
    for kind in (HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer_with)

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            together = [*paper.routes, *app.routes]
            app.openapi_schema = with_faults(
                get_openapi(title=app.title, version=app.version, description=app.description, routes=together)
            )
        return app.openapi_schema

    app.openapi = document
    return Timed(Access(app, token), service.metrics), service


async def _answer_with(request: Request, fault: Exception) -> Response:
    """Every fault as {"detail": "one sentence"}."""
    if isinstance(fault, RequestValidationError):
        return Response(encode({"detail": said(fault.errors())}), 422, media_type=JSON)
    if isinstance(fault, HTTPException):
        return Response(encode({"detail": fault.detail}), fault.status_code, fault.headers, media_type=JSON)
    # the server writes the traceback to its log, and ends the connection
    return Response(encode({"detail": BROKEN}), 500, CLOSE, media_type=JSON)


def with_faults(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document whose operations answer faults as these do, in place of FastAPI's lists of places."""
    schema = {"$ref": "#/components/schemas/Detail"}
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"description": "Why not", "content": {JSON: {"schema": schema}}}
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document


class Routes:
    """What each route does. The lean ones' signatures are their schemas, of requests and of answers."""

    def __init__(self, service: Service):
        self.service = service
        explorer = service.explorer
        self.review = None if explorer.run is None else Review(explorer)
        self.knn = KnnService(service, Numbering([(part.number, part.rows) for part in explorer.embeddings.parts]))
        self.files = pages.page_files()
        # of this process: (part, row) is another picture in another run, which may be served at the same address
        self.stamp = secrets.token_hex(8)
        limits = {name: getattr(service.limits, name) for name in ("k", "upload", "pixels")}
        self.info = service.info | {"version": __version__, "review": self.review is not None, "limits": limits}

    def lean(self) -> list[Lean]:
        """The routes of the hot path."""
        service, knn = self.service, self.knn

        async def search(body: schemas.Search) -> schemas.Found:
            """The pairs nearest to a weighted sum of texts, pictures, pairs and vectors."""
            return await service.search(body)

        async def search_text(choices: Annotated[schemas.TextSearch, Query()]) -> schemas.Found:
            """The same for one text, as curl asks it."""
            return await service.search_terms((Term(text=choices.text),), choices)

        async def search_image(
            choices: Annotated[schemas.Choices, Query()],
            picture: Annotated[bytes, Body(media_type="application/octet-stream")],
        ) -> schemas.Found:
            """The pairs nearest to a picture, whose file is the request's body (curl --data-binary @cat.jpg)."""
            return await service.search_terms((Term(pixels=await service.decoded(picture, "the body")),), choices)

        async def search_batch(body: schemas.Batch) -> schemas.BatchFound:
            """Many searches in one request; each has its answer, or why there is none."""
            return await service.batch(body)

        async def count(body: schemas.Count) -> schemas.Counted:
            """How many pairs of the whole pool lie above thresholds of similarity, with a histogram."""
            return await service.count(body)

        async def knn_service(body: schemas.KnnQuery) -> list[schemas.KnnHit]:
            """clip-retrieval's search, for its ClipClient."""
            return await knn.search(body)

        async def metadata(body: schemas.MetadataQuery) -> list[schemas.MetadataRow]:
            """clip-retrieval's metadata of rows by their ids."""
            return await knn.metadata(body)

        async def save_review(body: schemas.Marks) -> schemas.Saved:
            """Replace the marks that the run holds (review/exclude.txt and review/positives.tsv)."""
            return await service.read(self.reviewed().write, body.exclude, body.positives, status=422)

        return [
            Lean("POST", "/api/search", search),
            Lean("GET", "/api/search", search_text),
            Lean("POST", "/api/search/image", search_image),
            Lean("POST", "/api/search/batch", search_batch, watched=True),
            Lean("POST", "/api/count", count, watched=True),
            Lean("POST", "/knn-service", knn_service),
            Lean("POST", "/", knn_service),
            Lean("POST", "/metadata-service", metadata),
            Lean("POST", "/metadata", metadata),
            Lean("PUT", "/api/review", save_review),
        ]

    def add(self, app: FastAPI) -> None:
        """Every other route."""
        service, files = self.service, self.files

        def file_of(request: Request, name: str) -> Response:
            file = files.get(name)
            if file is None:
                raise Refused(404, "there is no such file")
            headers = {"etag": file.etag, "cache-control": "no-cache", "content-security-policy": pages.CSP}
            if request.headers.get("if-none-match") == file.etag:
                return Response(status_code=304, headers=headers)
            return Response(file.body, media_type=file.mime, headers=headers)

        @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
        async def index(request: Request) -> Response:
            return file_of(request, pages.INDEX)

        @app.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
        async def file(request: Request, name: str) -> Response:
            return file_of(request, name)

        @app.get("/docs", include_in_schema=False)
        async def docs() -> Response:
            """The API's reference, as a page."""
            headers = {"content-security-policy": reference.CSP}
            return Response(reference.page_of(app.openapi()), media_type="text/html; charset=utf-8", headers=headers)

        @app.get("/openapi.json", include_in_schema=False)
        async def openapi() -> Response:
            return answer(app.openapi())

        @app.get("/api/info", response_model=schemas.Info)
        async def info() -> Response:
            """What is served: pairs, classes, models, sides and how they are searched, limits."""
            return answer(self.info)

        @app.get("/api/health", response_model=schemas.Health)
        async def health() -> Response:
            """That the service answers; asked without a token."""
            return answer({"status": "ok"})

        @app.get("/metrics", responses={200: {"content": {METRICS_MIME: {}}}}, response_class=Response)
        async def metrics() -> Response:
            """Prometheus's counters."""
            return Response(service.metrics.text(), media_type=METRICS_MIME)

        @app.get("/indices-list", response_model=list[str])
        async def indices() -> Response:
            """clip-retrieval's list of indexes: the one that is served."""
            return answer([service.info["name"]])

        @app.get("/api/pairs/{part}/{row}", response_model=dict[str, Any])
        async def pair(part: Number, row: Number) -> Response:
            """All that the metadata say of a pair."""
            return answer(await service.read(service.explorer.pair, part, row))

        @app.get("/api/pairs/{part}/{row}/thumbnail", response_class=Response, responses=PICTURE)
        async def thumbnail(
            request: Request, part: Number, row: Number, side: Annotated[int, Query(ge=SIDES[0], le=SIDES[1])] = 256
        ) -> Response:
            """A pair's picture, at most `side` pixels wide and high."""
            return await self.picture(request, service.explorer.thumbnail, part, row, side)

        @app.get("/api/pairs/{part}/{row}/image", response_class=Response, responses=PICTURE)
        async def image(request: Request, part: Number, row: Number) -> Response:
            """A pair's picture as it lies in its shard."""
            return await self.picture(request, lambda *pair: typed(service.explorer.picture(*pair)), part, row)

        @app.get("/api/classes/{class_id}/pairs", response_model=schemas.ClassPairs)
        async def class_pairs(
            class_id: Number,
            offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
            limit: Annotated[int, Query(ge=1, le=MOST_CLASS_PAIRS)] = 40,
        ) -> Response:
            """The retrieved pairs of a class in the order of their rank."""
            return answer({"hits": await service.read(service.explorer.class_pairs, class_id, offset, limit)})

        @app.get("/api/review", response_model=schemas.Saved)
        async def review() -> Response:
            """The marks that the run holds."""
            return answer(await service.read(self.reviewed().read, status=422))

    async def picture(self, request: Request, read: Callable[..., tuple[bytes, str]], *what: int) -> Response:
        """A picture that a browser may keep; what: part, row and perhaps a side."""
        etag = f'"{self.stamp}-{"-".join(map(str, what))}"'
        headers = {"etag": etag, "cache-control": "private, no-cache", "content-security-policy": PICTURE_CSP}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        data, mime = await self.service.read(read, *what)
        if mime == UNKNOWN:
            headers["content-disposition"] = "attachment"
        return Response(data, media_type=mime, headers=headers)

    def reviewed(self) -> Review:
        if self.review is None:
            raise Refused(404, "marks are kept in a run's folder, and bare embeddings are served: `reactvl serve RUN`")
        return self.review


def answer(value: Any) -> Response:
    return Response(encode(value), media_type=JSON)


def typed(data: bytes) -> tuple[bytes, str]:
    """A picture's bytes and their type by what they begin with: one that browsers show, or none that they act on."""
    return data, SHOWN.get(extension_of(data) or "", UNKNOWN)
