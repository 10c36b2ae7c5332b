"""The API over a real server: every route answers what its schema says, and what the engine says."""

import base64
import threading

import httpx
import numpy as np
import pytest
from small_pool import HOSTILE, OF, TWIN
from tests_support import drawing

from reactvl.serve import schemas
from reactvl.serve.app import build
from reactvl.serve.asking import Ask, Term

WAIT = 30


@pytest.fixture(scope="module")
def api(service):
    with httpx.Client(base_url=service, timeout=WAIT) as client:
        yield client


def places(answer: dict) -> list[tuple[int, int]]:
    return [(hit["part"], hit["row"]) for hit in answer["hits"]]


def searched(api, *terms, **choices) -> dict:
    answer = api.post("/api/search", json={"query": list(terms), **choices})
    assert answer.status_code == 200, answer.text
    schemas.Found.model_validate_json(answer.content, strict=True)  # extra fields are forbidden there
    return answer.json()


def test_a_search_answers_what_the_engine_answers(api, explorer):
    found = searched(api, {"text": "a green thing"}, {"pair": [0, 5], "weight": -0.5}, k=7, keys="both", dedup=False)
    ask = Ask((Term(1.0, text="a green thing"), Term(-0.5, pair=(0, 5))), keys="both", k=7, dedup=False)
    [wanted] = explorer.answer([ask])
    assert places(found) == [(hit.part, hit.row) for hit in wanted.hits]
    assert [hit["similarity"] for hit in found["hits"]] == pytest.approx(
        [hit.similarity for hit in wanted.hits], abs=1e-3
    )
    assert [(facet["class_id"], facet["count"]) for facet in found["facets"]] == wanted.facets
    assert found["exact"] is True
    assert set(found["milliseconds"]) == {"encode", "search", "metadata"}


def test_a_picture_finds_the_same_however_it_is_sent(api, explorer):
    data = drawing(8, "webp")
    [wanted] = explorer.answer([Ask((Term(pixels=explorer.pixels(data)),), k=3)])
    ways = [
        searched(api, {"image": base64.b64encode(data).decode()}, k=3),
        searched(api, {"image": "data:image/webp;base64," + base64.b64encode(data).decode()}, k=3),
        api.post("/api/search/image", params={"k": 3}, content=data).json(),
        api.post("/api/search/image?k=3", content=data, headers={"content-type": "image/webp"}).json(),
    ]
    assert [places(way) for way in ways] == [[(hit.part, hit.row) for hit in wanted.hits]] * 4


def test_the_same_text_by_get_post_and_batch(api):
    words = "red thing & blue <thing> 100%"
    posted = searched(api, {"text": words}, k=5, min_similarity=-1)
    got = api.get("/api/search", params={"text": words, "k": 5, "min_similarity": -1}).json()
    both = api.post("/api/search/batch", json={"searches": [{"query": [{"text": words}], "k": 5}] * 3}).json()
    schemas.BatchFound.model_validate(both)
    assert places(posted) == places(got)
    assert [places(answer) for answer in both["answers"]] == [places(posted)] * 3


def test_a_vector_finds_its_nearest_row(api, small_embeddings):
    rows = np.load(small_embeddings / "img_emb" / "img_emb_0.npy").astype(np.float32)
    found = searched(api, {"vector": (3 * rows[11].astype(float)).tolist()}, k=1, dedup=False)
    scores = rows @ (rows[11] / np.linalg.norm(rows[11]))
    assert scores[found["hits"][0]["row"]] == pytest.approx(scores.max(), abs=1e-5)
    assert found["hits"][0]["similarity"] == pytest.approx(scores.max(), abs=2e-3)


def test_offset_dedup_class_and_caption_choose_among_the_found(api):
    every = places(searched(api, {"text": "thing"}, k=90, dedup=False))
    assert len(every) == len(set(every)) == 90
    assert places(searched(api, {"text": "thing"}, k=5, offset=30, dedup=False)) == every[30:35]
    deduped = places(searched(api, {"text": "thing"}, k=90))
    assert len({(0, OF), (0, TWIN)} & set(deduped)) == 1
    green = searched(api, {"text": "thing"}, k=90, class_id=1)
    assert green["hits"]
    assert all(1 in hit["class_ids"] for hit in green["hits"])
    phrase = searched(api, {"text": "thing"}, k=90, caption="BLUE THING")
    assert phrase["hits"]
    assert all("blue thing" in hit["caption"] for hit in phrase["hits"])


def test_a_count_is_that_of_all_similarities(api, small_embeddings):
    rows = np.load(small_embeddings / "img_emb" / "img_emb_0.npy").astype(np.float64)
    query = rows[3] / np.linalg.norm(rows[3])
    scores = rows @ query
    middle = float(np.sort(scores)[40:42].mean())
    answer = api.post("/api/count", json={"query": [{"pair": [0, 3]}], "thresholds": [middle, -1.0, 0.9999]})
    schemas.Counted.model_validate_json(answer.content, strict=True)
    counted = answer.json()
    assert [above["count"] for above in counted["above"]][:2] == [int((scores >= middle).sum()), 90]
    assert counted["exact"] is True
    assert sum(counted["histogram"]["counts"]) == counted["pairs"] == 90


