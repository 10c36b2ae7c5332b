"""The service stage: search, look at and judge a run's pairs over HTTP, with a page for people and JSON for programs.

    reactvl serve run                                    # the page at http://127.0.0.1:8080, the API under /api
    reactvl serve run/embeddings --index run/index       # any embeddings, answered by an index
    reactvl serve laion --model ViT-B-32:openai --port 0 # published ones; a free port, which is printed
    REACTVL_TOKEN=... reactvl serve run --host 0.0.0.0   # to other machines, for those who have the token

    curl 'http://127.0.0.1:8080/api/search?text=a+red+panda&k=5'
    curl --data-binary @cat.jpg 'http://127.0.0.1:8080/api/search/image?k=5'

`reactvl.Client` is the same from Python. It listens on this machine alone unless told otherwise, and fetches nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from reactvl.options import Opt


def serve(
    folder: Annotated[str | Path, Opt("folder of a run, or embeddings", positional=True)],
    *,
    index: Annotated[
        Sequence[Path] | None, Opt("FAISS indexes of these embeddings, one a side (default: a run's own, else exact)")
    ] = None,
    model: Annotated[str | None, Opt("model that made published embeddings, which do not say it")] = None,
    host: Annotated[str, Opt("address to listen on; any but this machine's own wants a token")] = "127.0.0.1",
    port: Annotated[int, Opt("port to listen on; 0 picks a free one and prints it")] = 8080,
    token: Annotated[
        str | None, Opt("secret that every request must show (default: REACTVL_TOKEN; made where it is needed)")
    ] = None,
    max_k: Annotated[int, Opt("most hits that one search may ask for")] = 1000,
    max_upload: Annotated[str, Opt("most bytes of a request, such as an uploaded picture")] = "20MB",
    max_pixels: Annotated[int, Opt("most pixels of an uploaded picture, looked up before it is decoded")] = 50_000_000,
    device: Annotated[str, Opt("where queries are encoded: auto, cpu, cuda")] = "auto",
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], Opt("arithmetic of the towers; auto: bf16 where in hardware")
    ] = "auto",
) -> None:
    """Serve a run or an embeddings folder over HTTP until it is interrupted.

    Prints the address once it answers; SIGINT and SIGTERM end it after the requests under way. Raises ReactvlError for
    options out of range, a port that is taken, a folder that is neither, and an index or a model of other embeddings.
    """
    from reactvl.serve.run import run

    run(
        Path(folder),
        index=tuple(index or ()),
        model=model,
        host=host,
        port=port,
        token=token,
        max_k=max_k,
        max_upload=max_upload,
        max_pixels=max_pixels,
        device=device,
        precision=precision,
    )
