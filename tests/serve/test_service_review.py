"""Marks: what the page saves lies in the run's two files, in the formats that `retrieve` reads, and comes back."""

import httpx
import pytest

from reactvl.retrieve.exclusion import read_exclusion
from reactvl.serve import schemas


@pytest.fixture
def api(own_service):
    with httpx.Client(base_url=own_service, timeout=30) as client:
        yield client


def test_marks_are_saved_read_again_and_taken_by_retrieve(api, own_run):
    assert api.get("/api/review").json() == {"exclude": [], "positives": [], "kept": 0}
    marks = {"exclude": [[0, 4], [0, 31], [0, 4]], "positives": [[0, 7, 1], [0, 89, 2]]}
    answer = api.put("/api/review", json=marks)
    schemas.Saved.model_validate_json(answer.content)
    saved = {"exclude": [[0, 4], [0, 31]], "positives": [[0, 7, 1], [0, 89, 2]], "kept": 0}
    assert answer.json() == saved
    assert api.get("/api/review").json() == saved
    exclude, positives = own_run / "review" / "exclude.txt", own_run / "review" / "positives.tsv"
    assert exclude.read_text() == "00000.tar/000000004\n00001.tar/000010001\n"
    assert positives.read_text() == "green\t00000.tar/000000007\nblue\t00002.tar/000020029\n"
    assert read_exclusion(exclude).names == {"00000.tar/000000004", "00001.tar/000010001"}
    assert not list((own_run / "review").glob(".*"))  # nothing half-written is left
    assert api.put("/api/review", json={}).json() == {"exclude": [], "positives": [], "kept": 0}
    assert exclude.read_text() == positives.read_text() == ""


def test_lines_of_a_persons_own_stay(api, own_run):
    own = ["a" * 64, "99999.tar/1", "00000.tar/not-there"]
    (own_run / "review").mkdir()
    (own_run / "review" / "exclude.txt").write_text("\n".join([*own, "00000.tar/000000002", ""]))
    (own_run / "review" / "positives.tsv").write_text(f"heron\t00000.tar/000000001\nred\t{'b' * 64}\n")
    assert api.get("/api/review").json() == {"exclude": [[0, 2]], "positives": [], "kept": 5}
    assert api.put("/api/review", json={"exclude": [[0, 3]]}).json()["kept"] == 5
    assert (own_run / "review" / "exclude.txt").read_text().splitlines() == ["00000.tar/000000003", *own]
    assert "heron\t00000.tar/000000001" in (own_run / "review" / "positives.tsv").read_text()


BAD = [
    {"exclude": [[0, 90]]},
    {"exclude": [[1, 0]]},
    {"exclude": [[0, 1, 2]]},
    {"exclude": [["00000.tar", "000000001"]]},
    {"exclude": "../../etc/passwd"},
    {"positives": [[0, 1]]},
    {"positives": [[0, 1, 3]]},
    {"positives": [[0, 1, -1]]},
    {"remove": []},
]


def test_a_bad_mark_changes_nothing(api, own_run):
    assert api.put("/api/review", json={"exclude": [[0, 5]]}).status_code == 200
    for marks in BAD:
        answer = api.put("/api/review", json=marks)
        assert answer.status_code == 422, marks
        assert isinstance(answer.json()["detail"], str)
    assert (own_run / "review" / "exclude.txt").read_text() == "00000.tar/000000005\n"
    assert (own_run / "review" / "positives.tsv").read_text() == ""


def test_bare_embeddings_keep_no_marks(small_embeddings, running, tmp_path):
    from reactvl.serve.app import build
    from reactvl.serve.explorer import Explorer

    app, served = build(Explorer(small_embeddings, cache=tmp_path))
    with running(app) as address, httpx.Client(base_url=address) as api:
        info = api.get("/api/info").json()
        assert (info["review"], info["classes"], [model["name"] for model in info["models"]]) == (False, [], ["base"])
        for answer in (api.get("/api/review"), api.put("/api/review", json={"exclude": [[0, 1]]})):
            assert answer.status_code == 404
            assert "reactvl serve RUN" in answer.json()["detail"]
        assert len(api.get("/api/search?text=red&k=3").json()["hits"]) == 3
    served.close()