def test_a_pair_its_picture_and_its_thumbnail(api, explorer):
    meta = api.get("/api/pairs/0/4").json()
    assert (meta["caption"], meta["url"], meta["key"]) == (HOSTILE, "https://example.org/4.png", "000000004")
    image = api.get("/api/pairs/0/4/image")
    assert image.content == drawing(4, "png") == explorer.picture(0, 4)
    assert image.headers["content-type"] == "image/png"
    assert image.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in image.headers["content-security-policy"]
    small = api.get("/api/pairs/0/4/thumbnail?side=64")
    assert small.headers["content-type"].startswith("image/")
    assert 0 < len(small.content) < 20_000
    again = api.get("/api/pairs/0/4/thumbnail?side=64", headers={"if-none-match": small.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = api.get("/api/pairs/0/5/thumbnail?side=64", headers={"if-none-match": small.headers["etag"]})
    assert other.status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/pairs/0/90", 404),
        ("/api/pairs/7/0", 404),
        ("/api/pairs/0/90/image", 404),
        ("/api/pairs/0/90/thumbnail", 404),
        ("/api/pairs/0/-1", 422),
        ("/api/pairs/0/99999999999999999999999999", 422),
        ("/api/pairs/0/x", 422),
        ("/api/pairs/0/4/thumbnail?side=63", 422),
        ("/api/pairs/0/4/thumbnail?side=100000", 422),
        ("/api/classes/3/pairs", 404),
        ("/api/classes/0/pairs?limit=100000", 422),
        ("/api/nothing", 404),
        ("/openapi.yaml", 404),
    ],
)
def test_what_is_not_there_says_so_in_one_sentence(api, path, status):
    answer = api.get(path)
    assert answer.status_code == status
    assert isinstance(answer.json()["detail"], str)
    assert "/" not in answer.json()["detail"].replace("shard/key", "")  # no path of this machine


def test_a_wrong_method_is_refused(api):
    assert api.delete("/api/search").status_code == 405
    assert api.post("/api/info", json={}).status_code == 405


def test_a_classes_pairs_come_in_the_order_of_their_rank(api, small_run):
    from reactvl.handles.pairs import Pairs

    table = Pairs(small_run / "retrieved").by_class(1).table()
    wanted = [row["row"] for row in sorted(table.to_pylist(), key=lambda row: row["rank"])]
    first = api.get("/api/classes/1/pairs?limit=10")
    schemas.ClassPairs.model_validate_json(first.content, strict=True)
    rest = api.get("/api/classes/1/pairs?offset=10&limit=200").json()
    assert [row for _, row in places(first.json()) + places(rest)] == wanted


def test_info_says_what_is_served(api):
    info = api.get("/api/info").json()
    schemas.Info.model_validate(info)
    assert (info["pairs"], info["dim"], info["pictures"], info["review"]) == (90, 32, True, True)
    assert [entry["name"] for entry in info["classes"]] == ["red", "green", "blue"]
    assert {model["name"] for model in info["models"]} == {"base", "gated-image"}
    assert info["limits"] == {"k": 1000, "upload": 20_000_000, "pixels": 50_000_000}


def test_the_customized_model_ranks_and_says_so(api):
    found = searched(api, {"text": "a red thing"}, k=5, model="gated-image")
    assert len(found["hits"]) == 5
    assert found["notes"]


