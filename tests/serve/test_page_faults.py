"""What the page does with what it cannot trust or does not get: captions from the web, faults, pools without pictures."""

import json

import pytest
from page_support import PHONE, settled, shown

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

MARKUP = '<img src=x onerror="document.title=`taken`"><script>document.title="taken"</script>'
ENDLESS = "an endless caption " * 500
OVERRIDE = "\u05e9\u05dc\u05d5\u05dd \u202egnp.exe \u0645\u0631\u062d\u0628\u0627"


def hostile(page):
    """Every text that comes with a pair is somebody else's."""

    def handle(route):
        answer = route.fetch().json()
        for hit, text in zip(answer["hits"], [MARKUP, ENDLESS, OVERRIDE], strict=False):
            hit |= {"caption": text, "key": f"{text}"[:300], "url": "javascript:document.title='taken'"}
        route.fulfill(json=answer)

    page.route("**/api/search", handle)
    page.route("**/api/pairs/*/*", lambda route: route.fulfill(json={MARKUP: MARKUP, "key": [1], "note": OVERRIDE}))


@pytest.mark.parametrize("viewport", [None, PHONE], ids=["wide", "phone"])
def test_a_hostile_caption_is_text_and_stays_in_its_place(visits, service, viewport):
    page = visits.open(service, "q=thing", before=hostile, **({"viewport": viewport} if viewport else {}))
    page.wait_for_selector(".cell")
    captions = page.locator(".cell .caption")
    assert captions.nth(0).text_content() == MARKUP
    assert captions.nth(2).text_content() == OVERRIDE
    pictures = page.locator(".cell").evaluate_all("all => all.map((one) => one.querySelectorAll('img').length)")
    assert set(pictures) == {1}
    assert page.locator(".cell .caption *, .cell script").count() == 0
    assert page.locator(".cell").nth(0).locator("a").count() == 0  # javascript: is no link
    heights = captions.evaluate_all("all => all.map((one) => one.getBoundingClientRect().height)")
    assert max(heights) == min(heights)
    assert captions.nth(2).evaluate("one => getComputedStyle(one).unicodeBidi") == "isolate"
    assert captions.nth(2).evaluate("one => getComputedStyle(one).direction") == "rtl"
    page.locator(".cell img").first.click()
    expect(page.locator("#viewer .caption")).to_have_text(MARKUP)
    expect(page.locator("#viewer dt").last).to_have_text("note")
    page.keyboard.press("Shift+P")
    expect(page.locator("#picker .caption")).to_have_text(MARKUP)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.locator(".cell img").nth(1).click()
    expect(page.locator("#viewer .caption")).to_contain_text("an endless caption")
    page.keyboard.press("m")
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "taken" not in page.title().replace(MARKUP, "")


def test_the_services_own_hostile_captions_do_nothing(visits, service):
    page = visits.open(service, "pair=1,0,4&compare=keys")
    expect(page.get_by_text("<script>document.title=2</script>").first).to_be_visible()
    assert page.title() == "pair 0/4 \u00b7 run"


def test_what_the_server_refuses_is_said_in_its_words(visits, service):
    visits.errors_expected = True
    page = visits.open(service)
    page.locator("#file").set_input_files(
        {"name": "broken.png", "mimeType": "image/png", "buffer": b"\x89PNG and no more"}
    )
    fault = page.locator(".column .fault")
    expect(fault).to_be_visible()
    detail = page.request.post(f"{service}/api/search", data={"query": [{"image": "iVBORyBhbmQgbm8gbW9yZQ=="}]}).json()[
        "detail"
    ]
    expect(fault).to_contain_text(detail.split(":")[0])
    page.locator("#clear").click()
    page.locator("#text").fill("thing")
    settled(page)
    expect(page.locator(".cell").first).to_be_visible()
    expect(page.locator(".fault:visible")).to_have_count(0)
    page.locator("#file").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"words"})
    expect(page.locator("#fault")).to_contain_text("no picture file")
    page.evaluate("location.hash = 'q=thing&model=gone'")
    expect(page.locator(".column .fault")).to_contain_text("gone")


