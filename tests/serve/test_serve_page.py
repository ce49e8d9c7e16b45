"""Tests of the web page: how its files are served, and what it does in a real Chromium."""

import base64
import importlib.util
import io
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra oneclip[serve]")

from starlette.testclient import TestClient

from oneclip.search.where import compile_sql
from oneclip.serve.app import create_app
from oneclip.serve.routes.page import MEDIA_TYPES
from oneclip.serve.settings import ServeSettings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, Route

EXAMPLES = Path(__file__).parents[2] / "examples" / "images"
PAGE = files("oneclip.serve").joinpath("page")
MAX_BYTES = 60_000
TIMEOUT_MS = 60_000  # for a busy machine
COUNT = 100_000
PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")  # a GIF of one pixel


# ----------------------------------------------------------------------------------------------- files of the page


@pytest.fixture(scope="module")
def site() -> TestClient:
    """Make a client of an application that is not started, since the files of the page need no model."""
    return TestClient(create_app(ServeSettings()), base_url="http://127.0.0.1")


def test_files_of_the_page_are_those_of_the_table_and_under_60_kb():
    sizes = {entry.name: len(entry.read_bytes()) for entry in PAGE.iterdir()}
    assert sizes.keys() == MEDIA_TYPES.keys()
    assert sum(sizes.values()) < MAX_BYTES


@pytest.mark.parametrize("name", MEDIA_TYPES)
def test_file_is_served_with_its_type_and_is_never_sniffed(site, name):
    response = site.get(f"/page/{name}")
    assert response.content == PAGE.joinpath(name).read_bytes()
    assert response.headers["content-type"] == MEDIA_TYPES[name]
    assert response.headers["x-content-type-options"] == "nosniff"


def test_page_may_load_only_from_its_server(site):
    policy = dict(
        part.strip().split(" ", 1) for part in site.get("/").headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' blob: data:"


def test_page_has_no_inline_script_or_style():
    html = PAGE.joinpath("index.html").read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)
    assert re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL) == [""]


def test_unchanged_file_is_not_sent_again(site):
    tag = site.get("/").headers["etag"]
    response = site.get("/", headers={"If-None-Match": tag})
    assert (response.status_code, response.content) == (304, b"")


@pytest.mark.parametrize("name", ["missing.js", "..%2fapp.py", "%2e%2e%2f%2e%2e%2fapp.py", "app.js%00"])
def test_other_names_are_no_files(site, name):
    response = site.get(f"/page/{name}")
    assert response.status_code == 404
    assert "text/html" not in response.headers["content-type"]


def test_no_page_answers_404_with_a_hint():
    site = TestClient(create_app(ServeSettings(page=False)), base_url="http://127.0.0.1")
    response = site.get("/")
    assert response.status_code == 404
    assert "--no-page" in response.json()["error"]["message"]


# ------------------------------------------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """Serve an index of the example images, and return the address of the server."""
    import uvicorn

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONECLIP_INDEXES", str(tmp_path_factory.mktemp("indexes")))
        folder = tmp_path_factory.mktemp("images")
        for path in EXAMPLES.glob("*.png"):
            shutil.copy(path, folder)
        (folder / "copies").mkdir()
        Image.open(EXAMPLES / "tree.png").convert("RGB").resize((200, 200)).save(
            folder / "copies" / "tree.jpg"
        )
        app = create_app(ServeSettings(index=(str(folder),)))
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server has ended"
                time.sleep(0.02)
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Start Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium")
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"] if is_root else [])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(address, browser) -> "Page":
    """Open the one tab of all tests: a new one for each would cost more than the tests."""
    context = browser.new_context(base_url=address)
    context.set_default_timeout(TIMEOUT_MS)
    return context.new_page()


@pytest.fixture
def page(request, address, tab) -> Iterator["Page"]:
    """Empty the tab. At the end, nothing may have been requested from another host, and no script may have failed."""
    is_phone = getattr(request, "param", "") == "phone"
    tab.set_viewport_size({"width": 390, "height": 844} if is_phone else {"width": 1000, "height": 600})
    tab.emulate_media(color_scheme="dark" if is_phone else "light", reduced_motion="reduce")
    tab.goto("/page/style.css")
    tab.evaluate("sessionStorage.clear()")
    addresses: list[str] = []
    problems: list[str] = []
    listeners = {
        "request": lambda one: addresses.append(one.url),
        "pageerror": lambda error: problems.append(str(error)),
        "console": lambda message: problems.extend(
            [message.text] if "Security Policy" in message.text else []
        ),
    }
    for event, listener in listeners.items():
        tab.on(event, listener)
    yield tab
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
    tab.unroute_all()
    assert [url for url in addresses if not url.startswith((address, "data:", f"blob:{address}"))] == []
    assert problems == []


