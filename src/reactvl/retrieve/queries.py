"""The queries of a request: names in templates, example pictures, and names to look for in captions.

Every query belongs to one class and is numbered over all kinds: first the prompts (class by class, name by name, template
by template), then the example pictures, then the names for `match`. A kind that no mode asks for has no queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.progress import progress
from reactvl.tasks.classes import ClassEntry
from reactvl.tasks.templates import prompt

PROMPTS, EXAMPLES, WORDS = "prompts", "examples", "words"
MODES = ("t2i", "t2t", "i2i", "i2t", "match")
POSITIVE = "positive"  # what stands for a mode where a pair was picked by hand and no query of its class found it
KIND = {"t2i": PROMPTS, "t2t": PROMPTS, "i2i": EXAMPLES, "i2t": EXAMPLES, "match": WORDS}
SIDE = {"t2i": "image", "i2i": "image", "t2t": "text", "i2t": "text"}  # the vectors that a mode searches
PROMPTS_AT_A_TIME = 2048


@dataclass(frozen=True)
class Queries:
    """All queries of a request; the arrays and lists have one length n.

    class_id: int64; name, template, prompt: what the query is made of ("" where it is made of a picture: then `prompt` is
    the picture's file name). spans: kind -> the numbers of its queries. name_of_class: int64 (classes,), equal for classes
    that ask for the very same.
    """

    class_id: np.ndarray
    name: list[str]
    template: list[str]
    prompt: list[str]
    spans: dict[str, range]
    name_of_class: np.ndarray

    def __len__(self) -> int:
        return len(self.class_id)

    @property
    def name_of_query(self) -> np.ndarray:
        """int64 (n,): the number of the name that a query asks for."""
        return self.name_of_class[self.class_id]

    @property
    def names(self) -> int:
        return int(self.name_of_class.max()) + 1

    def of_mode(self, mode: str) -> range:
        return self.spans[KIND[mode]]


def queries_of(entries: Sequence[ClassEntry], templates: Sequence[str], modes: Sequence[str]) -> Queries:
    """The queries that `modes` need of these classes; a class's own templates stand in for `templates`.

    Raises ReactvlError for a class that has no query in any mode.
    """
    kinds = {KIND[mode] for mode in modes}
    made: dict[str, list[tuple[int, str, str, str]]] = {PROMPTS: [], EXAMPLES: [], WORDS: []}
    for number, entry in enumerate(entries):
        before = sum(map(len, made.values()))
        if PROMPTS in kinds:
            made[PROMPTS] += [
                (number, name, template, prompt(template, name))
                for name in entry.synonyms
                for template in (entry.templates or templates)
            ]
        if EXAMPLES in kinds:
            made[EXAMPLES] += [(number, "", "", path.name) for path in entry.examples]
        if WORDS in kinds:
            made[WORDS] += [(number, name, "", name) for name in entry.synonyms]
        if sum(map(len, made.values())) == before:
            raise ReactvlError(
                f"class {entry.name}: has no example picture, and the modes {' and '.join(modes)} ask by pictures alone; "
                "give `examples` in a TOML or JSON class file, or add a mode such as t2i"
            )
    every = [*made[PROMPTS], *made[EXAMPLES], *made[WORDS]]
    edges = np.cumsum([0, *(len(made[kind]) for kind in (PROMPTS, EXAMPLES, WORDS))]).tolist()
    return Queries(
        class_id=np.array([query[0] for query in every], dtype=np.int64),
        name=[query[1] for query in every],
        template=[query[2] for query in every],
        prompt=[query[3] for query in every],
        spans={kind: range(edges[at], edges[at + 1]) for at, kind in enumerate((PROMPTS, EXAMPLES, WORDS))},
        name_of_class=same_asked(entries),
    )


def same_asked(entries: Sequence[ClassEntry]) -> np.ndarray:
    """int64 (classes,): one number for classes that have the same names, templates and examples, in order of first
    appearance. ImageNet's two "missile" share one; a "crane" with pictures of birds and one with pictures of machines do
    not."""
    numbers: dict[tuple, int] = {}
    return np.array(
        [numbers.setdefault((entry.synonyms, entry.templates, entry.examples), len(numbers)) for entry in entries],
        dtype=np.int64,
    )


def encode_prompts(encoder, prompts: Sequence[str]) -> np.ndarray:
    """float32 (n, dim) of texts."""
    pieces = []
    with progress("encoding prompts", len(prompts), "prompts") as bar:
        for first in range(0, len(prompts), PROMPTS_AT_A_TIME):
            pieces.append(encoder.texts(prompts[first : first + PROMPTS_AT_A_TIME]))
            bar.advance(len(pieces[-1]))
    return np.concatenate(pieces)


def encode_examples(encoder, entries: Sequence[ClassEntry]) -> np.ndarray:
    """float32 (n, dim) of the classes' example pictures, in their order; ReactvlError names one that cannot be read."""
    from reactvl.heads.features import encode_images

    paths = [path for entry in entries for path in entry.examples]

    def read(at: int) -> bytes:
        try:
            return paths[at].read_bytes()
        except OSError as fault:
            raise ReactvlError(f"example picture {paths[at]}: cannot be read ({fault.strerror})") from None

    pieces = []
    with progress("encoding examples", len(paths), "pictures") as bar:
        for batch in encode_images(encoder, read, range(len(paths))):
            for at, reason in batch.bad:
                raise ReactvlError(f"example picture {paths[at]}: {reason}; replace it or leave it out")
            pieces.append(batch.vectors)
            bar.advance(len(batch.vectors))
    return np.concatenate(pieces)
