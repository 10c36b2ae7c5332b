"""The page in a real browser over the real service: typing, pictures, the query's parts, the gallery and its views."""

import base64
import json
import re

import pytest
from page_support import PHONE, found, settled, shown
from tests_support import drawing

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


def searches(page) -> list[dict]:
    """The bodies of the page's searches from now on."""
    bodies = []
    page.on("request", lambda request: request.url.endswith("/api/search") and bodies.append(request.post_data_json))
    return bodies


def test_typing_answers_with_few_searches_and_shows_what_the_api_finds(visits, service):
    page = visits.open(service)
    bodies = searches(page)
    page.locator("#text").press_sequentially("red thing", delay=25)
    page.wait_for_selector(".cell")
    settled(page)
    assert 1 <= len(bodies) <= 4 < len("red thing")
    assert shown(page)[:40] == found(page, service, query=[{"text": "red thing"}])
    first = page.locator(".cell").first
    hit = page.request.get(f"{service}/api/search?text=red thing&k=1").json()["hits"][0]
    assert first.locator(".caption").inner_text() == hit["caption"]
    assert first.locator("b").inner_text() == f"{hit['similarity']:.3f}"
    assert first.locator(".key").inner_text().replace("\n", "") == f"{hit['shard']}/{hit['key']}"
    link = first.locator("a.source")
    assert link.get_attribute("href") == hit["url"]
    assert "noopener" in link.get_attribute("rel")
    assert page.title().startswith("red thing")


def test_a_late_answer_to_an_earlier_text_is_dropped(visits, service):
    held = []

    def route(page):
        def handle(route):
            text = route.request.post_data_json["query"][0]["text"]
            held.append(route) if text == "slow" else route.continue_()

        page.route("**/api/search", handle)

    page = visits.open(service, before=route)
    page.locator("#text").fill("slow")
    page.wait_for_timeout(300)
    assert len(held) == 1
    page.locator("#text").fill("blue thing")
    page.wait_for_selector(".cell")
    wanted = found(page, service, query=[{"text": "blue thing"}])
    late = {
        "hits": [],
        "facets": [],
        "exact": True,
        "recall": None,
        "examined": 0,
        "notes": ["too late"],
        "milliseconds": {},
    }
    held[0].fulfill(json=late)
    page.wait_for_timeout(150)
    assert shown(page)[:40] == wanted
    assert "too late" not in page.locator("#results").inner_text()


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_a_picture_that_is_chosen_dropped_or_pasted_is_searched_with(visits, service, way):
    data = drawing(8, "webp")
    page = visits.open(service)
    if way == "choose":
        page.locator("#file").set_input_files({"name": "mine.webp", "mimeType": "image/webp", "buffer": data})
    else:
        page.evaluate(
            """([coded, way]) => {
              const bytes = Uint8Array.from(atob(coded), (one) => one.charCodeAt(0));
              const carried = new DataTransfer();
              carried.items.add(new File([bytes], "mine.webp", { type: "image/webp" }));
              const box = document.getElementById("box");
              const send = (event) => box.dispatchEvent(event);
              if (way === "drop") {
                send(new DragEvent("dragover", { dataTransfer: carried, bubbles: true, cancelable: true }));
                if (document.getElementById("drop").hidden) throw new Error("nothing says that it can be dropped");
                send(new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
              } else send(new ClipboardEvent("paste", { clipboardData: carried, bubbles: true, cancelable: true }));
            }""",
            [base64.b64encode(data).decode(), way],
        )
    settled(page)
    assert shown(page)[:40] == found(page, service, query=[{"image": base64.b64encode(data).decode()}])
    expect(page.locator("#drop")).to_be_hidden()
    assert page.locator(".chip img").evaluate("one => one.decode().then(() => one.naturalWidth)") == 40
    assert "image" not in page.evaluate("location.hash")


