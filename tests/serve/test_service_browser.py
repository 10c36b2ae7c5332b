"""The doors of the service as a real browser meets them: its own page is let in, a page of another origin is not."""

import http.server
import threading

import pytest

from reactvl.serve.app import build

TOKEN = "a-token-of-enough-letters"
STATUS = "path => fetch(path).then(answer => answer.status)"
# what a page can do to another origin without its leave: send, put a picture, frame, load a script
ATTACK = """async address => {
  const sent = async (path, options) => {
    try { return (await fetch(address + path, options)).type; } catch { return "refused"; }
  };
  const loaded = (name, path) => new Promise((done) => {
    const made = document.createElement(name);
    made.onload = () => done("loaded");
    made.onerror = () => done("refused");
    made.src = address + path;
    document.body.append(made);
  });
  return {
    read: await sent("/api/info"),
    write: await sent("/api/review", { method: "PUT", body: "{}" }),
    blind: await sent("/knn-service", { method: "POST", mode: "no-cors", body: '{"text": "red"}' }),
    picture: await loaded("img", "/api/pairs/0/0/image"),
    script: await loaded("script", "/page/app.js"),
  };
}"""


@pytest.fixture(scope="module")
def elsewhere():
    """The address of an empty page of another origin."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title><body></body>")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_page_of_another_origin_gets_nothing_even_where_its_visitor_is_let_in(
    explorer, running, browser, elsewhere, token
):
    app, served = build(explorer, token=token)

    def value(name: str, **labels: str) -> float:
        return served.metrics.registry.get_sample_value(name, labels) or 0.0

    with running(app) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{address}/?token={TOKEN}" if token else f"{address}/")
        assert page.url == f"{address}/"
        assert page.evaluate(STATUS, "api/info") == 200
        assert page.evaluate(STATUS, "api/pairs/0/0/thumbnail?side=64") == 200
        assert page.evaluate("document.cookie") == ""  # no script reads it
        foreign = context.new_page()
        foreign.goto(elsewhere)
        searched = value("reactvl_batch_size_count")
        found = foreign.evaluate(ATTACK, address)
        assert {found[name] for name in ("read", "write", "picture", "script")} == {"refused"}
        assert value("reactvl_batch_size_count") == searched  # what was sent blindly came here, and was not done
        refused = [value("reactvl_requests_total", route="none", status=status) for status in ("401", "403")]
        assert sum(refused) >= 3
        context.close()
    served.close()
