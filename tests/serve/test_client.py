"""`reactvl.Client`: every kind of query, hits like those of `Embeddings.search`, and errors that say what the service says."""

import io
import socket
import threading

import numpy as np
import pytest
from PIL import Image
from small_pool import HOSTILE
from tests_support import drawing

import reactvl as rv
from reactvl.handles.embeddings import Hit
from reactvl.serve.app import build

TOKEN = "a-token-of-enough-letters"


@pytest.fixture(scope="module")
def client(service):
    return rv.Client(service)


def rows(hits: list[Hit]) -> list[int]:
    return [hit.row for hit in hits]


def test_a_hit_is_what_embeddings_search_gives(client, explorer, small_model):
    hits = client.search("a red thing", k=5, dedup=False)
    wanted = explorer.embeddings.search("a red thing", k=5, model=rv.load(small_model))
    assert all(isinstance(hit, Hit) for hit in hits)
    assert [hit._replace(score=0) for hit in hits] == [hit._replace(score=0) for hit in wanted]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted], abs=5e-3)


def test_every_kind_of_query(client, explorer, tmp_path):
    data = drawing(7, "png")
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    image = Image.open(io.BytesIO(data))
    by_bytes = rows(client.search(data, k=4))
    assert len(by_bytes) == 4
    for query in (path, image, bytearray(data), memoryview(data), [(2.5, path)]):
        assert rows(client.search(query, k=4)) == by_bytes
    vector = np.array(explorer.embeddings.parts[0].images()[9])
    hit = client.search("green", k=1)[0]
    for query in (vector, vector.astype(np.float64) * 7, "green", hit, {"pair": [0, 1]}):
        assert client.search(query, k=2)
    mixed = [(1.0, "a green thing"), (0.5, image), (-1.0, hit), (0.25, vector)]
    assert rows(client.search(mixed, k=90, dedup=False)) != rows(client.search("a green thing", k=90, dedup=False))
    for mode in ("CMYK", "I;16", "RGBA", "P", "1", "F"):
        assert client.search(Image.new(mode, (40, 40)), k=1)


def test_batches_counts_pairs_pictures_and_info(client):
    words = ["red", "green", "blue"] * 30
    assert [rows(hits) for hits in client.batch(words, k=3)] == [rows(client.search(word, k=3)) for word in words]
    assert client.batch([]) == []
    counted = client.count("red", thresholds=[-1, 1.1])
    assert [above["count"] for above in counted["above"]] == [90, 0]
    assert client.pair((0, 4))["caption"] == HOSTILE
    assert client.read_image((0, 4)) == drawing(4, "png")
    assert client.image(client.search("thing", k=1)[0]).size == (40, 44)
    assert client.info()["pairs"] == 90
    assert len(client.class_pairs(2, limit=5)) == 5
    assert client.answer("red", k=2, keys="both")["exact"] is True


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda client: client.search("a", k=5000), "--max-k"),
        (lambda client: client.search(""), "query.0.text"),
        (lambda client: client.search(b"no picture"), "query.0.image"),
        (lambda client: client.search("a", keys="audio"), "keys"),
        (lambda client: client.search("a", colour="red"), "colour"),
        (lambda client: client.search(np.array([np.nan] * 32)), "cannot be sent"),
        (lambda client: client.search(object()), "not object"),
        (lambda client: client.search([]), "list of"),
        (lambda client: client.search(["red", "blue"]), "list of"),
        (lambda client: client.batch(["a", (0, 1)]), "list of"),
        (lambda client: client.batch(["a", {"pair": [9, 9]}]), "query 1: "),
        (lambda client: client.pair((0, 90)), "90"),
        (lambda client: client.image((7, 0)), "part"),
    ],
)
def test_a_refusal_is_an_error_with_the_services_words(client, ask, said):
    with pytest.raises(rv.ReactvlError, match=said):
        ask(client)
    assert client.search("red", k=1)


def test_a_missing_file_is_named(client, tmp_path):
    with pytest.raises(rv.ReactvlError, match=r"none\.jpg"):
        client.search(tmp_path / "none.jpg")


def test_a_token_is_shown(explorer, running):
    app, served = build(explorer, token=TOKEN)
    with running(app) as address:
        for good in (rv.Client(address, token=TOKEN), rv.Client(f"{address}/?token={TOKEN}")):
            assert good.info()["pairs"] == 90
            assert TOKEN not in repr(good)
        for bad in (rv.Client(address), rv.Client(address, token="another-token-of-letters")):
            with pytest.raises(rv.ReactvlError, match="token"):
                bad.info()
    served.close()


def test_a_service_that_is_gone_or_is_none_is_an_error_in_words():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(rv.ReactvlError, match="cannot be reached"):
            rv.Client(f"http://127.0.0.1:{taken.getsockname()[1]}").info()
    for url in ("ftp://127.0.0.1", "http://", "http://127.0.0.1:no", "file:///etc/passwd"):
        with pytest.raises(rv.ReactvlError, match=r"127\.0\.0\.1|http|file:"):
            rv.Client(url)


def test_a_closed_connection_is_opened_again_and_threads_have_their_own(service):
    client = rv.Client(service)
    client.info()
    client._connections.connection.sock.shutdown(socket.SHUT_RDWR)  # as a service that was started anew leaves it
    assert client.info()["pairs"] == 90
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(rows(client.search("red", k=3)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [rows(client.search("red", k=3))] * 8
