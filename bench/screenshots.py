"""`make screenshots`: the page after a click, as wide as a desk's and a phone's, from a live installation. The pictures go to docs/."""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from bench import browser
from bench.stage import stage

DOCS = Path(__file__).resolve().parent.parent / "docs"
EVENTS = 6_000
WAIT_S = 30.0
PER_S = 12.0
"""Clicks of others a second meanwhile, so that the panel shows a living stream."""
LIVE_S = 75.0
"""A minute fills the panel's lines, and the rush of the replay is out of them then."""
SIZES = (("page-desktop.png", 1280, 900, 1.5, "grue"), ("page-phone.png", 390, 844, 1.5, ""))
"""File, width, height in CSS pixels, pixels of the picture for each, and what is searched."""
BAD = {"event_id": "bad-1", "type": "click", "user_id": "u1", "timestamp": 1732200000}


def main() -> int:
    """Make the pictures; the exit status."""
    if found := browser.missing():
        print(f"not found: {found}; install Chromium and its driver (Debian: apt install chromium chromium-driver)", file=sys.stderr)
        return 1
    with stage(EVENTS, print) as (url, outside):
        outside.send("u1", json.dumps(BAD).encode())  # a dead letter to be shown
        spared: set[str] = set()
        with _others(url, spared):
            print(f"waiting {LIVE_S:g} s for the panel to fill")
            time.sleep(LIVE_S)
            for name, width, height, scale, query in SIZES:
                with browser.chromium(width, height, scale=scale) as driver:
                    picture(driver, url, query, DOCS / name, spared)
                print(f"docs/{name}")
    return 0


def picture(driver: webdriver.Chrome, url: str, query: str, file: Path, spared: set[str]) -> None:
    """Open the page, click on an item, search, and take the whole page. `spared`: gets the user, whom nobody else is to click for."""
    wait = WebDriverWait(driver, WAIT_S, 0.05)
    driver.get(url)
    wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "#items .item")[2:])
    wait.until(lambda d: "live" in d.find_element(By.ID, "pulse").text)
    spared.add(driver.find_element(By.ID, "user").get_property("value"))
    for place in (2, 1):  # the first click pays for what is cold
        driver.find_elements(By.CSS_SELECTOR, "#items .item")[place].click()
        time.sleep(1.0)
    wait.until(lambda d: d.find_element(By.ID, "took").is_displayed())
    if query:
        driver.find_element(By.ID, "query").send_keys(query)
        wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "#found li"))
    ActionChains(driver).move_to_element(driver.find_element(By.ID, "pulse")).perform()  # no row is under the pointer
    driver.execute_script("document.activeElement.blur()")
    time.sleep(2.2)  # a turn of the panel
    wait.until(lambda d: d.execute_script("return document.getAnimations().length") == 0)
    taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
    file.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def _others(url: str, spared: set[str]) -> Iterator[None]:
    """Other users than those, who click on an item of their lists now and then."""
    stopping = threading.Event()

    def click() -> None:
        number = 0
        while not stopping.wait(1 / PER_S):
            number += 1
            user = _get(f"{url}/v1/users?limit=60")["users"][number * 7 % 60]
            if user["user_id"] in spared:
                continue
            listed = _get(f"{url}/v1/users/{user['user_id']}/lists/home")["items"]
            event = {"event_id": f"other-{number}", "type": "click", "user_id": user["user_id"], "item_id": listed[number % 3]["item_id"]}
            body = json.dumps({**event, "timestamp": user["last"]["timestamp"] + 1000}).encode()
            request = urllib.request.Request(f"{url}/v1/events", body, {"Content-Type": "application/json"})  # noqa: S310 - our own address
            urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - as above

    thread = threading.Thread(target=click, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _get(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own address
        return json.load(answer)


if __name__ == "__main__":
    sys.exit(main())
