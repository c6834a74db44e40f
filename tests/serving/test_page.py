"""The page, in Chromium without a window: selenium, and Debian's chromium and chromium-driver."""

import base64
import os
import shutil

import pytest

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
def server(tmp_path_factory, digits, start):
    """A LeNet, which has no class maps, and an Inception-v3, which has."""
    from inception_tf.exports.savedmodel import export_savedmodel
    from inception_tf.zoo import create_model

    models = tmp_path_factory.mktemp("page")
    shutil.copytree(digits / "digits", models / "digits")
    model = create_model("inception_v3", depth_multiplier=0.1, classes=7, input_shape=(139, 139, 3))
    export_savedmodel(model, models / "flowers", labels=["<b>rose</b>", *"bcdefg"], batch=1, check=False)
    with start(models) as server:
        yield server


def test_a_photograph_is_dropped(browser, server, files, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    def shown(text):
        WebDriverWait(browser, 120).until(lambda b: text in b.find_element(By.ID, "status").text)

    def classes():
        cells = browser.find_elements(By.CSS_SELECTOR, "#classes tr td:first-child")
        return [cell.text for cell in cells]

    for name, data in {"photo.png": files[1], "broken.jpg": files[2]}.items():
        (tmp_path / name).write_bytes(data)
    browser.get(f"http://127.0.0.1:{server.port}/")
    WebDriverWait(browser, 120).until(lambda b: len(Select(b.find_element(By.ID, "model")).options) == 2)
    choose = Select(browser.find_element(By.ID, "model")).select_by_visible_text

    choose("flowers")
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "photo.png"))
    shown("photo.png: flowers, version 1")
    assert len(classes()) == 5 and set(classes()) <= {"<b>rose</b>", *"bcdefg"}
    canvas = browser.find_element(By.ID, "map")
    assert canvas.is_displayed() and canvas.size == browser.find_element(By.ID, "photo").size
    pixels = "const c = arguments[0]; return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    first = browser.execute_script(pixels, canvas)
    assert len(set(zip(*[iter(first)] * 4))) > 1  # not of one color
    browser.find_elements(By.CSS_SELECTOR, "#classes tr")[3].click()
    assert browser.execute_script(pixels, canvas) != first

    choose("digits")
    drop = """
        const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0)), transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
        document.getElementById("drop").dispatchEvent(
            new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: transfer}));"""
    browser.execute_script(drop, base64.b64encode(files[1]).decode())
    shown("dropped.png: digits, version 1. This model has no class map.")
    assert len(classes()) == 3 and not canvas.is_displayed()

    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "broken.jpg"))
    shown("The image is truncated, corrupted.")
    assert not browser.find_element(By.ID, "answer").is_displayed()
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