def test_the_page_is_served_with_its_policy(api):
    page = api.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    script = api.get("/page/app.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert api.get("/page/app.js", headers={"if-none-match": script.headers["etag"]}).status_code == 304
    assert api.head("/").content == b""


@pytest.mark.parametrize(
    "name",
    ["..%2f__init__.py", "%2e%2e/run.py", "..%5crun.py", "app.js%00", "/etc/passwd", "%2fetc%2fpasswd", "APP.JS", ""],
)
def test_no_path_of_a_request_leads_out_of_the_page(api, name):
    request = api.build_request("GET", "/page/x")
    request.url = request.url.copy_with(raw_path=b"/page/" + name.encode())
    answer = api.send(request)
    assert answer.status_code == 404
    assert b"import" not in answer.content


def test_the_document_covers_every_route_and_its_page_needs_nothing_from_outside(api):
    document = api.get("/openapi.json").json()
    routes = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    for wanted in (
        ("POST", "/api/search"),
        ("GET", "/api/search"),
        ("POST", "/api/search/image"),
        ("POST", "/api/search/batch"),
        ("POST", "/api/count"),
        ("GET", "/api/pairs/{part}/{row}/thumbnail"),
        ("PUT", "/api/review"),
        ("POST", "/knn-service"),
        ("GET", "/metrics"),
    ):
        assert wanted in routes
    known = document["components"]["schemas"]
    for model in (
        schemas.Search,
        schemas.Term,
        schemas.Found,
        schemas.Hit,
        schemas.Counted,
        schemas.Info,
        schemas.Saved,
    ):
        assert set(known[model.__name__]["properties"]) == set(model.model_fields)
    assert set(known["Detail"]["properties"]) == {"detail"}
    assert "HTTPValidationError" not in api.get("/openapi.json").text
    body = document["paths"]["/api/search"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/Search"}
    page = api.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    text = page.text.replace("http://127.0.0.1", "")
    assert not [word for word in ("http://", "https://", "//cdn", "<script", "<link", "src=") if word in text]
    assert "/api/search/batch" in text
    assert "minus-term" in text


def test_a_fault_of_ours_is_said_in_one_sentence_and_harms_only_its_own_request(explorer, running):
    class Faulty:
        """The explorer; some of it breaks."""

        def __getattr__(self, name):
            return getattr(explorer, name)

        def pair(self, part, row):
            raise ZeroDivisionError("secret")

        def count(self, ask, thresholds):
            raise ZeroDivisionError("secret")

    app, served = build(Faulty())
    with running(app) as address, httpx.Client(base_url=address, timeout=WAIT) as api:
        count = {"query": [{"text": "red"}]}
        for answer in (api.get("/api/pairs/0/1"), api.post("/api/count", json=count)):
            assert answer.status_code == 500
            assert answer.json() == {"detail": "the service failed on this request; its own log says why"}
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert api.get("/api/search?text=red").status_code == 200
    served.close()


def test_metrics_count_requests_batches_and_steps(explorer, running):
    app, served = build(explorer)
    with running(app) as address, httpx.Client(base_url=address) as api:
        for _ in range(3):
            api.get("/api/search", params={"text": "red"})
        api.get("/api/search", params={"text": ""})
        api.get("/api/never/heard/of/it")
        api.post("/api/search", json={"query": [{"pair": [9, 9]}]})
        text = api.get("/metrics")
        assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
        values = {
            line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.text.splitlines() if line[0] != "#"
        }
    served.close()
    assert values['reactvl_requests_total{route="/api/search",status="200"}'] == 3
    assert values['reactvl_requests_total{route="/api/search",status="422"}'] == 2
    assert values['reactvl_requests_total{route="none",status="404"}'] == 1
    assert values["reactvl_batch_size_count"] == 4
    assert values["reactvl_searches_refused_total"] == 1
    assert values["reactvl_pairs"] == 90
    for step, times in (("encode", 3), ("search", 3), ("metadata", 3), ("wait", 4)):
        assert values[f'reactvl_step_seconds_count{{step="{step}"}}'] == times
    assert not [name for name in values if "never" in name]


def test_64_requests_of_mixed_kinds_at_once_answer_as_one_at_a_time(service):
    """A broken picture among them harms only itself."""
    encoded = base64.b64encode(drawing(20, "webp")).decode()
    kinds = [
        ("POST", "/api/search", {"query": [{"text": "a red thing"}], "k": 9}),
        ("POST", "/api/search", {"query": [{"text": "blue"}, {"image": encoded, "weight": 0.3}], "k": 4}),
        ("POST", "/api/search", {"query": [{"image": base64.b64encode(drawing(20, "png")[:70]).decode()}]}),
        ("POST", "/api/search", {"query": [{"pair": [0, 33]}], "keys": "both", "k": 20, "dedup": False}),
        ("POST", "/api/search", {"query": [{"pair": [5, 33]}]}),
        ("POST", "/api/count", {"query": [{"text": "green"}], "thresholds": [0.0]}),
        ("POST", "/api/search/batch", {"searches": [{"query": [{"text": word}], "k": 3} for word in ("a", "b", "c")]}),
        ("GET", "/api/pairs/0/12/thumbnail?side=128", None),
    ]

    def one(client, kind) -> tuple:
        method, path, body = kind
        answer = client.request(method, path, json=body)
        content = answer.content
        if answer.headers["content-type"] == "application/json":
            content = {name: value for name, value in answer.json().items() if name != "milliseconds"}
            for part in content.get("answers", ()):
                part.pop("milliseconds")
        return answer.status_code, rounded(content)

    with httpx.Client(base_url=service, timeout=WAIT) as client:
        alone = [one(client, kind) for kind in kinds]
    assert [status for status, _ in alone] == [200, 200, 422, 200, 422, 200, 200, 200]
    together: dict[int, tuple] = {}

    def ask(number: int) -> None:
        with httpx.Client(base_url=service, timeout=WAIT) as client:
            start.wait()
            together[number] = one(client, kinds[number % len(kinds)])

    start = threading.Barrier(64)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(64):
        assert together[number] == alone[number % len(kinds)]


def rounded(value):
    """Similarities to three places: a batch's products differ from one query's in the last bits."""
    if isinstance(value, dict):
        return {name: rounded(held) for name, held in value.items()}
    if isinstance(value, list):
        return [rounded(held) for held in value]
    return round(value, 3) if isinstance(value, float) else value
