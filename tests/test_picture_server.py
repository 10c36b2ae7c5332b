"""The web of pictures that other tests fetch from is as rotten as it says."""

import http.client
import urllib.error
import urllib.request

import pytest
from picture_server import FATES, PAGE, dealt, serving
from tests_support import drawing


def test_the_servers_fates_are_what_they_say(monkeypatch):
    """What urllib, by which img2dataset fetches, meets at each of them."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    names = {fate: f"{fate.replace(' ', '-')}.jpg" for fate in FATES}
    picture = drawing(1)
    with serving(dict.fromkeys(names.values(), picture), {name: fate for fate, name in names.items()}) as web:
        web.pause = 0.01
        for fate, name in names.items():
            if fate in ("served", "redirected", "trickling"):
                assert got(web.url(name)) == picture
            elif fate in OPENED:
                assert got(web.url(name)) == OPENED[fate](picture)
            else:
                with pytest.raises(FAULTS[fate]):
                    got(web.url(name), timeout=0.2 if fate == "slow" else 10)
        assert got(web.url(names["busy"])) == picture  # the second time
        with urllib.request.urlopen(web.url(names["opted out"])) as answer:
            assert answer.headers["X-Robots-Tag"] == "noai, noindex"
        assert web.asked[names["served"]] == 1 and web.asked[names["redirected"]] == 2


OPENED = {
    "truncated": lambda picture: picture[: len(picture) // 2],
    "page": lambda _: PAGE,
    "text": lambda _: b"Moved to our new site!\n",
    "empty": lambda _: b"",
    "opted out": lambda picture: picture,
}
FAULTS = {
    **dict.fromkeys(("missing", "removed", "forbidden", "busy", "endless"), urllib.error.HTTPError),
    **dict.fromkeys(("refused", "unresolvable"), urllib.error.URLError),
    "slow": TimeoutError,
    "dropped": http.client.IncompleteRead,
}


def got(url: str, timeout: float = 10) -> bytes:
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read()


def test_fates_are_dealt_as_counted_and_the_same_each_time():
    names = [f"{number}.jpg" for number in range(100)]
    fates = dealt(names, {"missing": 20, "slow": 3})
    assert fates == dealt(names, {"missing": 20, "slow": 3}) != dealt(names, {"missing": 20, "slow": 3}, seed=1)
    assert sorted(fates.values()) == ["missing"] * 20 + ["slow"] * 3 and set(fates) <= set(names)
