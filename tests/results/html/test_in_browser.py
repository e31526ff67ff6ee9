import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from center_smoothing import SmoothingBudget, TotalVariation
from center_smoothing.promise import promise_line
from results import html
from results.folder import CertificationFolder
from results.html import Curve, Report, ReportExample, report_of_folder
from results.plots.examples import Picture
from results.rows import Row

BUDGET = SmoothingBudget(n=1000, m=2000, k=64, delta=0.12)
HOSTILE = "<b></script><img src=x onerror=\"document.title='broken'\">"
# Whether a page has come to its end, and all charts that it shows at once are drawn.
LOADED = """
return document.readyState === "complete" && location.protocol === "file:"
    && [...document.querySelectorAll(".charts .chart")].every((node) => node.querySelector(".scatterlayer .trace"))
"""
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
)
# Relative luminance and contrast as WCAG 2 defines them, of the text of an element on the background behind it.
CONTRAST = """
const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
const luminance = (colour) => parse(colour).slice(0, 3)
  .map((value) => value / 255)
  .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
  .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
const behind = (node) => {
  const colour = getComputedStyle(node).backgroundColor;
  return parse(colour)[3] === 0 ? behind(node.parentElement) : colour;
};
const contrast = (node) => {
  const style = getComputedStyle(node);
  const text = node instanceof SVGElement ? style.fill : style.color;
  const [low, high] = [luminance(text), luminance(behind(node))].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const texts = "h1,h2,h3,p,li,th,td,dt,dd,caption,a,summary,figcaption,button,footer,.chart text";
return [...document.querySelectorAll(texts)]
  .filter((node) => node.getClientRects().length && node.textContent.trim())
  .map((node) => [contrast(node), node.textContent]);
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        reason = f"needs chromium and chromedriver, found {chromium} and {driver}"
        if os.environ.get("CENTER_SMOOTHING_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = Chrome(options=options, service=Service(driver))
    try:
        yield started
    finally:
        started.quit()


@pytest.fixture(scope="module")
def certification(tmp_path_factory: pytest.TempPathFactory, write_random: Callable[..., CertificationFolder]) -> Path:
    """The page of a folder with twelve certified examples, of which the last abstained."""
    folder = write_random(
        tmp_path_factory.mktemp("certification"), count=12, shape=(1, 28, 28), order=5, model="Autoencoder"
    )
    path = folder.path / "report.html"
    html.write(report_of_folder(folder, promise=promise_line(BUDGET, TotalVariation(), coverage="pointwise")), path)
    return path


@pytest.fixture(scope="module")
def figure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with three curves, bands, a gap, a reference line and names that try to break out."""
    eps_in = [0.1, 0.2, 0.3]
    curves = [
        Curve(
            f"h = {h} {HOSTILE if h == 3 else ''}",
            eps_in,
            [60.0 / h + 100 * value if h < 3 or value < 0.3 else math.inf for value in eps_in],
            smoothing_loss=[value / h for value in eps_in],
            low=[50.0 / h + 100 * value for value in eps_in],
            high=[70.0 / h + 100 * value for value in eps_in],
        )
        for h in (1, 2, 3)
    ]
    rows = [
        Row(
            index=0, sigma=0.1, eps_in=0.1, eps_out=1.0, smoothing_loss=0.5, abstained=False,
            n=1000, m=2000, delta=0.12, method="exact", theorem="T3", seconds=1.0,
        )
    ]  # fmt: skip
    pictures = [Picture(HOSTILE, np.zeros((8, 8, 3)), note=HOSTILE)]
    report = Report(
        HOSTILE,
        [HOSTILE],
        curves=curves,
        examples=[ReportExample(HOSTILE, rows, pictures, eps_in=eps_in, eps_out=[1.0, 2.0, 3.0])],
        configuration={HOSTILE: HOSTILE},
        reference_lines={HOSTILE: 120.0},
    )
    path = tmp_path_factory.mktemp("figure") / "report.html"
    html.write(report, path)
    return path