def test_parts_have_weights_and_signs_and_can_be_taken_out(visits, service):
    page = visits.open(service)
    bodies = searches(page)
    box = page.locator("#text")
    box.fill("red thing")
    box.press("Enter")
    box.fill("- blue")
    settled(page)
    assert bodies[-1]["query"] == [{"weight": 1, "text": "red thing"}, {"weight": -1, "text": "blue"}]
    box.press("Enter")
    expect(page.locator(".chip")).to_have_count(2)
    expect(page.locator(".chip.minus .words")).to_have_text("blue")
    page.locator(".chip .weight").nth(1).fill("0.5")
    page.locator(".chip .weight").nth(1).press("Tab")
    settled(page)
    parts = [{"weight": 1, "text": "red thing"}, {"weight": -0.5, "text": "blue"}]
    assert bodies[-1]["query"] == parts
    assert shown(page)[:40] == found(page, service, query=parts)
    page.locator(".chip .sign").nth(1).click()
    settled(page)
    assert bodies[-1]["query"][1]["weight"] == 0.5
    page.locator(".chip .away").first.click()
    settled(page)
    assert bodies[-1]["query"] == [{"weight": 0.5, "text": "blue"}]
    box.focus()
    box.press("Backspace")
    expect(box).to_have_value("blue")
    expect(page.locator(".chip")).to_have_count(0)


def test_the_gallery_has_rows_of_equal_height_that_fill_the_width(visits, service):
    page = visits.open(service, "q=green+thing")
    page.wait_for_selector(".cell")
    boxes = page.locator(".frame").evaluate_all("all => all.map((one) => one.getBoundingClientRect().toJSON())")
    edge = page.locator(".gallery").evaluate("one => one.getBoundingClientRect().right")
    rows = {}
    for box in boxes:
        rows.setdefault(round(box["top"]), []).append(box)
    *whole, last = [rows[top] for top in sorted(rows)]
    assert len(whole) >= 3
    for row in whole:
        assert len({round(box["height"]) for box in row}) == 1
        assert row[-1]["right"] == pytest.approx(edge, abs=1.5)
    assert all(box["right"] <= edge + 1 for box in last)


def test_scrolling_brings_every_pair_once(visits, service):
    page = visits.open(service, "q=thing")
    page.wait_for_selector(".cell")
    for _ in range(12):
        page.mouse.wheel(0, 4000)
        page.wait_for_timeout(120)
        if page.get_by_text("That is all").count():
            break
    wanted = found(page, service, query=[{"text": "thing"}], k=1000)
    assert len(wanted) > 80
    assert shown(page) == wanted
    expect(page.locator(".end")).to_have_text(f"That is all: {len(wanted)} pairs.")


def test_more_like_this_starts_from_the_pair_and_back_returns(visits, service):
    page = visits.open(service, "q=red+thing")
    page.wait_for_selector(".cell")
    before = shown(page)
    page.locator(".cell").nth(3).hover()
    page.locator(".cell").nth(3).get_by_role("button", name="More like this").click()
    settled(page)
    assert shown(page)[:40] == found(page, service, query=[{"pair": before[3]}])
    assert shown(page)[0] == before[3]
    expect(page.locator(".chip img")).to_have_count(1)
    page.go_back()
    expect(page.locator("#text")).to_have_value("red thing")
    assert shown(page)[:40] == before[:40]


def test_classes_filter_and_show_their_pairs_in_rank_order(visits, service):
    page = visits.open(service, "q=thing")
    page.wait_for_selector(".facets button")
    facets = page.request.get(f"{service}/api/search?text=thing").json()["facets"]
    counts = page.locator("#classes .count").all_inner_texts()
    assert counts == [str(facet["count"]) for facet in facets]
    page.locator("#classes").get_by_text("green", exact=True).click()
    settled(page)
    assert shown(page) == found(page, service, query=[{"text": "thing"}], class_id=1)[:40]
    page.locator("#text").fill("")
    expect(page.locator(".notes")).to_have_text("Retrieved for green, in the order of their rank.")
    ranked = page.request.get(f"{service}/api/classes/1/pairs").json()["hits"]
    assert shown(page) == [(hit["part"], hit["row"]) for hit in ranked]
    page.locator("#classes [aria-pressed=true]").click()
    expect(page.get_by_text("Type to search 90 pairs")).to_be_visible()


def test_brackets_walk_through_the_classes(visits, service):
    page = visits.open(service, "class=0")
    notes = page.locator(".notes")
    expect(notes).to_contain_text("Retrieved for red")
    page.locator("#text").press("ArrowDown")
    for key, name in (("]", "green"), ("]", "blue"), ("]", "red"), ("[", "blue")):
        page.keyboard.press(key)
        expect(notes).to_contain_text(f"Retrieved for {name}")
        expect(page.locator(".cell").first).to_be_focused()
    assert page.title().startswith("blue")


def kept(page) -> int:
    settled(page)
    expect(page.locator(".kept")).to_contain_text("counted exactly")
    return int(page.locator(".kept").inner_text().split(" of ")[0].replace(",", ""))