def names(page: "Page", count: int) -> list[str]:
    """Return the first file names that are shown, once `count` are."""
    page.wait_for_function(
        "count => document.querySelectorAll('#grid li').length >= count && !document.querySelector('[aria-busy=true]')",
        arg=count,
    )
    return [label.split(",")[0] for label in page.locator("#grid .open").evaluate_all(LABELS)]


LABELS = "buttons => buttons.map((button) => button.ariaLabel)"


def wait_for_first(page: "Page", name: str) -> None:
    """Wait until no search is in progress, and the label of the first result begins with a name."""
    page.wait_for_function(
        """name => !document.querySelector("[aria-busy=true]") &&
          document.querySelector("#grid .open")?.ariaLabel.startsWith(name)""",
        arg=name,
    )


def drop(page: "Page", content: bytes, name: str = "image.png") -> None:
    """Drop a file onto the page."""
    page.evaluate(
        """([content, name]) => {
          const data = new DataTransfer();
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          data.items.add(new File([bytes], name, { type: "image/png" }));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        [base64.b64encode(content).decode(), name],
    )


def test_typed_words_show_the_cat_first(page):
    page.goto("/")
    names(page, 9)
    page.keyboard.press("/")
    page.keyboard.type("a cat")
    wait_for_first(page, "cat.png, ")  # with its relevance, which it has not in the list of all images
    assert page.url.endswith("?q=a+cat")
    assert page.locator("#count").inner_text() == "9 images"


def test_without_words_all_images_are_listed(page):
    page.goto("/")
    assert len(names(page, 9)) == 9


def test_dropped_image_is_a_chip_that_can_be_removed_and_comes_back(page):
    page.goto("/")
    names(page, 9)
    drop(page, (EXAMPLES / "sun.png").read_bytes())
    page.locator("#chips li").wait_for()
    wait_for_first(page, "sun.png")
    page.locator("#chips button").click()
    page.wait_for_function("() => !document.querySelector('#chips li')")
    assert "like=" not in page.url
    page.go_back()
    page.locator("#chips img").wait_for()
    wait_for_first(page, "sun.png")


def test_dropped_image_outlives_a_reload(page):
    page.goto("/")
    names(page, 9)
    drop(page, (EXAMPLES / "sun.png").read_bytes())
    page.locator("#chips li").wait_for()
    wait_for_first(page, "sun.png")
    page.reload()
    wait_for_first(page, "sun.png")


def test_image_that_the_browser_cannot_draw_is_shown_by_its_name(page):
    page.route("**/v1/search", answer_with_many)  # as if the server could read it
    page.route("**/thumbs/**", lambda route: route.fulfill(body=PIXEL, content_type="image/gif"))
    page.goto("/")
    names(page, 9)
    drop(page, b"not for browsers", "my photo.heic")
    page.locator("#chips span", has_text="my photo.heic").wait_for()
    page.goto("/?view=labels")
    page.locator("#labels input").first.wait_for(state="attached")
    drop(page, b"not for browsers", "my photo.heic")
    page.locator(".zone span", has_text="my photo.heic").wait_for()
    page.locator(".zone img").wait_for(state="hidden")


def test_broken_image_is_removed_and_named_by_its_file(page):
    page.goto("/?q=a+cat")
    wait_for_first(page, "cat.png")
    drop(page, b"broken", "my photo.png")
    page.locator("#error", has_text=re.compile("^my photo.png: .*not an image")).wait_for()
    assert page.locator("#chips li").count() == 0
    assert page.url.endswith("?q=a+cat")
    wait_for_first(page, "cat.png")


def test_image_of_another_tab_is_removed_with_a_message(page):
    page.goto("/?q=a+cat&like=drop-999")
    wait_for_first(page, "cat.png")
    assert page.locator("#error").inner_text() == (
        "One image of this search was dropped in another tab; drop it again."
    )
    assert page.url.endswith("?q=a+cat")


def test_large_image_is_made_smaller_before_it_is_sent(page):
    content = io.BytesIO()
    Image.new("RGB", (3000, 2000), "orange").save(content, "PNG")
    page.goto("/")
    names(page, 9)
    with page.expect_request(
        lambda one: "drop" not in one.url and '"like":["data' in (one.post_data or "")
    ) as sent:
        drop(page, content.getvalue())
    data = sent.value.post_data_json["like"][0].split(",")[1]
    assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) == 1024


def test_file_that_is_no_image_is_refused_with_a_message(page):
    page.goto("/")
    names(page, 9)
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File(["text"], "notes.txt", { type: "text/plain" }));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }"""
    )
    page.locator("#error").wait_for()
    assert "no image" in page.locator("#error").inner_text()