@pytest.fixture(scope="module")
def show(browser: Chrome) -> Iterator[Callable[..., Chrome]]:
    """Opens a page, if it is not open yet; the browser must have nothing to complain about and nothing to fetch."""
    shown: list[tuple[Path, int]] = []

    def leave() -> None:
        assert browser.get_log("browser") == []
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [sent["params"]["request"]["url"] for sent in messages if sent["method"] == "Network.requestWillBeSent"]
        assert [url for url in asked if url.startswith("file:")] != []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []

    def show(path: Path, *, width: int = 1200, fresh: bool = False) -> Chrome:
        if shown == [(path, width)] and not fresh:
            return browser
        if shown:
            leave()
        browser.get("about:blank")
        for kind in ("browser", "performance"):
            browser.get_log(kind)
        resize(browser, width)
        prefer(browser, "light")
        browser.get(path.as_uri())
        wait_for(browser, lambda: browser.execute_script(LOADED))  # a busy browser may still be at it
        shown[:] = [(path, width)]
        return browser

    yield show
    leave()


def resize(browser: Chrome, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def prefer(browser: Chrome, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def find(browser: Chrome, selector: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def wait_for(browser: Chrome, condition: Callable[[], Any]) -> Any:  # noqa: ANN401  # what the condition found
    return WebDriverWait(browser, 60, poll_frequency=0.05).until(lambda _: condition())


def column(browser: Chrome, number: int) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll('.sortable tbody tr')].map(row => row.cells[arguments[0]].textContent)",
        number,
    )


def header(browser: Chrome, name: str) -> WebElement:
    return next(cell for cell in find(browser, ".sortable thead th") if cell.text == name)


def sorts(browser: Chrome) -> list[str | None]:
    return [cell.get_attribute("aria-sort") for cell in find(browser, ".sortable thead th")]


def test_charts_are_drawn(show: Callable[..., Chrome], certification: Path) -> None:
    browser = show(certification, fresh=True)
    assert len(find(browser, "#chart-0 .scatterlayer .trace")) == 2 + 1  # and the dots
    assert [text.text for text in find(browser, "#chart-0 .legendtext")] == [
        "certified radius eps_out",
        "smoothing loss",
    ]
    markers = browser.execute_script(
        "return [...document.querySelectorAll('#chart-0 .points path')].filter(p => p.getBBox().width > 1).length"
    )
    assert markers == 2 * 2 + 11 * 2  # and the dots of examples that did not abstain
    assert len(find(browser, "article .trace")) == 0
    images = "return [...document.images].map(image => [image.complete, image.naturalWidth])"
    assert browser.execute_script(images) == [[True, 28]] * 4 * 12


def test_header_sorts_by_click_and_by_key(show: Callable[..., Chrome], certification: Path) -> None:
    browser = show(certification)
    as_written = column(browser, 3)
    assert sorts(browser) == [None] * 6
    button = header(browser, "eps_out").find_element(By.TAG_NAME, "button")
    button.click()
    assert sorts(browser) == [None, None, None, "ascending", None, None]
    ascending = [float(text) for text in column(browser, 3)]
    assert ascending == sorted(map(float, as_written)) != [float(text) for text in as_written]
    assert ascending[-2:] == [math.inf, math.inf]
    button.send_keys(Keys.ENTER)
    assert sorts(browser) == [None, None, None, "descending", None, None]
    assert [float(text) for text in column(browser, 3)] == ascending[::-1]
    header(browser, "Example").find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert sorts(browser) == ["ascending", None, None, None, None, None]
    assert column(browser, 0) == [str(index) for index in range(12) for _ in range(2)]
    header(browser, "Abstained").find_element(By.TAG_NAME, "button").click()
    assert column(browser, 5)[-3:] == ["no", "yes", "yes"]


def test_the_certified_fraction_goes_in_steps_to_its_share(show: Callable[..., Chrome], certification: Path) -> None:
    browser = show(certification)
    assert len(find(browser, "#fraction-0 .scatterlayer .trace")) == 2
    assert [text.text for text in find(browser, "#fraction-0 .legendtext")] == [
        "eps_in = 0.25 (h = 1)",
        "eps_in = 0.5 (h = 2)",
    ]
    assert [tick.text for tick in find(browser, "#fraction-0 .ytick text")][::5] == ["0%", "100%"]
    paths = browser.execute_script(
        "return [...document.querySelectorAll('#fraction-0 .js-line')].map(node => node.getAttribute('d'))"
    )
    assert all(set(re.sub(r"[^A-Z]", "", path)) <= set("MHVL") for path in paths)
    for path in paths:
        places = [tuple(map(float, pair)) for pair in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path)]
        assert all(x == next_x or y == next_y for (x, y), (next_x, next_y) in pairwise(places))
    chart, medians = find(browser, "#fraction-0")[0], find(browser, "#chart-0")[0]
    assert chart.aria_role == medians.aria_role in ("img", "image")
    assert medians.accessible_name.startswith("Line chart. Median certified radius eps_out and smoothing loss against")
    assert chart.accessible_name.startswith("Step chart. Certified fraction for each eps_in against eps_out.")
    assert "91.6% of the 12 examples have a certificate" in chart.accessible_name