def test_the_handle_of_the_histogram_tells_and_keeps_the_pairs_above_it(visits, service):
    page = visits.open(service, "q=thing&duplicates=shown")
    expect(page.locator(".kept")).to_contain_text("All 90 pairs are kept")
    every = page.request.get(f"{service}/api/search?text=thing&k=90&dedup=false").json()["hits"]
    box = page.locator(".plot").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40, steps=4)
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 40, steps=4)
    page.mouse.up()
    above = kept(page)
    least = float(page.locator("#min").input_value())
    wanted = [(hit["part"], hit["row"]) for hit in every if hit["similarity"] >= least]
    assert 0 < above == len(wanted) < 90
    assert shown(page) == wanted[:40]
    assert f"min={least}" in page.evaluate("location.hash")

    slider = page.get_by_role("slider")
    slider.focus()
    slider.press("ArrowRight")
    expect(page.locator("#min")).to_have_value(f"{least + 0.01:.3f}".rstrip("0"))
    expect(slider).to_have_attribute("aria-valuenow", f"{least + 0.01:.3f}")
    page.wait_for_timeout(200)
    assert kept(page) == sum(hit["similarity"] >= least + 0.01 for hit in every)
    slider.press("Home")
    expect(page.locator(".kept")).to_contain_text("All 90 pairs are kept")
    expect(page.locator("#min")).to_have_value("")


def test_an_estimated_count_is_said_to_be_one(visits, service):
    def route(page):
        def handle(route):
            answer = route.fetch().json()
            above = [
                {"threshold": t, "count": 52, "low": 44, "high": 61} for t in route.request.post_data_json["thresholds"]
            ]
            route.fulfill(json=answer | {"exact": False, "above": above})

        page.route("**/api/count", handle)

    page = visits.open(service, "q=thing&min=0.01", before=route)
    expect(page.locator(".kept")).to_have_text("About 52 of 90 pairs are kept from 0.01 on: an estimate, 44 to 61.")


def test_side_by_side_shows_both_keys_and_both_models(visits, service):
    page = visits.open(service, "q=green+thing")
    page.locator("#view").select_option(label="pictures | captions")
    expect(page.locator(".column")).to_have_count(2)
    settled(page)
    query = [{"text": "green thing"}]
    by_pictures, by_captions = (found(page, service, query=query, keys=keys) for keys in ("image", "text"))
    assert [shown(page)[:40], shown(page, 1)[:40]] == [by_pictures, by_captions]
    said, *sides = page.evaluate(
        """[document.querySelector(".column").textContent, ...[...document.querySelectorAll(".column")].map((column) =>
          [...column.querySelectorAll(".cell img")].map((one) => one.src))]"""
    )
    assert f"{len(set(sides[0]) & set(sides[1]))} of {len(sides[0])} on both sides" in said
    page.locator("#view").select_option(label="base | gated-image")
    expect(page.locator(".column h2").nth(1)).to_have_text("gated-image")
    settled(page)
    assert shown(page)[:40] == by_pictures
    assert shown(page, 1)[:40] == found(page, service, query=query, model="gated-image")
    assert page.evaluate("location.hash").endswith("compare=model%3Agated-image")


def test_keys_caption_and_duplicates_go_into_the_search(visits, service):
    page = visits.open(service, "q=thing")
    page.wait_for_selector(".cell")
    bodies = searches(page)
    page.get_by_role("radio", name="Both").check(force=True)
    page.get_by_label("Hide duplicates").uncheck()
    page.get_by_label("Caption holds").fill("Blue")
    settled(page)
    wanted = {"keys": "both", "dedup": False, "caption": "Blue"}
    assert wanted.items() <= bodies[-1].items()
    assert shown(page) == found(page, service, query=[{"text": "thing"}], **wanted)
    assert all("blue" in text for text in page.locator(".caption").all_inner_texts())


def test_a_view_can_be_shared_by_its_address(visits, service):
    page = visits.open(service, "q=thing")
    page.locator("#text").fill("red thing, with a comma & more")
    page.locator("#text").press("Enter")
    page.locator("#text").fill("-blue")
    page.get_by_role("radio", name="Captions").check(force=True)
    page.locator("#min").fill("0.05")
    settled(page)
    other = visits.open(service, page.evaluate("location.hash.slice(1)"))
    assert shown(other) == shown(page)
    expect(other.locator(".chip .words")).to_have_text("red thing, with a comma & more")
    expect(other.locator("#text")).to_have_value("-blue")
    expect(other.locator("#min")).to_have_value("0.05")
    nonsense = "keys=all&min=x&class=-1&text=nan,a&text=1&pair=1,2&compare=what&q=thing"
    expect(visits.open(service, nonsense).locator(".cell").first).to_be_visible()


