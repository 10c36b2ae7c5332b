"""What the API takes and gives, as pydantic models: requests are parsed by them, answers are documented by them.

Answers are encoded straight from the engine's own values (`wire.py`); tests hold what is sent against these models.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_TEXT = 2_000  # characters; towers read 77 tokens
MAX_TERMS = 16
MAX_OFFSET = 10_000
MAX_SEARCHES = 256
MAX_THRESHOLDS = 64
MAX_MARKS = 100_000
BASE64 = "base64 of a picture file"

Number = Annotated[int, Field(ge=0, le=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Cosine = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Pair = Annotated[tuple[Number, Number], Field(description="part and row of a pair of the pool")]


class Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Term(Schema):
    """One part of a query: exactly one of text, image, pair and vector; a weight below 0 makes it a minus-term."""

    text: Text | None = None
    image: Annotated[str, Field(description=BASE64)] | None = None
    pair: Pair | None = None
    vector: Annotated[list[Finite], Field(description="as many numbers as the model has dimensions")] | None = None
    weight: Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)] = 1.0


class Choices(Schema):
    """What of the found is wanted."""

    keys: Annotated[Literal["image", "text", "both"], Field(description="compare with pictures, captions or both")] = (
        "image"
    )
    k: Annotated[int, Field(ge=1, le=2**31, description="hits; the service's --max-k is the limit")] = 40
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET, description="hits to pass over")] = 0
    min_similarity: Annotated[Cosine | None, Field(description="only pairs at least as similar")] = None
    class_id: Annotated[Number | None, Field(description="only retrieved pairs of this class")] = None
    caption: Annotated[Text | None, Field(description="only pairs whose caption holds this, among the best 10,000")] = (
        None
    )
    dedup: Annotated[bool, Field(description="of equal and nearly equal pictures only the best")] = True
    model: Annotated[str, Field(max_length=500, description="base, or a customized model that re-ranks")] = "base"


class TextSearch(Choices):
    """A search by one text."""

    text: Text


class Search(Choices):
    """A search by the weighted sum of its terms."""

    query: Annotated[list[Term], Field(min_length=1, max_length=MAX_TERMS)]


class Batch(Schema):
    """Searches that are answered together."""

    searches: Annotated[list[Search], Field(min_length=1, max_length=MAX_SEARCHES)]


class Count(Search):
    """How the pool is distributed by similarity to a query, and how many pairs reach each threshold."""

    thresholds: Annotated[list[Finite], Field(max_length=MAX_THRESHOLDS)] = []


class Marks(Schema):
    """Pairs marked wrong, and pairs picked for a class (part, row, class)."""

    exclude: Annotated[list[Pair], Field(max_length=MAX_MARKS)] = []
    positives: Annotated[list[tuple[Number, Number, Number]], Field(max_length=MAX_MARKS)] = []


class Hit(Schema):
    """A pair that was found; `similarity` is the cosine that it is ranked by (of keys "both": the picture's)."""

    part: int
    row: int
    similarity: float | None
    image_similarity: float | None
    text_similarity: float | None
    class_ids: list[int]
    caption: str | None
    shard: str | None
    key: str | None
    url: str | None
    width: int | None
    height: int | None
    sha256: str | None


class Facet(Schema):
    """How many of the best 1,000 are retrieved pairs of a class."""

    class_id: int
    count: int


class Found(Schema):
    """Hits, best first. `recall` is the index's, where one answered; `milliseconds`: encode, search, metadata."""

    hits: list[Hit]
    facets: list[Facet]
    exact: bool
    recall: float | None
    examined: int
    notes: list[str]
    milliseconds: dict[str, float]


class Detail(Schema):
    """Why not."""

    detail: str


class BatchFound(Schema):
    """An answer a search, in their order; a search that could not be answered says why."""

    answers: list[Found | Detail]


class Histogram(Schema):
    """`counts[i]` pairs lie between `edges[i]` and `edges[i + 1]`."""

    edges: list[float]
    counts: list[int]


class Above(Schema):
    """Pairs at least as similar as the threshold; an estimate has its 95% interval."""

    threshold: float
    count: int
    low: int
    high: int


class Counted(Schema):
    """The whole pool by similarity. `exact` is false where a sample was counted and scaled."""

    pairs: int
    histogram: Histogram
    above: list[Above]
    exact: bool


class ClassPairs(Schema):
    """Retrieved pairs of one class in the order of their rank."""

    hits: list[Hit]


class Saved(Schema):
    """Marks as they lie in the run; `kept`: lines of its files that name no pair of this pool, which are left there."""

    exclude: list[Pair]
    positives: list[tuple[int, int, int]]
    kept: int


class Health(Schema):
    status: Literal["ok"]


class Named(BaseModel):
    name: str


class ClassInfo(Named):
    """A class of the run and how many pairs were retrieved for it."""

    id: int
    pairs: int


class Side(BaseModel):
    """How pictures or captions are searched; `recall` is the index's, measured."""

    engine: str
    recall: float | None


class Sizes(Schema):
    """Limits of a request: hits, bytes of its body, pixels of an uploaded picture."""

    k: int
    upload: int
    pixels: int


class Info(BaseModel):
    """What is served. `review`: it is a run, whose marks are kept."""

    name: str
    pairs: int
    dim: int
    pictures: bool
    sides: dict[str, Side]
    classes: list[ClassInfo]
    models: list[Named]
    columns: list[str]
    version: str
    review: bool
    limits: Sizes


class KnnQuery(BaseModel):
    """clip-retrieval's request, as its ClipClient and its page send it; fields of other filters are passed over."""

    text: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    image: Annotated[str, Field(description=BASE64)] | None = None
    image_url: str | None = None
    embedding_input: list[Finite] | None = None
    modality: Literal["image", "text"] = "image"
    num_images: Annotated[int, Field(ge=1, le=2**31)] = 100
    num_result_ids: Annotated[int, Field(ge=1, le=2**31)] | None = None
    indice_name: str | None = None
    deduplicate: bool = False
    use_mclip: bool = False


class KnnHit(BaseModel):
    """id counts the rows of all parts in order; hits past num_images have nothing but id and similarity."""

    id: int
    similarity: float
    url: str | None = None
    caption: str | None = None
    key: str | None = None
    shard: str | None = None


class MetadataQuery(BaseModel):
    """clip-retrieval's request for the metadata of rows by their ids."""

    ids: Annotated[list[Number], Field(max_length=10_000)]
    indice_name: str | None = None


class MetadataRow(BaseModel):
    id: int
    metadata: dict[str, Any]