def test_a_busy_or_lost_server_can_be_tried_again(visits, service):
    visits.errors_expected = True
    way = {"answer": "busy"}

    def route(page):
        def handle(route):
            if way["answer"] == "busy":
                route.fulfill(status=503, headers={"Retry-After": "2"}, json={"detail": "too many requests wait."})
            elif way["answer"] == "lost":
                route.abort("connectionrefused")
            else:
                route.continue_()

        page.route("**/api/search", handle)

    page = visits.open(service, "q=thing", before=route)
    fault = page.locator(".column .fault")
    expect(fault).to_contain_text("too many requests wait. Try again in 2 s.")
    way["answer"] = "lost"
    fault.get_by_role("button").click()
    expect(fault).to_contain_text("The server does not answer")
    way["answer"] = "well"
    fault.get_by_role("button").click()
    expect(page.locator(".cell").first).to_be_visible()
    way["answer"] = "lost"
    page.mouse.wheel(0, 9000)
    expect(fault).to_contain_text("The server does not answer")
    before = len(shown(page))
    assert before >= 40  # what is there stays
    way["answer"] = "well"
    fault.get_by_role("button").click()
    expect(page.locator(".cell").nth(before)).to_be_attached()


def test_a_token_that_is_wanted_is_asked_for_plainly(visits, explorer, running):
    from reactvl.serve.app import build

    visits.errors_expected = True
    app, served = build(explorer, token="a-secret-of-many-letters")
    with running(app) as address:
        page = visits.open(address)
        expect(page.locator("#fault")).to_contain_text("token")
        page.goto(f"{address}/?token=a-secret-of-many-letters#q=thing")
        expect(page.locator(".cell").first).to_be_visible()
        assert "secret" not in page.url
    served.close()


def test_pools_without_pictures_show_captions_and_links(visits, service):
    pictures = []

    def route(page):
        page.route("**/api/info", lambda route: route.fulfill(json=route.fetch().json() | {"pictures": False}))
        page.on(
            "request", lambda one: ("thumbnail" in one.url or one.url.endswith("/image")) and pictures.append(one.url)
        )

    page = visits.open(service, "q=thing", before=route)
    page.wait_for_selector(".cell")
    expect(page.locator("#about")).to_contain_text("captions and links only")
    linked = page.locator(".cell").evaluate_all(
        "all => all.map((one) => one.querySelectorAll('a.source[href]').length)"
    )
    assert len(linked) >= 40
    assert set(linked) == {1}
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("x")
    expect(page.locator(".cell.wrong")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_contain_text("sha256")
    page.keyboard.press("m")
    settled(page)
    assert pictures == []


def test_a_picture_that_cannot_be_read_says_so(visits, service):
    visits.errors_expected = True
    detail = {"detail": "00000.tar, 000000004: is cut short"}

    def route(page):
        page.route("**/api/pairs/**/thumbnail*", lambda route: route.fulfill(status=404, json=detail))
        page.route("**/api/pairs/**/image", lambda route: route.fulfill(status=404, json=detail))

    page = visits.open(service, "q=thing", before=route)
    expect(page.locator(".cell .missing").first).to_have_text("The picture cannot be read")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#viewer .missing")).to_have_text(detail["detail"])


def test_nothing_found_says_which_limits_were_set_and_takes_them_away(visits, service):
    page = visits.open(service, "q=thing&caption=zebra&class=1")
    empty = page.locator(".empty")
    expect(empty).to_contain_text('a caption that holds "zebra" (among the best 10,000) and class green')
    empty.get_by_role("button").click()
    expect(page.locator(".cell").first).to_be_visible()
    expect(page.get_by_label("Caption holds")).to_have_value("")
    assert json.loads(page.evaluate("JSON.stringify(location.hash)")) == "#q=thing"


def test_a_picture_above_the_servers_limit_is_not_sent(visits, service):
    def route(page):
        def handle(route):
            answer = route.fetch().json()
            route.fulfill(json=answer | {"limits": answer["limits"] | {"upload": 10_000}})

        page.route("**/api/info", handle)

    page = visits.open(service, before=route)
    sent = []
    page.on("request", lambda one: sent.append(one.url))
    page.locator("#file").set_input_files({"name": "big.png", "mimeType": "image/png", "buffer": bytes(50_000)})
    expect(page.locator("#fault")).to_contain_text("big.png: 0.1 MB are more than")
    assert sent == []
