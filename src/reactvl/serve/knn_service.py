"""clip-retrieval's service, so that its ClipClient asks this one unchanged: `/knn-service`, `/metadata`, `/indices-list`.

    ClipClient(url="http://127.0.0.1:8080/knn-service", indice_name="any").query(text="a red panda")

The formats are those of clip_retrieval/clip_back.py: a list of {id, similarity, url, caption, ...}, where id counts the rows
of all parts in order. One index is served, so its name is not looked at; neither are the aesthetic, safety and violence
fields, for whose models theirs too needs an option. `image_url` is refused: this service fetches nothing.
"""

import bisect
from collections.abc import Sequence
from typing import Any

from reactvl.serve import schemas
from reactvl.serve.asking import Term
from reactvl.serve.lean import Refused
from reactvl.serve.service import Service
from reactvl.serve.wire import as_vector, chosen

COLUMNS = ("url", "caption", "key", "shard")


class Numbering:
    """Rows of all parts, counted in order, and back. `parts`: (number, rows) of each."""

    def __init__(self, parts: Sequence[tuple[int, int]]):
        self.numbers = [number for number, _ in parts]
        self.first, self.total = [], 0
        for _, rows in parts:
            self.first.append(self.total)
            self.total += rows
        self._begin = dict(zip(self.numbers, self.first, strict=True))

    def id_of(self, part: int, row: int) -> int:
        return self._begin[part] + row

    def pair_of(self, row: int) -> tuple[int, int] | None:
        """(part, row); None when there are not so many."""
        if row >= self.total:
            return None
        place = bisect.bisect_right(self.first, row) - 1
        return self.numbers[place], row - self.first[place]


class KnnService:
    """Answers clip-retrieval's three requests over a service."""

    def __init__(self, service: Service, numbering: Numbering):
        self.service, self.numbering = service, numbering

    async def search(self, query: schemas.KnnQuery) -> list[dict[str, Any]]:
        """`schemas.KnnHit`s. As theirs: the first num_images with metadata, the rest of num_result_ids without."""
        term = await self._term(query)
        most = self.service.limits.k
        wanted = query.num_result_ids or query.num_images
        choices = schemas.Choices(
            keys=query.modality, k=max(query.num_images, min(wanted, most)), dedup=query.deduplicate
        )
        answer = await self.service.answer(chosen((term,), choices, most))
        hits = []
        for number, hit in enumerate(answer.hits):
            known = {name: getattr(hit, name) for name in COLUMNS} if number < query.num_images else {}
            hits.append(
                {name: value for name, value in known.items() if value is not None}
                | {"id": self.numbering.id_of(hit.part, hit.row), "similarity": hit.similarity}
            )
        return hits

    async def metadata(self, query: schemas.MetadataQuery) -> list[dict[str, Any]]:
        """`schemas.MetadataRow`s of rows by their ids."""
        pairs = [self.numbering.pair_of(row) for row in query.ids]
        if None in pairs:
            row = query.ids[pairs.index(None)]
            raise Refused(404, f"ids: there is no row {row:,}; the pool has {self.numbering.total:,}")

        def rows() -> list[dict[str, Any]]:
            return [self.service.explorer.pair(*pair) for pair in pairs]

        found = await self.service.read(rows)
        return [
            {"id": row, "metadata": {name: value for name, value in known.items() if value is not None}}
            for row, known in zip(query.ids, found, strict=True)
        ]

    async def _term(self, query: schemas.KnnQuery) -> Term:
        """Their order: a text that is not empty, else an image, else a vector."""
        if query.use_mclip:
            raise Refused(422, "use_mclip: there is no multilingual model here; ask in the language of the model")
        if query.text:
            return Term(text=query.text)
        if query.image is not None:
            return Term(pixels=await self.service.decoded(query.image, "image"))
        if query.image_url is not None:
            raise Refused(422, "image_url: this service fetches nothing; send the picture itself as base64 in `image`")
        if query.embedding_input is not None:
            return Term(vector=as_vector(query.embedding_input, "embedding_input"))
        raise Refused(422, "give text, image or embedding_input")
