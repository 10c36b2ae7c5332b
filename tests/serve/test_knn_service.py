"""clip-retrieval's ClipClient asks this service unchanged: the bytes that it sends, and the client itself in its own home."""

import base64
import json
import subprocess
import urllib.request
from pathlib import Path

import pytest
from small_pool import OF, TWIN
from tests_support import drawing

ROOT = Path(__file__).resolve().parents[2]
THEIRS = ROOT / "out" / "benchmarks" / "environments" / "clip-retrieval" / "bin" / "python"


def sent(service: str, **changed) -> bytes:
    """A request as ClipClient.query sends it: every field, those not asked for null, as data without a content type."""
    fields = {
        "text": None,
        "image": None,
        "image_url": None,
        "embedding_input": None,
        "deduplicate": True,
        "use_safety_model": True,
        "use_violence_detector": True,
        "indice_name": "laion5B-L-14",
        "use_mclip": False,
        "aesthetic_score": 9,
        "aesthetic_weight": 0.5,
        "modality": "image",
        "num_images": 40,
        "num_result_ids": 40,
    }
    path = changed.pop("path", "/knn-service")
    request = urllib.request.Request(service + path, json.dumps(fields | changed).encode(), method="POST")
    request.add_header("Content-Type", "")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as fault:
        return json.load(fault) | {"status": fault.code}


def ids(hits: list[dict]) -> list[int]:
    return [hit["id"] for hit in hits]


@pytest.mark.parametrize("path", ["/knn-service", "/"])
def test_a_text_search_answers_a_list_of_hits(service, path):
    hits = sent(service, text="a green thing", num_images=6, num_result_ids=6, path=path)
    assert len(hits) == 6
    for hit in hits:
        assert set(hit) == {"id", "similarity", "url", "caption", "key", "shard"}
        assert hit["url"].startswith(f"https://example.org/{hit['id']}.")
    assert [hit["similarity"] for hit in hits] == sorted((hit["similarity"] for hit in hits), reverse=True)


def test_pictures_vectors_captions_and_duplicates(service, explorer):
    from reactvl.serve.asking import Ask, Term

    [wanted] = explorer.answer([Ask((Term(pixels=explorer.pixels(drawing(8, "webp"))),), k=3)])
    picture = base64.b64encode(drawing(8, "webp")).decode()
    assert ids(sent(service, image=picture, num_images=3, num_result_ids=3)) == [hit.row for hit in wanted.hits]
    vector = [float(value) for value in explorer.embeddings.parts[0].images()[0]]
    assert ids(sent(service, embedding_input=vector, num_images=1, num_result_ids=1)) == [0]
    by_text = sent(service, text="red thing 0", modality="text", num_images=5, num_result_ids=5)
    assert by_text[0]["similarity"] > 0.99
    every = ids(sent(service, text="thing", deduplicate=False, num_images=90, num_result_ids=90))
    assert sorted(every) == list(range(90))
    assert len({OF, TWIN} & set(ids(sent(service, text="thing", num_images=90, num_result_ids=90)))) == 1


def test_hits_past_num_images_have_no_metadata(service):
    hits = sent(service, text="thing", num_images=2, num_result_ids=5)
    assert [set(hit) > {"id", "similarity"} for hit in hits] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image_url": "http://127.0.0.1:1/x.jpg"}, "fetches nothing"),
        ({"text": "rouge", "use_mclip": True}, "multilingual"),
        ({}, "give text"),
        ({"image": "AAAA"}, "image"),
        ({"text": "a", "modality": "audio"}, "modality"),
        ({"text": "a", "num_images": 10**9}, "--max-k"),
        ({"embedding_input": [1.0, 2.0]}, "dimension"),
    ],
)
def test_what_cannot_be_answered_says_why(service, fields, said):
    answer = sent(service, **fields)
    assert answer["status"] == 422
    assert said in answer["detail"]


@pytest.mark.parametrize("path", ["/metadata", "/metadata-service"])
def test_metadata_by_id_and_the_list_of_indexes(service, path):
    rows = sent(service, path=path, ids=[3, 89])
    assert [row["id"] for row in rows] == [3, 89]
    assert rows[1]["metadata"]["url"] == "https://example.org/89.webp"
    assert sent(service, path=path, ids=[]) == []
    missing = sent(service, path=path, ids=[3, 90])
    assert (missing["status"], "no row 90" in missing["detail"]) == (404, True)
    with urllib.request.urlopen(f"{service}/indices-list") as answer:
        assert json.load(answer) == ["run"]


def test_ids_count_the_rows_of_all_parts():
    from reactvl.serve.knn_service import Numbering

    numbering = Numbering([(0, 3), (2, 1), (5, 0), (7, 4)])
    pairs = [(0, 0), (0, 1), (0, 2), (2, 0), (7, 0), (7, 1), (7, 2), (7, 3)]
    assert [numbering.pair_of(row) for row in range(9)] == [*pairs, None]
    assert [numbering.id_of(*pair) for pair in pairs] == list(range(8))


# their package imports all of its parts, of which the client needs none: its file is loaded by itself
SCRIPT = """
import importlib.util, json, sys
home = importlib.util.find_spec("clip_retrieval").submodule_search_locations[0]
spec = importlib.util.spec_from_file_location("clip_client", home + "/clip_client.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
ClipClient, Modality = module.ClipClient, module.Modality
url, picture, vector = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
answers = []
for address in (url + "/knn-service", url + "/knn-service/", url):
    client = ClipClient(url=address, indice_name="laion5B-L-14", num_images=7, modality=Modality.IMAGE)
    answers.append([client.query(text="a green thing"), client.query(image=picture), client.query(embedding_input=vector)])
text = ClipClient(url=url + "/knn-service", indice_name="x", num_images=4, modality=Modality.TEXT, deduplicate=False)
answers.append(text.query(text="red thing 0"))
print(json.dumps(answers))
"""


@pytest.mark.slow
@pytest.mark.skipif(not THEIRS.exists(), reason="benchmarks/environments/make.py makes clip-retrieval's environment")
def test_clip_client_itself_is_answered(service, explorer, tmp_path):
    picture = tmp_path / "picture.webp"
    picture.write_bytes(drawing(8, "webp"))
    vector = json.dumps([float(value) for value in explorer.embeddings.parts[0].images()[0]])
    done = subprocess.run(
        [THEIRS, "-c", SCRIPT, service, str(picture), vector], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    *same, text = json.loads(done.stdout.splitlines()[-1])
    assert same[0] == same[1] == same[2]
    by_text, by_picture, by_vector = same[0]
    assert [len(hits) for hits in (by_text, by_picture, by_vector, text)] == [7, 7, 7, 4]
    encoded = base64.b64encode(picture.read_bytes()).decode()
    assert ids(by_picture) == ids(sent(service, image=encoded, num_images=7, num_result_ids=7))
    assert ids(by_text) == ids(sent(service, text="a green thing", num_images=7, num_result_ids=7))
    assert ids(by_vector)[0] == 0
    assert {"id", "similarity", "url", "caption"} <= set(text[0])