def test_hovering_between_steps_shows_all_shares_at_the_nearer_one(
    show: Callable[..., Chrome], certification: Path
) -> None:
    browser = show(certification)
    area = find(browser, "#fraction-0 .nsewdrag")[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", area)
    ActionChains(browser).move_to_element_with_offset(area, int(0.48 * area.size["width"]), 0).perform()
    texts = "return [...document.querySelectorAll('#fraction-0 .hoverlayer text')].map(node => node.textContent)"
    shown = wait_for(browser, lambda: browser.execute_script(texts))
    assert re.fullmatch(r"eps_out \d+\.\d\d?", shown[0])
    assert shown[1:] == ["eps_in = 0.25 (h = 1): 91.6%", "eps_in = 0.5 (h = 2): 91.6%"]


def test_all_steps_can_be_read_in_a_table(show: Callable[..., Chrome], certification: Path) -> None:
    browser = show(certification)
    (details,) = find(browser, "section[aria-labelledby='fractions'] details")
    details.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    rows = [row.text.split() for row in details.find_elements(By.CSS_SELECTOR, "tbody tr")]
    assert len(rows) == 2 * (1 + 11)
    assert rows[0] == ["0.25", "0.25", "0.00", "0%"]
    assert rows[11][3] == rows[23][3] == "91.6%"


def test_an_example_opens_and_its_curve_appears(show: Callable[..., Chrome], certification: Path) -> None:
    browser = show(certification)
    assert not find(browser, "#example-3 svg")
    find(browser, "#example-3 summary")[0].send_keys(Keys.ENTER)
    (trace,) = wait_for(browser, lambda: find(browser, "#example-3 .scatterlayer .trace"))
    assert trace.is_displayed()
    assert find(browser, "#example-3 table")[0].is_displayed()
    assert not find(browser, "#example-4 svg")


def test_a_link_of_the_table_opens_its_example(show: Callable[..., Chrome], certification: Path) -> None:
    browser = show(certification)
    find(browser, ".sortable a[href='#example-2']")[0].click()
    wait_for(browser, lambda: find(browser, "#example-2 .scatterlayer .trace"))


def test_dark_mode_is_followed_while_the_page_is_open_and_contrast_is_enough(
    show: Callable[..., Chrome], certification: Path
) -> None:
    browser = show(certification)
    find(browser, "#example-1 summary")[0].send_keys(Keys.ENTER)
    wait_for(browser, lambda: find(browser, "#example-1 .trace"))

    def too_faint() -> list[Any]:
        measured = browser.execute_script(CONTRAST)
        assert len(measured) > 100
        return [(ratio, text) for ratio, text in measured if ratio < 4.5]

    assert too_faint() == []
    colours = (
        "const style = (selector) => getComputedStyle(document.querySelector(selector));"
        "return [style('body').backgroundColor, style('body').color, style('#chart-0 .js-line').stroke,"
        " style('#chart-0 .xtick text').fill, style('#chart-0 .gridlayer path').stroke]"
    )
    light = browser.execute_script(colours)
    prefer(browser, "dark")
    dark = wait_for(browser, lambda: (now := browser.execute_script(colours))[2] != light[2] and now)
    assert all(one != other for one, other in zip(light, dark, strict=True))
    assert too_faint() == []
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script(colours) == light
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(colours) == dark
    prefer(browser, "light")
    wait_for(browser, lambda: browser.execute_script(colours) == light)


def test_a_key_reaches_every_control_and_terms_are_explained(show: Callable[..., Chrome], certification: Path) -> None:
    browser = show(certification, fresh=True)
    count = browser.execute_script(
        "window.controls = [...document.querySelectorAll('a[href],button,summary,[tabindex]')]"
        ".filter(node => node.checkVisibility()); return controls.length"
    )
    browser.execute_script(
        "window.reached = []; addEventListener('focusin', event => reached.push(controls.indexOf(event.target)))"
    )
    ActionChains(browser).send_keys(Keys.TAB * count).perform()
    assert browser.execute_script("return reached") == list(range(count))
    (tip,) = find(browser, "#tip")
    for selector, meaning in (
        ("a[href='#term-h']", "eps_in / sigma"),
        ("button[aria-describedby$='abstained']", "inf"),
    ):
        browser.execute_script("arguments[0].focus()", find(browser, selector)[0])
        assert meaning in tip.text
        ActionChains(browser).send_keys(Keys.ESCAPE).perform()
        assert not tip.is_displayed()
    ActionChains(browser).move_to_element(find(browser, "a[href='#term-abstained']")[0]).perform()
    assert wait_for(browser, lambda: "no smoothed output" in tip.text)


def test_curves_are_drawn_and_names_stay_texts(show: Callable[..., Chrome], figure: Path) -> None:
    browser = show(figure)
    assert len(find(browser, "#chart-0 .scatterlayer .trace")) == 3 + 3 + 1  # lines, bands and the reference line
    assert len(find(browser, "#chart-1 .scatterlayer .trace")) == 3
    assert "infinite, so without a point, at eps_in 0.3" in find(browser, ".finding")[0].text
    browser.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")
    wait_for(browser, lambda: find(browser, "article .trace"))
    assert browser.title == HOSTILE
    assert find(browser, "h1")[0].text == HOSTILE
    assert len(find(browser, "img")) == 1
    legend = [text.text for text in find(browser, "#chart-0 .legendtext")]
    assert [text for text in legend if text.startswith("h = 3 <b></script><img src=x onerror")]


def test_hovering_shows_the_values(show: Callable[..., Chrome], figure: Path) -> None:
    browser = show(figure)
    area = find(browser, "#chart-0 .nsewdrag")[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", area)
    at = browser.execute_script(
        "const point = document.querySelectorAll('#chart-0 .points')[5].children[1].getBoundingClientRect();"
        "const area = arguments[0].getBoundingClientRect();"
        "return [point.x + point.width / 2 - area.x - area.width / 2, point.y - area.y - area.height / 2]",
        area,
    )
    ActionChains(browser).move_to_element_with_offset(area, int(at[0]), int(at[1])).perform()
    texts = "return [...document.querySelectorAll('#chart-0 .hoverlayer text')].map(node => node.textContent)"
    shown = wait_for(browser, lambda: browser.execute_script(texts))
    assert "eps_in 0.2" in shown
    assert "h = 1 : 80.00 (70.00 to 90.00)" in shown
    assert "h = 2 : 50.00 (45.00 to 55.00)" in shown


@pytest.mark.parametrize("page", ["figure", "certification"])
def test_a_phone_scrolls_down_only(show: Callable[..., Chrome], page: str, request: pytest.FixtureRequest) -> None:
    browser = show(request.getfixturevalue(page), width=360)
    browser.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")
    wait_for(browser, lambda: find(browser, "article:last-child .trace"))
    assert browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    assert browser.execute_script(
        "return [...document.querySelectorAll('.chart')].every(node => node.scrollWidth <= node.clientWidth)"
    )


def test_what_is_cut_off_on_a_phone_says_so(show: Callable[..., Chrome], certification: Path) -> None:
    said = (
        "return [...document.querySelectorAll('section > .scroll')].filter(node => node.checkVisibility()).map("
        "node => [node.scrollWidth > node.clientWidth + 1,"
        " getComputedStyle(node.querySelector('caption'), '::after').content])"
    )
    browser = show(certification, width=360)
    cut_off = wait_for(browser, lambda: browser.execute_script(said))
    assert any(wide for wide, _ in cut_off)
    assert all(("Scroll sideways" in text) == wide for wide, text in cut_off)
    resize(browser, 1400)
    wide = [[False, False]] * len(cut_off)
    wait_for(browser, lambda: [[cut, "Scroll" in text] for cut, text in browser.execute_script(said)] == wide)
    resize(browser, 360)
