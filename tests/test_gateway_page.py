"""The page in headless Chromium, on a gateway and a real worker: a click there changes the list there. Skipped without a Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from bench import browser
from engine.partition import partition_of
from tests.gateway_process import GatewayProcess
from tests.worker_process import NOW_MS, Installation, catalogue

pytestmark = [
    pytest.mark.broker,
    pytest.mark.timeout(240),
    pytest.mark.skipif(bool(browser.missing()), reason=f"wants a browser: {browser.missing()} not found"),
]

TOKEN = "the page's own token"
NOW_2024 = 1_732_200_000_000
WAIT_S = 30
ITEM = "#items .item"
HURRY = """
const usual = window.fetch;
window.fetch = async (path, options) => {
  if (path === "/v1/status") await new Promise((done) => setTimeout(done, 1000));
  return usual(path, options);
};
new MutationObserver((_, own) => {
  const first = document.querySelector("#items .item");
  if (first) { own.disconnect(); first.click(); }
}).observe(document, { childList: true, subtree: true });
"""
"""Clicks on the first item that appears; the status comes a second late."""


@pytest.fixture(scope="module")
def world(embedded: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with forty items, a worker, and a user with a past."""
    with Installation(embedded, "page.", tmp_path_factory.mktemp("page")) as world:
        for item in catalogue():
            world.put(world.names.items, item["item_id"], item)
        world.flush()
        world.start()
        for n in range(5):
            world.event(f"p{n}", "paula", f"i{n}")
        world.list_after("p4", user="paula")
        world.event("p5", "<b>eve</b> & co", "i9")
        yield world


@pytest.fixture(scope="module")
def gateway(world: Installation) -> Iterator[GatewayProcess]:
    """A gateway of it."""
    with GatewayProcess(world) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def chrome() -> Iterator[webdriver.Chrome]:
    """One browser for all tests here."""
    with browser.chromium(1280, 900) as driver:
        yield driver


@pytest.fixture
def page(gateway: GatewayProcess, chrome: webdriver.Chrome) -> Page:
    """The page, opened anew with paula's list."""
    return Page(chrome, f"http://127.0.0.1:{gateway.port}/").open("paula")