def test_excluded_words_become_a_chip_and_push_images_back(page):
    page.goto("/?q=a+house")
    wait_for_first(page, "house.png")
    page.locator("#typed button").first.click()
    page.keyboard.type("a building")
    page.locator("#exclude").click()
    page.locator(".chip.not").wait_for()
    page.wait_for_function("() => !document.querySelector('#grid .open').ariaLabel.startsWith('house')")
    assert "and=a+house&not=a+building" in page.url


def test_more_like_this_searches_by_the_indexed_image(page):
    page.goto("/?q=a+cat")
    wait_for_first(page, "cat.png")
    page.locator("#grid .open").first.click()
    page.locator("#actions button", has_text="More like this").click()
    page.wait_for_function("() => location.search.startsWith('?like=')")
    wait_for_first(page, "cat.png")
    page.locator("#viewer").wait_for(state="hidden")


def test_slider_hides_images_and_says_how_many(page):
    page.goto("/?q=a+cat")
    assert len(names(page, 9)) == 9
    page.locator("#min").fill("70")
    page.wait_for_function("() => document.querySelector('#count').textContent.includes('hidden')")
    found = re.fullmatch(
        r"(\d+) images? · (\d+) hidden: too little relevance", page.locator("#count").inner_text()
    )
    shown = page.locator("#grid .open").evaluate_all(LABELS)
    assert int(found[1]) == len(shown) == 9 - int(found[2]) < 9
    assert all(float(label.split(", ")[1].split(" ")[0]) >= 49 for label in shown)
    assert "min=0.49" in page.url


def test_full_view_follows_keys_and_gives_the_focus_back(page):
    page.goto("/?q=a+cat")
    wait_for_first(page, "cat.png")
    page.locator("#q").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.locator("#viewer").wait_for()
    assert page.locator("#name").inner_text() == "cat.png"
    assert page.evaluate("document.querySelector('#viewer').contains(document.activeElement)")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('#position').textContent === '2 of 9'")
    second = page.locator("#name").inner_text()
    page.keyboard.press("Escape")
    page.locator("#viewer").wait_for(state="hidden")
    page.wait_for_function("name => document.activeElement.ariaLabel?.startsWith(name)", arg=second)
    assert "open=" not in page.url


def test_full_view_keeps_the_focus_when_its_buttons_change(page):
    page.goto("/?q=a+cat")
    wait_for_first(page, "cat.png")
    page.locator("#grid .open").first.click()
    page.locator("#path a").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('#position').textContent === '3 of 9'")


def test_address_of_the_full_view_opens_it_and_back_closes_it(page):
    page.goto("/?q=a+cat")
    wait_for_first(page, "cat.png")
    page.locator("#grid .open").first.click()
    page.locator("#viewer").wait_for()
    page.reload()
    page.locator("#viewer").wait_for()
    assert page.locator("#name").inner_text() == "cat.png"
    page.go_back()
    page.locator("#viewer").wait_for(state="hidden")


def test_full_view_links_to_the_file_on_this_machine(page):
    page.goto("/?q=a+cat")
    wait_for_first(page, "cat.png")
    page.locator("#grid .open").first.click()
    path = page.locator("#path code").inner_text()
    assert Path(path).name == "cat.png"
    assert page.locator("#path a").get_attribute("href") == Path(path).as_uri()


def test_why_shows_a_heat_map_of_the_words_and_hides_it(page):
    page.goto("/?q=2%3Aa+cat&not=a+dog")
    wait_for_first(page, "cat.png")
    page.locator("#grid .open").first.click()
    why = page.locator("#actions button", has_text="Why?")
    with page.expect_request("**/v1/explain") as sent:
        why.click()
    assert sent.value.post_data_json["texts"] == ["a cat"]
    page.locator("#map").wait_for()
    assert why.get_attribute("aria-pressed") == "true"
    boxes = [page.locator(name).bounding_box() for name in ("#map", "#large")]
    assert boxes[0] == boxes[1]
    why.click()
    page.locator("#map").wait_for(state="hidden")
    assert why.get_attribute("aria-pressed") == "false"


