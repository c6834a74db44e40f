"""The page, in Chromium without a window: selenium, and Debian's chromium and chromium-driver."""

import base64
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


def one_position(models):
    """A network whose last feature map has one position."""
    from inception_tf.exports.savedmodel import export_savedmodel
    from inception_tf.zoo import create_model

    model = create_model("inception_v3", depth_multiplier=0.1, classes=3, input_shape=(75, 75, 3))
    return export_savedmodel(model, models / "tiny", batch=1, check=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory, make_version, start):
    """A LeNet in two versions, which has no class maps, and Inception-v3 of several positions and of one."""
    from inception_tf.exports.savedmodel import export_savedmodel
    from inception_tf.zoo import create_model

    models = tmp_path_factory.mktemp("page")
    for number in (1, 2):
        shutil.copytree(make_version(number), models / "digits" / str(number))
    model = create_model("inception_v3", depth_multiplier=0.1, classes=7, input_shape=(139, 139, 3))
    export_savedmodel(model, models / "flowers", labels=LABELS, batch=1, check=False)
    one_position(models)
    with start(models, versions=2) as server:
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

        def options(self, selector):
            return [option.text for option in Select(self.one(selector)).options]

        def classify(self, model, *files, version=None):
            Select(self.one("#model")).select_by_visible_text(model)
            if version:
                Select(self.one("#version")).select_by_visible_text(version)
            self.one("#file").send_keys("\n".join(map(str, files)))
            self.wait(lambda: "classified." in self.one("#status").text)

        def pixels(self, selector="canvas"):
            script = "const c = arguments[0]; return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
            data = browser.execute_script(script, self.one(selector))
            return list(zip(*[iter(data)] * 4))

        def set(self, selector, value):
            script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
            browser.execute_script(script, self.one(selector), value)

    browser.set_window_size(1000, 900)
    browser.get(f"http://127.0.0.1:{server.port}/")
    page = Page()
    page.wait(lambda: len(page.options("#model")) == 3)
    yield page
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.fixture(scope="module")
def folder(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for name, data in {"photo.png": files[1], "other.jpg": files[4], "broken.jpg": files[2]}.items():
        (folder / name).write_bytes(data)
    return folder


MAP = ".picture canvas"


def test_photographs_with_their_heat_maps(page, folder):
    page.classify("flowers", folder / "photo.png", folder / "broken.jpg", folder / "other.jpg")
    assert page.one("#status").text == "flowers, version 1: 2 of 3 classified."
    headings = [heading.text for heading in page.all("#answers h2")]
    assert headings == ["photo.png", "broken.jpg", "other.jpg"]
    assert "truncated, corrupted" in page.one("#answers .error").text
    assert len(page.all(MAP)) == 2 and len(page.all(".classes button")) == 10
    names = {row.text.splitlines()[0].strip() for row in page.all(".classes button")}
    assert names <= {name.strip() for name in LABELS}
    canvas = page.one(MAP)
    assert canvas.is_displayed() and canvas.size == page.one(".picture img").size

    first = page.pixels(MAP)
    assert {pixel[3] for pixel in first} == {0, 160}  # nothing below the threshold
    page.set("#threshold", 0)
    assert {pixel[3] for pixel in page.pixels(MAP)} == {160}
    assert {pixel[3] for pixel in page.pixels("#scale")} == {160} and len(set(page.pixels("#scale"))) > 50
    page.one("#heat").click()
    assert not canvas.is_displayed()


def test_by_keyboard_and_by_ear(page, folder, browser):
    from selenium.webdriver.common.keys import Keys

    page.classify("flowers", folder / "photo.png")
    rows, first = page.all(".classes button"), page.pixels(MAP)
    assert [row.get_attribute("aria-pressed") for row in rows[:2]] == ["true", "false"]
    browser.execute_script("arguments[0].focus()", page.one("#threshold"))
    active = browser.switch_to.active_element
    active.send_keys(Keys.TAB)
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element == rows[1]
    browser.switch_to.active_element.send_keys(Keys.SPACE)
    assert rows[1].get_attribute("aria-pressed") == "true" and page.pixels(MAP) != first
    assert rows[1].text.splitlines()[0] in page.one(MAP).get_attribute("aria-label")
    for selector in ("#model", "#version", "#file", "#heat", "#threshold", "#status", MAP, "#scale", "section"):
        element = page.one(selector)
        assert element.accessible_name or element.get_attribute("role") == "status", selector
    assert page.one("#status").get_attribute("aria-live") == "polite"


def test_a_model_without_maps_and_a_choice_of_version(page, folder, browser, files):
    page.classify("digits", folder / "photo.png", version="1")
    assert page.options("#version") == ["2", "1"]
    assert "no class map" in page.one("#answers p").text and not page.all(MAP)
    assert not page.one("#controls").is_displayed()
    assert page.one(".classes").text.startswith("v1 ")
    browser.find_element("css selector", "#version").send_keys("2")
    drop = """
        const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0)), transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
        document.getElementById("drop").dispatchEvent(
            new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: transfer}));"""
    browser.execute_script(drop, base64.b64encode(files[1]).decode())
    page.wait(lambda: "digits, version 2: 1 of 1" in page.one("#status").text)
    assert page.one(".classes").text.startswith("v2 ")


def test_a_map_of_one_position_is_not_drawn(page, folder):
    page.classify("tiny", folder / "photo.png")
    assert "one position" in page.one("#answers p").text and not page.all(MAP)


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