class Page:
    """What a person sees and does."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver, self._url = driver, url
        self.wait: WebDriverWait[webdriver.Chrome] = WebDriverWait(driver, WAIT_S, 0.05)

    def open(self, user: str) -> Page:
        """Open it and wait for the list and its stream."""
        self.driver.get("about:blank")
        self.driver.get(f"{self._url}?user={user}")
        self.wait.until(lambda _: self.names() and self.text("pulse") == "live")
        return self

    def names(self) -> list[str]:
        """The titles of the list, read in one go: the elements may be replaced meanwhile."""
        script = "return [...document.querySelectorAll('#items .name')].map((e) => e.firstChild.textContent)"
        found: list[str] = self.driver.execute_script(script)
        return found

    def text(self, id_: str) -> str:
        """The text of an element."""
        return self.driver.find_element(By.ID, id_).text

    def errors(self) -> list[Any]:
        """What the browser complains about: scripts that fail, policies that are broken."""
        lines = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [line for line in lines if line["level"] == "SEVERE"]


def test_a_click_changes_the_list(page: Page, world: Installation) -> None:
    """Rule: an item that is clicked leaves the list, the new list stands there with the milliseconds it took."""
    before, list_text = page.names(), page.text("list-sub")
    assert len(before) == 10
    assert not page.driver.find_element(By.ID, "took").is_displayed()
    page.driver.find_elements(By.CSS_SELECTOR, ITEM)[2].click()
    page.wait.until(lambda _: page.text("list-sub") != list_text and before[2] not in page.names())
    page.wait.until(lambda _: page.driver.find_element(By.ID, "took").is_displayed())
    assert 0 < float(page.driver.find_element(By.ID, "took").get_attribute("data-ms") or 0) < 20_000
    assert "milliseconds" in page.text("said")
    sent = world.tail(world.names.events).first(lambda r: r.value is not None and b'"event_id":"page-' in r.value).json
    assert (sent["type"], sent["user_id"], sent["position"], f"Story number {sent['item_id'][1:]}") == ("click", "paula", 2, before[2])
    assert sent["list_id"]
    page.wait.until(lambda _: before[2] in page.text("history"))
    badges = {one.text for one in page.driver.find_elements(By.CSS_SELECTOR, "#items .moved.new")}
    assert badges == {"just in"}, "not `new`: that is a reason"
    assert page.errors() == []


def test_keyboard(page: Page) -> None:
    """Rule: all can be done by keys: / leads to the search, arrows along what is found and listed, Enter chooses, Escape clears."""
    body = page.driver.find_element(By.TAG_NAME, "body")
    body.send_keys("/")
    assert page.driver.switch_to.active_element.get_attribute("id") == "query"
    page.driver.switch_to.active_element.send_keys("number 3")
    page.wait.until(lambda d: len(d.find_elements(By.CSS_SELECTOR, "#found li")) > 3)
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    chosen = page.driver.switch_to.active_element.text.split("  ")[0]
    assert chosen.startswith("Story number 3")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.wait.until(lambda _: page.driver.find_element(By.ID, "took").is_displayed())
    page.wait.until(lambda _: "Story number 3" in page.text("history"))
    page.driver.find_element(By.ID, "query").send_keys(Keys.ESCAPE)
    page.wait.until(lambda d: not d.find_elements(By.CSS_SELECTOR, "#found li"))
    first = page.driver.find_element(By.CSS_SELECTOR, ITEM)
    page.driver.execute_script("arguments[0].focus()", first)
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert page.driver.switch_to.active_element.text.startswith("2")
    second = page.names()[1]
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.wait.until(lambda _: second not in page.names())
    focused = "return document.getElementById('items').contains(document.activeElement)"
    assert page.driver.execute_script(focused), "the focus stays in the list when the row it was on is gone"
    assert page.errors() == []


def test_search_for_the_user(page: Page) -> None:
    """Rule: the other search asks the workers for a list with the query, and shows its note where no encoder serves."""
    page.driver.find_element(By.CSS_SELECTOR, "input[value=taste]").click()
    page.driver.find_element(By.ID, "query").send_keys("a cave")
    page.wait.until(lambda d: len(d.find_elements(By.CSS_SELECTOR, "#found li")) == 12)
    assert "no generation is active" in page.text("found-note")
    assert page.errors() == []


def test_another_user_and_one_that_is_invented(page: Page) -> None:
    """Rule: any user can be chosen, one that nobody has heard of too; names are text, whatever they hold."""
    page.driver.find_element(By.ID, "invent").click()
    page.wait.until(lambda _: page.text("list-title").startswith("For guest-") and len(page.names()) == 10)
    page.wait.until(lambda _: page.driver.find_element(By.ID, "history-empty").is_displayed())
    field = page.driver.find_element(By.ID, "user")
    field.clear()
    field.send_keys("<b>eve</b> & co", Keys.ENTER)
    page.wait.until(lambda _: page.text("list-title") == "For <b>eve</b> & co" and "Story number 9" in page.text("history"))
    assert page.errors() == []


def test_a_page_that_was_left_holds_no_connection(page: Page) -> None:
    """Rule: a browser that keeps pages to go back to, and six connections, still gets the next one; and going back shows what is live."""
    for user in ("paula", "nina", "olaf", "pete", "quinn", "rosa", "saul", "tina"):
        page.open(user)
    page.driver.back()
    page.driver.back()
    page.wait.until(lambda _: page.text("list-title") == "For saul" and page.text("pulse") == "live")
    assert page.errors() == []


def test_what_is_live(page: Page) -> None:
    """Rule: the panel shows the figures of the status, and a dead letter with its reason."""
    page.wait.until(lambda _: "on the topic" in page.text("events-total"))
    assert page.text("gen-id") == "none"
    assert len(page.driver.find_elements(By.CSS_SELECTOR, "#fresh div")) == 12
    assert page.errors() == []


def test_what_counts_against_an_item(page: Page, world: Installation, gateway: GatewayProcess) -> None:
    """Rule: what counts against an item stands apart from what counts for it, and both are told: the score is one less the other."""
    reasons = [("similar_text", 0.5), ("popular", 0.2), ("new", -0.3)]
    told = [{"kind": kind, "weight": weight} for kind, weight in reasons]
    made = gateway.call("GET", "/v1/users/nina/lists/home").json | {"list_id": "planted", "valid_until": NOW_MS + 10**8}
    made["items"] = [made["items"][0] | {"score": 0.4, "reasons": told}]
    world.send(world.names.recommendations, "home:nina", made, partition_of(b"nina", world.partitions))
    gateway.until("GET", "/v1/users/nina/lists/home", lambda a: a.json["list_id"] == "planted")
    page.open("nina")
    bar = page.driver.find_element(By.CSS_SELECTOR, f"{ITEM} .bar")
    assert bar.get_attribute("aria-label") == "similar text 0.50 + popular 0.20 − 0.30 (new)"
    kinds = "return [...arguments[0].children].map((part) => part.className || part.textContent)"
    assert page.driver.execute_script(kinds, bar) == ["k-similar_text", "k-popular", "−", "k-less"]
    assert page.driver.find_element(By.CSS_SELECTOR, f"{ITEM} .why").text.endswith("less 0.30 for its age")
    assert "the score is the bar less this" in page.text("legend")
    assert page.errors() == []


def test_times_in_words(page: Page) -> None:
    """Rule: what is to come is told by its date, and never as if it had been just now; one of a thing is no plural."""
    script = """const [at, now, done] = arguments, counts = [1, 0, 1200];
        import("/words.js").then(({ when, counted }) => done([when(at, now), ...counts.map((count) => counted(count, "list"))]));"""
    minute = 60_000
    for ahead, wanted in ((-minute / 2, "just now"), (minute / 2, "just now"), (-5 * minute, "5 min ago"), (20_000_000 * minute, "2062")):
        time, *counts = page.driver.execute_async_script(script, NOW_2024 + ahead, NOW_2024)
        assert time.endswith(wanted)
        assert counts == ["1 list", "0 lists", "1,200 lists"]
    assert page.driver.execute_async_script(script, NOW_2024 + 5 * minute, NOW_2024)[0] == "Nov 21, 2024"


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_it_fits(gateway: GatewayProcess, width: int) -> None:
    """Rule: nothing is wider than the window, on a phone neither."""
    with browser.chromium(width, 844) as driver:
        page = Page(driver, f"http://127.0.0.1:{gateway.port}/").open("paula")
        page.wait.until(lambda _: "on the topic" in page.text("events-total"))
        assert driver.execute_script("return document.documentElement.scrollWidth") == width
        small = "return [...document.querySelectorAll('button')].filter((e) => e.offsetHeight && e.offsetHeight < 26).length"
        assert driver.execute_script(small) == 0


def test_token(world: Installation, chrome: webdriver.Chrome) -> None:
    """Rule: a gateway with a token asks for it once, says when it is wrong, and the stream works with it too."""
    with GatewayProcess(world, "guarded", gateway_token=TOKEN) as gateway:
        chrome.get(f"http://127.0.0.1:{gateway.port}/?user=paula")
        page = Page(chrome, "")
        for token in ("wrong", TOKEN):
            page.wait.until(lambda _: page.driver.find_element(By.ID, "token").is_displayed())
            page.driver.find_element(By.ID, "token").send_keys(token, Keys.ENTER)
            if token == "wrong":
                page.wait.until(lambda _: page.driver.find_element(By.ID, "ask-wrong").is_displayed())
        page.wait.until(lambda _: page.names() and page.text("pulse") == "live")
        before = page.names()
        page.driver.find_element(By.CSS_SELECTOR, ITEM).click()
        page.wait.until(lambda _: before[0] not in page.names())


def test_a_recorded_clock_goes_on(embedded: str, chrome: webdriver.Chrome, tmp_path: Path) -> None:
    """Rule: where the stream is a recorded one, a click is of its time, also one made before the page knows of anything else."""
    past, day = 1_577_836_800_000, 86_400_000
    with Installation(embedded, "recorded.", tmp_path) as world:
        for item in catalogue():
            world.put(world.names.items, item["item_id"], item)
        world.flush()
        world.start()
        world.event("r1", "rita", "i1", timestamp=past + 60 * day)
        world.list_after("r1", user="rita")
        with GatewayProcess(world) as gateway:
            gateway.until("GET", "/v1/users/rita/history", lambda a: bool(a.json["events"]))
            page = Page(chrome, f"http://127.0.0.1:{gateway.port}/")
            source = {"source": HURRY}
            script = chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
            try:
                page.open("rita")
            finally:
                chrome.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
            sent = world.tail(world.names.events).first(lambda r: r.value is not None and b'"event_id":"page-' in r.value).json
            assert 0 <= sent["timestamp"] - (past + 60 * day) < day
