"""The page, in Chromium without a window: selenium, and Debian's chromium and chromium-driver."""

import os
import shutil

import pytest

LABELS = ["<b>rose</b>", "b, " + 40 * "a long name ", 80 * "c", *"defg"]

pytestmark = pytest.mark.slow  # a browser, and an Inception-v3


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    driver = shutil.which("chromedriver") or "/usr/lib/chromium/chromedriver"
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    if not chromium or not os.path.exists(driver):
        pytest.skip("no Chromium with its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1000,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def server(tmp_path_factory, make_version, start):
    """A LeNet of digits, and an Inception-v3 with awkward names."""
    from inception_tf.exports.savedmodel import export_savedmodel
    from inception_tf.zoo import create_model

    models = tmp_path_factory.mktemp("page")
    shutil.copytree(make_version(1), models / "digits/1")
    model = create_model("inception_v3", depth_multiplier=0.1, classes=7, input_shape=(75, 75, 3))
    export_savedmodel(model, models / "flowers", labels=LABELS, batch=1, check=False)
    with start(models) as server:
        yield server


@pytest.fixture
def page(browser, server):
    """The page, opened anew, and what the tests do on it."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    class Page:
        def all(self, selector):
            return browser.find_elements(By.CSS_SELECTOR, selector)

        def one(self, selector):
            return browser.find_element(By.CSS_SELECTOR, selector)

        def wait(self, condition):
            WebDriverWait(browser, 120).until(lambda _: condition())

        def classify(self, model, *files):
            Select(self.one("#model")).select_by_visible_text(model)
            self.one("#file").send_keys("\n".join(map(str, files)))
            self.wait(lambda: "classified." in self.one("#status").text)

    browser.set_window_size(1000, 900)
    browser.get(f"http://127.0.0.1:{server.port}/")
    page = Page()
    page.wait(lambda: [option.text for option in page.all("#model option")] == ["digits", "flowers"])
    yield page
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.fixture(scope="module")
def folder(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for name, data in {"photo.png": files[1], "other.jpg": files[4], "broken.jpg": files[2]}.items():
        (folder / name).write_bytes(data)
    return folder


def test_photographs(page, folder):
    page.classify("flowers", folder / "photo.png", folder / "broken.jpg", folder / "other.jpg")
    assert page.one("#status").text == "flowers: 2 of 3 classified."
    headings = [heading.text for heading in page.all("#answers h2")]
    assert headings == ["photo.png", "broken.jpg", "other.jpg"]
    assert "truncated, corrupted" in page.one("#answers .error").text
    assert len(page.all("#answers img")) == 2 and len(page.all("#answers li")) == 10
    names = {row.text.splitlines()[0].strip() for row in page.all("#answers li")}
    assert names <= {name.strip() for name in LABELS}


def test_a_photograph_that_is_dropped(page, folder, browser):
    box = page.one("#file").rect
    where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(folder / "photo.png")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, **where, "data": data})
    page.wait(lambda: "digits: 1 of 1" in page.one("#status").text)
    assert page.one("#answers ol").text.startswith("v1 ")


def test_by_keyboard_and_by_ear(page, folder, browser):
    from selenium.webdriver.common.keys import Keys

    page.classify("flowers", folder / "photo.png")
    browser.execute_script("arguments[0].focus()", page.one("#model"))
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element == page.one("#file")
    assert all(page.one(selector).accessible_name for selector in ("#model", "#file", "section", "#answers img"))
    assert page.one("#status").aria_role == "status"


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_nothing_scrolls_sideways(page, folder, browser, width):
    """The class names are long, and one has no place to break. PAGE_PICTURES: where to leave what it looks like."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.classify("flowers", folder / "photo.png", folder / "broken.jpg")
        sides = browser.execute_script(
            "const e = document.documentElement; return [e.scrollWidth, e.clientWidth, "
            "...[...document.querySelectorAll('body *')].map(one => Math.ceil(one.getBoundingClientRect().right))]"
        )
        assert sides[1] <= width and max(sides) <= sides[1]
        if "PAGE_PICTURES" in os.environ:
            browser.save_screenshot(os.path.join(os.environ["PAGE_PICTURES"], f"page_{width}.png"))
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
