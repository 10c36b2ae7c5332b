"""A served pool from Python, with nothing but the standard library: `reactvl.Client`.

client = rv.Client("http://127.0.0.1:8080")
hits = client.search("a photo of a red panda", k=10)
hits = client.search([(1.0, "a red panda"), (0.5, Path("tree.jpg")), (-1.0, "a drawing")])
client.image(hits[0]).show()
client.count("a red panda", thresholds=[0.25, 0.3])["above"]
"""

import base64
import http.client
import io
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from reactvl.handles.embeddings import Hit
from reactvl.manifest import ReactvlError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

TIMEOUT = 60.0  # seconds
Query: TypeAlias = "str | Image | Path | bytes | np.ndarray | Hit | Mapping[str, Any] | Sequence[tuple[float, Query]]"


class Client:
    """Asks the service at `url` (what `reactvl serve` prints; a token in it is taken). Safe in threads, which each keep a
    connection.

    A query is a text, a PIL image, a `Path` or the bytes of a picture file, a vector (dim,), a
    `Hit` (more like it), or a list of (weight, any of these). Every method raises ReactvlError with what the service says
    when it refuses, and when it cannot be reached.
    """

    def __init__(self, url: str = "http://127.0.0.1:8080", token: str | None = None, timeout: float = TIMEOUT):
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ReactvlError(f"{url}: is no address of a service; give it as http://HOST:PORT")
        named = parts.query.removeprefix("token=") if parts.query.startswith("token=") else None
        self.token = token or named or None
        try:
            self._address = (parts.hostname, parts.port)
        except ValueError as fault:
            raise ReactvlError(f"{url}: {fault}") from None
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._path, self.timeout = parts.path.rstrip("/"), timeout
        self.url = f"{parts.scheme}://{parts.netloc}{self._path}"
        self._connections = threading.local()

    def search(self, query: Query, k: int = 10, keys: str = "image", **choices: Any) -> list[Hit]:
        """The nearest pairs, best first. keys: image, text or both; choices: offset, min_similarity, class_id, caption,
        dedup, model, as the API has them."""
        return hits_of(self.answer(query, k=k, keys=keys, **choices))

    def answer(self, query: Query, **choices: Any) -> dict[str, Any]:
        """The same with all that the service says: hits with both sides' similarities, facets, recall, notes, times."""
        return self._asked("POST", "/api/search", {"query": terms_of(query), **choices})

    def batch(self, queries: Iterable[Query], k: int = 10, **choices: Any) -> list[list[Hit]]:
        """Searches that are answered together. ReactvlError names the first one that is refused."""
        searches = [{"query": terms_of(query), "k": k, **choices} for query in queries]
        answers = self._asked("POST", "/api/search/batch", {"searches": searches})["answers"] if searches else []
        for number, answer in enumerate(answers):
            if "detail" in answer:
                raise ReactvlError(f"{self.url}: query {number}: {answer['detail']}")
        return [hits_of(answer) for answer in answers]

    def count(self, query: Query, thresholds: Sequence[float] = (), **choices: Any) -> dict[str, Any]:
        """How many pairs of the pool reach each threshold of similarity, with a histogram: {pairs, histogram, above, exact}."""
        body = {"query": terms_of(query), "thresholds": [float(value) for value in thresholds], **choices}
        return self._asked("POST", "/api/count", body)

    def info(self) -> dict[str, Any]:
        """What is served: name, pairs, classes, models, sides and how they are searched, limits."""
        return self._asked("GET", "/api/info")

    def pair(self, pair: Hit | tuple[int, int]) -> dict[str, Any]:
        """All metadata of a pair: a hit, or (part, row)."""
        return self._asked("GET", _path_of(pair))

    def image(self, pair: Hit | tuple[int, int]) -> "Image":
        """The picture of a pair, decoded."""
        from PIL import Image

        from reactvl.pool.images import FORMATS

        data = self.read_image(pair)
        try:
            return Image.open(io.BytesIO(data), formats=FORMATS)
        except (OSError, ValueError, Image.DecompressionBombError) as fault:
            raise ReactvlError(f"{self.url}{_path_of(pair)}/image: is no picture that can be read ({fault})") from None

    def read_image(self, pair: Hit | tuple[int, int]) -> bytes:
        """The picture's file as it lies in the pool."""
        return self._sent("GET", f"{_path_of(pair)}/image")

    def class_pairs(self, class_id: int, offset: int = 0, limit: int = 40) -> list[Hit]:
        """The retrieved pairs of a class, best first."""
        return hits_of(self._asked("GET", f"/api/classes/{int(class_id)}/pairs?offset={offset:d}&limit={limit:d}"))

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def _asked(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            data = None if body is None else json.dumps(body, allow_nan=False).encode()
        except (TypeError, ValueError) as fault:
            raise ReactvlError(f"{self.url}: the query cannot be sent ({fault})") from None
        return self._json(self._sent(method, path, data))

    def _json(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            raise ReactvlError(f"{self.url}: answers no JSON; is this a `reactvl serve`?") from None

    def _sent(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of a good answer. A connection that the service has closed meanwhile is opened once more."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        for attempt in (1, 2):
            kept = getattr(self._connections, "connection", None)
            connection = kept or self._kind(*self._address, timeout=self.timeout)
            try:
                connection.request(method, self._path + path, body, headers)
                answer = connection.getresponse()
                data = answer.read()
            except (http.client.HTTPException, OSError) as fault:
                connection.close()
                self._connections.connection = None
                stale = isinstance(fault, ConnectionError | http.client.BadStatusLine)
                if kept is None or attempt == 2 or not stale:
                    raise ReactvlError(f"{self.url}: cannot be reached ({fault or type(fault).__name__})") from None
                continue
            self._connections.connection = connection
            if answer.status != 200:
                raise ReactvlError(f"{self.url}: {self._detail(answer.status, data)}")
            return data
        raise AssertionError("the second attempt returns or raises")

    def _detail(self, status: int, data: bytes) -> str:
        try:
            return str(json.loads(data)["detail"])
        except (ValueError, KeyError, TypeError):
            return f"answers with status {status}"


def hits_of(answer: dict[str, Any]) -> list[Hit]:
    """The hits of an answer; `score` is their similarity."""
    return [
        Hit(hit["similarity"], hit["caption"], hit["shard"], hit["key"], hit["url"], hit["part"], hit["row"])
        for hit in answer["hits"]
    ]


def terms_of(query: Query) -> list[dict[str, Any]]:
    """The API's terms of a query; ReactvlError for what is none."""
    if isinstance(query, list | tuple) and not isinstance(query, Hit):
        if not query or not all(isinstance(part, list | tuple) and len(part) == 2 for part in query):
            raise ReactvlError("a query of several terms is a list of (weight, term)")
        return [term_of(term) | {"weight": float(weight)} for weight, term in query]
    return [term_of(query)]


def term_of(term: Any) -> dict[str, Any]:
    """One term without its weight."""
    if isinstance(term, str):
        return {"text": term}
    if isinstance(term, Hit):
        return {"pair": [term.part, term.row]}
    if isinstance(term, Mapping):
        return dict(term)
    if isinstance(term, bytes | bytearray | memoryview):
        return {"image": base64.b64encode(term).decode()}
    if isinstance(term, Path):
        try:
            return term_of(term.read_bytes())
        except OSError as fault:
            raise ReactvlError(f"{term}: cannot be read ({fault.strerror})") from None
    if hasattr(term, "save") and hasattr(term, "convert"):  # a PIL image, of which only those who have one import PIL
        file = io.BytesIO()
        (term if term.mode in ("RGB", "RGBA", "L", "LA", "P", "1") else term.convert("RGB")).save(file, "PNG")
        return term_of(file.getvalue())
    if hasattr(term, "tolist"):
        return {"vector": term.tolist()}
    raise ReactvlError(f"a term is a text, a picture, a vector or a hit, not {type(term).__name__}")


def _path_of(pair: Hit | tuple[int, int]) -> str:
    part, row = (pair.part, pair.row) if isinstance(pair, Hit) else pair
    return f"/api/pairs/{int(part)}/{int(row)}"
