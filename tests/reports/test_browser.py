"""The page in a real browser: headless Chromium, driven by Selenium.

.ci/run installs Debian's chromium and chromium-driver and sets HEADSTART_BROWSER=required; elsewhere a missing browser skips.
"""

import json
import os
import re
import shutil

import pytest
from made_results import make_runs
from records import record
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from reports.page import write_report
from reports.parts import Report
from reports.table import collect

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        reason = "needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)"
        (pytest.fail if os.environ.get("HEADSTART_BROWSER") == "required" else pytest.skip)(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Runs of every kind, and an objective whose name is an attack."""
    folder = tmp_path_factory.mktemp("comparison")
    make_runs(folder)
    results, _ = collect(folder)
    results += [record("<script>window.hacked=1</script>", seed, 0.5 + seed / 100) for seed in range(3)]
    return write_report(folder, Report.of(results, ["'<img src=x onerror=window.hacked=1>' is not a result record"], folder))


@pytest.fixture
def page(browser, report):
    """The page, freshly opened, 1,200 px wide and light; whatever went wrong in it fails the test."""
    show(browser, 1200)
    browser.get("about:blank")
    browser.get_log("performance")  # empties it
    browser.get(report.as_uri())
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert browser.execute_script("return window.hacked") is None
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url.partition("#")[0] for url in asked if not url.startswith("data:")} <= {report.as_uri()}


def show(browser, width: int, scheme: str = "light", media: str = "screen") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def column(page, number: int) -> list[str]:
    """The cells of a column of the large table that are to be seen, top to bottom."""
    script = "return [...document.querySelectorAll('#table tbody tr:not([hidden])')].map(r => r.cells[arguments[0]].innerText)"
    return page.execute_script(script, number)


def heads(page):
    return page.find_elements(By.CSS_SELECTOR, "#table thead th")


def test_nothing_is_asked_of_the_network_and_nothing_of_the_records_runs(page):
    assert page.title == "Headstart: emoji"
    assert "<script>window.hacked=1</script>" in column(page, 0)
    assert "onerror=window.hacked=1" in page.find_element(By.CSS_SELECTOR, "[aria-labelledby=broken]").text
    assert page.execute_script("return document.querySelectorAll('main script, img:not([src^=data])').length") == 0


def test_the_table_is_sorted_by_mouse_and_by_keyboard(page):
    head = heads(page)[4]
    assert head.text.startswith("mean")
    head.find_element(By.TAG_NAME, "button").click()
    assert head.get_attribute("aria-sort") == "descending"
    means = [float(cell) for cell in column(page, 4)]
    assert means == sorted(means, reverse=True)
    head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(cell) for cell in column(page, 4)] == sorted(means)
    heads(page)[0].find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert [head.get_attribute("aria-sort") for head in heads(page)[:5]] == ["ascending", None, None, None, None]
    names = column(page, 0)
    assert names == sorted(names)
    heads(page)[10].find_element(By.TAG_NAME, "button").click()
    assert column(page, 10)[0] == "2.8e12"  # a number, not a word
    assert column(page, 10)[-1] == "-"  # what is not known comes last either way


def test_the_table_is_filtered(page):
    total = len(column(page, 0))
    count = page.find_element(By.ID, "count")
    assert count.text == f"{total} of {total} rows"
    Select(page.find_element(By.CSS_SELECTOR, "[data-filter=objective]")).select_by_visible_text("mae")
    assert set(column(page, 0)) == {"mae"}
    Select(page.find_element(By.CSS_SELECTOR, "[data-filter=protocol]")).select_by_visible_text("finetune")
    assert column(page, 3) == ["finetune", "finetune @ 0.3", "finetune @ 0.1"]
    page.find_element(By.ID, "search").send_keys("0.3 MAE")
    assert column(page, 3) == ["finetune @ 0.3"]
    assert count.text == f"1 of {total} rows"
    page.find_element(By.CSS_SELECTOR, ".filters button").click()
    page.execute_async_script("setTimeout(arguments[0], 20)")
    assert count.text == f"{total} of {total} rows"


def test_cards_and_numbers_open_by_keyboard(page):
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert page.switch_to.active_element.text == "Skip to the summary"
    numbers = page.find_element(By.CSS_SELECTOR, "figure details summary")
    table = page.find_element(By.CSS_SELECTOR, "figure details table")
    assert not table.is_displayed()
    numbers.send_keys(Keys.ENTER)
    assert table.is_displayed()
    card = next(
        card for card in page.find_elements(By.CSS_SELECTOR, ".card") if card.text.startswith("mae, vit_t, emoji, seed 1")
    )
    command = card.find_element(By.CSS_SELECTOR, ".command")
    assert not command.is_displayed()
    card.find_element(By.TAG_NAME, "summary").send_keys(Keys.SPACE)
    assert command.text == "python train.py objective=mae model=vit_t datamodule=emoji seed=1"
    assert "</script><script>window.hacked = 1</script>" in card.find_element(By.CSS_SELECTOR, ".guesses").text
    picture = card.find_element(By.TAG_NAME, "img")
    page.execute_script("arguments[0].scrollIntoView()", picture)
    page.execute_async_script("arguments[0].decode().then(arguments[1])", picture)
    assert page.execute_script("return [arguments[0].naturalWidth, arguments[0].naturalHeight]", picture) == [16, 8]


def test_a_seed_in_the_table_leads_to_the_card_of_its_run(page):
    link = page.find_element(By.LINK_TEXT, "2")
    target = page.find_element(By.ID, link.get_attribute("href").partition("#")[2])
    assert not target.is_displayed()
    link.click()
    assert target.is_displayed()


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2) of "rgb(r, g, b)" or "#rrggbb"."""
    parts = [int(part) for part in re.findall(r"\d+", colour)[:3]] if "(" in colour else list(bytes.fromhex(colour.strip(" #")))
    linear = [p / 255 / 12.92 if p <= 10 else ((p / 255 + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_can_be_read(page, scheme):
    show(page, 1200, scheme)
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    paper = page.execute_script(style, "html", "backgroundColor")
    assert (luminance(paper) < 0.1) == (scheme == "dark")
    for selector, name in (("body", "color"), ("a[href='#runs']", "color"), ("#table caption", "color"), ("svg text", "fill"),
                           ("svg .tick", "fill"), (".warning", "color"), ("#table tbody th", "color")):  # fmt: skip
        assert contrast(page.execute_script(style, selector, name), paper) >= 4.5, selector
    variable = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0])"
    for number in range(8):
        raw = page.execute_script(variable, f"--c{number}").strip()
        assert contrast(raw, paper) >= 3, raw


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_phone_has_no_page_wider_than_itself(page, width):
    show(page, width)
    page.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    scale = "s => s.getBoundingClientRect().width / s.viewBox.baseVal.width"
    scales = page.execute_script(f"return [...document.querySelectorAll('figure svg')].map({scale})")
    assert 11.5 * min(scales) >= (9 if width > 320 else 8)  # px of the smallest letters


def test_print_shows_figures_and_cards_and_no_controls(page):
    show(page, 800, media="print")
    shown = "return getComputedStyle(document.querySelector(arguments[0])).display"
    assert page.execute_script(shown, ".filters") == page.execute_script(shown, "nav") == "none"
    assert page.execute_script(shown, "figure svg") == "block"
    assert page.find_element(By.CSS_SELECTOR, ".command").rect["height"] > 0
    page.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