def test_why_is_of_one_image_only(page):
    page.goto("/?q=a+cat")
    wait_for_first(page, "cat.png")
    page.locator("#grid .open").first.click()
    page.locator("#actions button", has_text="Why?").click()
    page.locator("#map").wait_for()
    page.keyboard.press("ArrowRight")
    page.locator("#map").wait_for(state="hidden")


def test_why_says_on_its_button_why_not(page):
    error = {"error": {"message": "the model is tired", "param": None}}
    page.route("**/v1/explain", lambda route: route.fulfill(status=400, json=error))
    page.goto("/?q=a+cat")
    wait_for_first(page, "cat.png")
    page.locator("#grid .open").first.click()
    page.locator("#actions button", has_text="Why?").click()
    page.locator("#actions button", has_text="the model is tired").wait_for()


def test_without_words_there_is_nothing_to_explain(page):
    page.goto("/")
    names(page, 9)
    page.locator("#grid .open").first.click()
    page.locator("#actions button", has_text="Exclude").wait_for()
    assert page.locator("#actions button", has_text="Why?").count() == 0


def test_filters_become_an_expression_that_means_their_values(page):
    page.goto("/")
    folder, camera = 'a "b" and c', "it's"
    where = page.evaluate(
        "async (state) => (await import('/page/query.js')).whereOf(state)",
        {"from": "2023-05-01", "to": "2023-05-31", "folder": folder, "camera": camera, "size": "1"},
    )
    _, values = compile_sql(where)
    assert values == ["2023-05-01T00:00:00", "2023-06-01T00:00:00", folder, f"{folder}/", camera, 1.0]


def test_chosen_filter_selects_images(page):
    page.goto("/")
    names(page, 9)
    page.locator("#filterButton").click()
    page.locator("[name=folder]").select_option("copies")
    page.wait_for_function("() => document.querySelector('#count').textContent.startsWith('1 image')")
    assert names(page, 1) == ["tree.jpg"]


def test_filter_without_images_offers_to_clear_it(page):
    page.goto("/?from=2001-01-01&to=2001-12-31")
    page.locator("#empty button").click()
    assert len(names(page, 9)) == 9


def test_error_of_the_server_is_shown_as_its_message(page):
    page.goto(f"/?like={'0' * 64}")
    page.locator("#error").wait_for()
    assert "0000" in page.locator("#error").inner_text()


def test_duplicates_show_the_copies_best_first(page):
    page.goto("/?view=duplicates")
    page.locator("#duplicates ol > li").wait_for()
    assert [
        Path(path).name for path in page.locator("#duplicates li p:nth-of-type(2)").all_inner_texts()
    ] == [
        "tree.png",
        "tree.jpg",
    ]


def test_without_an_index_labels_get_probabilities(page):
    page.route("**/v1/indexes", lambda route: route.fulfill(json={"indexes": []}))
    page.goto("/")
    page.locator("#empty", has_text="To search a folder: oneclip serve --index FOLDER").wait_for()
    drop(page, (EXAMPLES / "cat.png").read_bytes())
    page.locator("#labels li").first.wait_for()
    assert page.locator("#labels li").first.inner_text().split() == ["a", "cat", "100", "%"]


def test_first_indexing_shows_its_progress(page):
    def answer(route: "Route") -> None:
        listed = route.fetch().json()
        update = {"is_updating": True, "done": 3, "total": 9, "problem": None}
        route.fulfill(json={"indexes": [{**listed["indexes"][0], "is_ready": False, "update": update}]})

    page.route("**/v1/indexes", answer)
    page.goto("/")
    page.locator("#notice", has_text="Indexing images: 3 of 9").wait_for()
    page.unroute("**/v1/indexes")
    assert len(names(page, 9)) == 9
    assert page.locator("#notice").inner_text() == ""