def test_the_keyboard_alone_is_enough(visits, service):
    page = visits.open(service, "q=thing")
    page.wait_for_selector(".cell")
    press = page.keyboard.press
    at = lambda: page.evaluate("[...document.querySelectorAll('.cell')].indexOf(document.activeElement)")  # noqa: E731
    press("ArrowDown")
    assert at() == 0
    press("ArrowRight")
    press("ArrowRight")
    assert at() == 2
    tops = page.locator(".cell").evaluate_all("all => all.map((one) => one.getBoundingClientRect().top)")
    press("ArrowDown")
    below = at()
    assert tops[below] > tops[2]
    press("ArrowUp")
    press("ArrowLeft")
    assert at() in (1, 2)
    press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    opened = page.locator("#viewer img").get_attribute("src")
    places = shown(page)
    press("ArrowRight")
    expect(page.locator("#viewer img")).not_to_have_attribute("src", opened)
    at_place = page.locator("#viewer img").get_attribute("src")
    press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    assert "api/pairs/{}/{}/image".format(*places[at()]) == at_place  # the focus has gone along
    press("?")
    expect(page.locator("#keys")).to_be_visible()
    press("Escape")
    press("/")
    expect(page.locator("#text")).to_be_focused()
    press("x")
    expect(page.locator(".cell.wrong")).to_have_count(0)  # in the box an x is a letter
    expect(page.locator("#text")).to_have_value("x")


def test_the_full_picture_comes_with_all_that_is_known(visits, service):
    page = visits.open(service, "pair=1,0,8&duplicates=shown")
    page.locator(".cell img").first.click()
    picture = page.locator("#viewer img")
    assert picture.evaluate("one => one.decode().then(() => [one.naturalWidth, one.naturalHeight])") == [40, 44]
    part, row = shown(page)[0]
    known = page.request.get(f"{service}/api/pairs/{part}/{row}").json()
    expect(page.locator("#viewer")).to_contain_text(known["sha256"])
    expect(page.locator("#viewer a")).to_have_attribute("href", known["url"])


def test_a_phone_reads_it_without_scrolling_sideways(visits, service):
    page = visits.open(service, "q=thing&compare=keys", viewport=PHONE, has_touch=True, is_mobile=True)
    page.wait_for_selector(".cell")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(page.locator("#histogram")).to_be_hidden()
    page.locator("#panel-histogram summary").click()
    expect(page.get_by_role("slider")).to_be_visible()
    page.locator(".cell").first.get_by_role("button", name="Mark wrong").tap()
    expect(page.locator(".cell.wrong").first).to_be_visible()
    page.locator(".cell img").nth(1).tap()
    expect(page.locator("#viewer")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_light_and_dark_follow_the_system_until_they_are_chosen(visits, service):
    paper = "getComputedStyle(document.body).backgroundColor"
    brightness = lambda page: sum(map(int, re.findall(r"\d+", page.evaluate(paper))[:3]))  # noqa: E731
    light, dark = (visits.open(service, color_scheme=scheme) for scheme in ("light", "dark"))
    assert brightness(light) > 600 > 200 > brightness(dark)
    dark.locator("#theme").click()
    expect(dark.locator("#theme")).to_have_text("Theme: light")
    assert brightness(dark) > 600
    dark.reload()
    assert brightness(dark) > 600


def test_every_control_has_a_name_and_nothing_is_loaded_from_elsewhere(visits, service):
    asked = []
    page = visits.open(service, "q=thing", before=lambda page: page.on("request", lambda one: asked.append(one.url)))
    page.wait_for_selector(".cell img")
    names = page.locator("button, input:not([type=file]), select, [role=slider], a").evaluate_all(
        """all => all.filter((one) => one.offsetParent).map((one) =>
          (one.ariaLabel || one.textContent || [...(one.labels ?? [])].map((label) => label.textContent).join()).trim())"""
    )
    assert len(names) > 50
    assert all(names), json.dumps(names)
    assert all(url.startswith((service, "data:", "blob:")) for url in asked)
