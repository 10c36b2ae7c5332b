"""Marks made in the page, in a real browser: what they export, what the run keeps, and that `retrieve` reads it."""

import pytest
from page_support import settled, shown

from reactvl.retrieve.exclusion import read_exclusion

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


@pytest.fixture(scope="module")
def bare_service(small_embeddings, running):
    """The embeddings by themselves: no run, no classes."""
    from reactvl.serve.app import build
    from reactvl.serve.explorer import Explorer

    app, served = build(Explorer(small_embeddings))
    with running(app) as address:
        yield address
    served.close()


def downloaded(page, name: str, folder):
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name).click()
    assert waiting.value.suggested_filename == name
    path = folder / name
    waiting.value.save_as(path)
    return path


def names(page, address: str, places) -> list[str]:
    rows = [page.request.get(f"{address}/api/pairs/{part}/{row}").json() for part, row in places]
    return [f"{row['shard']}/{row['key']}" for row in rows]


def test_marks_are_exported_and_saved_for_the_run_and_found_again(visits, own_service, own_run, tmp_path):
    page = visits.open(own_service, "q=green")  # a class's name: picks are for it
    page.wait_for_selector(".cell")
    places = shown(page)
    press = page.keyboard.press
    press("ArrowDown")
    press("x")
    press("ArrowRight")
    press("p")
    press("ArrowRight")
    press("x")
    press("ArrowRight")
    press("x")
    press("x")  # and back
    expect(page.locator(".cell.wrong")).to_have_count(2)
    expect(page.locator(".cell.picked .badge")).to_have_text("green")
    expect(page.locator("#marks")).to_contain_text("2 pairs wrong, 1 picked, not saved yet")

    wrong = names(page, own_service, sorted([places[0], places[2]]))
    exclude = downloaded(page, "exclude.txt", tmp_path)
    assert exclude.read_text().splitlines() == wrong
    assert read_exclusion(exclude).names == set(wrong)
    [picked] = names(page, own_service, [places[1]])
    assert downloaded(page, "positives.tsv", tmp_path).read_text() == f"green\t{picked}\n"

    page.get_by_role("button", name="Save for the run").click()
    expect(page.locator("#marks")).to_contain_text("Saved for the run")
    assert set((own_run / "review" / "exclude.txt").read_text().splitlines()) == set(wrong)
    assert (own_run / "review" / "positives.tsv").read_text() == f"green\t{picked}\n"

    again = visits.open(own_service, "q=green")
    expect(again.locator(".cell.wrong")).to_have_count(2)
    expect(again.locator(".cell.picked .badge")).to_have_text("green")
    expect(again.get_by_role("button", name="Save for the run")).to_be_disabled()
    assert downloaded(again, "exclude.txt", tmp_path).read_text().splitlines() == wrong
    again.locator(".strip.wrong button").first.click()  # its place alone is known: the rest is asked for
    expect(again.locator("#viewer .about").last).to_contain_text("shard")
    again.locator("#viewer").get_by_role("button", name="Marked wrong").click()
    again.keyboard.press("Escape")
    expect(again.locator(".cell.wrong")).to_have_count(1)


def test_shift_x_marks_all_from_the_pair_marked_last(visits, service):
    page = visits.open(service, "q=thing")
    page.wait_for_selector(".cell")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("x")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+X")
    expect(page.locator(".cell.wrong")).to_have_count(5)


def test_a_pick_asks_for_its_class_and_remembers_it_for_the_query(visits, service):
    page = visits.open(service, "q=round+things&duplicates=shown")
    page.wait_for_selector(".cell")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+P")
    field = page.locator("#picker input")
    expect(field).to_be_focused()
    field.fill("no such class")
    field.press("Enter")
    expect(page.locator("#picker")).to_contain_text("No class has this in its name")
    field.fill("bl")
    field.press("Enter")
    expect(page.locator("#picker")).to_be_hidden()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("p")
    assert page.locator(".cell.picked .badge").all_inner_texts() == ["blue", "blue"]


def test_bare_embeddings_export_with_a_class_by_name_and_have_no_run_to_save_for(visits, bare_service, tmp_path):
    page = visits.open(bare_service, "q=thing")
    page.wait_for_selector(".cell")
    expect(page.locator("#panel-classes")).to_be_hidden()
    expect(page.get_by_role("button", name="Save for the run")).to_have_count(0)
    page.locator(".cell").first.hover()
    page.locator(".cell").first.get_by_role("button", name="Pick for its class").click()
    page.locator("#picker input").fill("my own class")
    page.locator("#picker").get_by_role("button", name="Pick", exact=True).click()
    [name] = names(page, bare_service, shown(page)[:1])
    assert downloaded(page, "positives.tsv", tmp_path).read_text() == f"my own class\t{name}\n"


def test_marks_that_are_not_saved_are_not_lost_without_a_word(visits, service):
    page = visits.open(service, "q=thing")
    page.wait_for_selector(".cell")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("x")
    asked = []

    def answer(dialog):
        asked.append(dialog.type)
        dialog.accept()

    page.on("dialog", answer)
    page.reload()
    page.wait_for_selector(".cell")
    assert asked == ["beforeunload"]
    expect(page.locator(".cell.wrong")).to_have_count(0)
    settled(page)
    page.reload()
    assert asked == ["beforeunload"]