@pytest.mark.parametrize(
    ("is_reachable", "problem", "notice"),
    [
        (False, "x", "The folder /photos cannot be reached; results may be out of date."),
        (True, "the disk is full", "The index is not up to date: the disk is full"),
    ],
)
def test_page_says_why_results_may_be_out_of_date(page, is_reachable, problem, notice):
    def answer(route: "Route") -> None:
        index = route.fetch().json()["indexes"][0]
        index["roots"] = [{"path": "/photos", "is_reachable": is_reachable}]
        index["update"]["problem"] = problem
        route.fulfill(json={"indexes": [index]})

    page.route("**/v1/indexes", answer)
    page.goto("/")
    page.locator("#notice", has_text=notice).wait_for()
    page.unroute("**/v1/indexes")


def test_key_is_asked_for_and_sent_with_every_request(page):
    refusal = {"error": {"message": "wrong key", "type": "authentication_error", "param": None, "code": None}}

    def check(route: "Route") -> None:
        if route.request.headers.get("authorization") == "Bearer secret":
            route.continue_()
        else:
            route.fulfill(status=401, json=refusal)

    page.route("**/v1/**", check)
    page.goto("/?q=a+cat")
    page.locator("#key").fill("guess")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('#keyError').textContent === 'wrong key'")
    page.locator("#key").fill("secret")
    page.keyboard.press("Enter")
    wait_for_first(page, "cat.png")
    page.locator("#grid .loaded").first.wait_for()
    assert page.locator("#grid .loaded img").first.get_attribute("src").startswith("blob:")


def answer_with_many(route: "Route", request: "Request") -> None:
    """Answer a search with a part of 100,000 results."""
    body = request.post_data_json
    numbers = range(body["offset"], min(COUNT, body["offset"] + body["top"]))
    results: list[dict[str, Any]] = [
        {
            "path": f"/images/{n}.jpg",
            "sha256": f"{n:064x}",
            "score": 0.5,
            "relevance": None,
            "width": 400 + n % 7 * 100,
            "height": 600,
        }
        for n in numbers
    ]
    route.fulfill(json={"results": results, "total": COUNT, "hidden": 0, "repeated": 0, "searched": COUNT})


def test_only_visible_images_of_100_000_are_in_the_document(page):
    page.route("**/v1/search", answer_with_many)
    page.route("**/thumbs/**", lambda route: route.fulfill(body=PIXEL, content_type="image/gif"))
    page.goto("/")
    assert names(page, 10)[0] == "0.jpg"
    for part in (0.3, 0.9, 0.1):
        page.evaluate("part => scrollTo(0, part * document.body.scrollHeight)", part)
        page.wait_for_function(
            """part => {
              const tiles = [...document.querySelectorAll('#grid li')].filter(
                (tile) => tile.getBoundingClientRect().top < innerHeight && tile.getBoundingClientRect().bottom > 0);
              return tiles.length > 5 && tiles.every((tile) => Math.abs(tile.ariaPosInSet / 1e5 - part) < 0.05);
            }""",
            arg=part,
        )
        assert page.locator("#grid li").count() < 150
    page.locator("#grid .open[tabindex='0']").focus()
    page.keyboard.press("End")
    page.wait_for_function("() => document.activeElement.ariaLabel === '99999.jpg'")


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_phone_is_never_scrolled_sideways(page):
    for path, ready in {
        "/?q=a+cat&not=a+building+with+a+long+description&camera=x": "#chips li",
        "/?q=a+cat": "#grid li",
        "/?view=duplicates": "#duplicates li",
        "/?view=labels": "#labels",
    }.items():
        page.goto(path)
        page.locator(ready).first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_count_has_a_row_of_its_own_on_a_phone(page):
    page.goto("/?not=a+house")
    names(page, 1)
    page.locator("#count", has_text="to exclude something").wait_for()
    assert page.locator("#count").bounding_box()["height"] < 50  # two lines at most


@pytest.mark.parametrize("page", ["screen", "phone"], indirect=True)
def test_axe_finds_no_serious_problem(page):
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("needs the package axe-playwright-python")
    script = Path(found.origin).with_name("axe.min.js").read_text("utf-8")
    for path, ready, clicked in (
        ("/?q=a+cat&not=a+house", "#grid .loaded", "#filterButton"),
        ("/?q=a+cat", "#grid .loaded", "#grid .open"),
        ("/?view=duplicates", "#duplicates li", None),
        ("/?view=labels", "#labels input", None),
    ):
        page.goto(path)
        page.locator(ready).first.wait_for()
        if clicked:
            page.locator(clicked).first.click()
        page.evaluate(script)
        result = page.evaluate("axe.run()")
        serious = [
            (one["id"], node["html"])
            for one in result["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]
        assert serious == [], path
