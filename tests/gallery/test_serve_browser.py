"""The page in headless Chromium, driven by real clicks; skipped where browser, driver or selenium are missing."""

import contextlib
import os
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra serve is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="chromium or chromedriver is not installed (Debian: chromium, chromium-driver)",
    ),
]
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
StaleElement = pytest.importorskip("selenium.common.exceptions").StaleElementReferenceException
support = pytest.importorskip("selenium.webdriver.support.ui")
SECONDS = 30
TOKEN = "browser-test-token"


@contextlib.contextmanager
def serving(path, embedder, *, token=None):
    """Address of a server in a thread."""
    from reid_da.serve.app import create_app
    from reid_da.serve.session import Session
    from reid_da.serve.settings import ServeSettings

    session = Session(path, embedder=embedder)
    app = create_app(session, ServeSettings(token=token, requests_per_minute=0))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def address(served, embedder, tmp_path_factory):
    """Address of a server in a thread, which asks for a token."""
    with serving(shutil.copytree(served, tmp_path_factory.mktemp("page") / "index"), embedder, token=TOKEN) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


def wait(browser, condition):
    # the page replaces lists while they are looked at
    waiting = support.WebDriverWait(browser, SECONDS, poll_frequency=0.05, ignored_exceptions=[StaleElement])
    return waiting.until(lambda _: condition())


def by_id(browser, name):
    return browser.find_element(By.ID, name)


def button(within, text):
    return next(found for found in within.find_elements(By.TAG_NAME, "button") if found.text == text)


def assert_fits(browser):
    widths = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    needed, given = browser.execute_script(widths)
    assert needed <= given


def resize(browser, width):
    # the window of headless Chromium does not get narrower than 500 pixels, the page does
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )


@pytest.mark.parametrize("width", [400, 1400])
def test_search_and_identities_by_clicks(browser, address, crops, width, tmp_path):
    resize(browser, width)
    browser.get(address)
    browser.execute_script("sessionStorage.clear()")
    browser.get(address)
    wait(browser, lambda: by_id(browser, "login").is_displayed())
    by_id(browser, "token").send_keys(TOKEN, Keys.ENTER)
    wait(browser, lambda: "images, 6 cameras" in by_id(browser, "summary").text)
    browser.get_log("browser")  # the answer 401 is one of its lines
    assert_fits(browser)

    query = sorted(crops.iterdir())[3]
    by_id(browser, "file").send_keys(str(query))
    hits = wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#hits li"))
    assert len(hits) == 20
    assert hits[0].text.startswith("1. 1.000")
    wait(browser, lambda: hits[0].find_element(By.TAG_NAME, "img").get_property("naturalWidth") == 128)
    assert "Expected false positive rate of a pair: 0.001" in by_id(browser, "rate").text
    assert_fits(browser)
    slider = by_id(browser, "threshold")
    slider.send_keys(Keys.END)
    wait(browser, lambda: by_id(browser, "threshold-text").text == "1.000")
    slider.send_keys(Keys.HOME)
    wait(browser, lambda: by_id(browser, "verdict").text.startswith("20 of 20 images"))
    browser.save_screenshot(str(tmp_path / f"search-{width}.png"))

    browser.find_element(By.CSS_SELECTOR, "#cameras input").click()
    button(by_id(browser, "query"), "Search").click()
    wait(browser, lambda: {"camera 1"} == {
        hit.find_elements(By.TAG_NAME, "p")[1].text for hit in browser.find_elements(By.CSS_SELECTOR, "#hits li")
    })  # fmt: skip
    browser.find_element(By.CSS_SELECTOR, "#hits button").send_keys(Keys.ENTER)
    wait(browser, lambda: by_id(browser, "preview").get_attribute("alt").startswith("query: image"))

    correct_identities(browser, tmp_path / f"identities-{width}.png")
    assert browser.get_log("browser") == []


def correct_identities(browser, screenshot):
    by_id(browser, "tab-identities").click()
    wait(browser, lambda: by_id(browser, "identity-count").text == "2 identities")
    assert_fits(browser)
    first = browser.find_element(By.CSS_SELECTOR, "#identities > li")
    first.find_element(By.CSS_SELECTOR, "form input").send_keys("<b>red coat</b>", Keys.ENTER)
    wait(browser, lambda: browser.find_element(By.CSS_SELECTOR, "#identities strong").text == "<b>red coat</b>")
    for box in browser.find_elements(By.CSS_SELECTOR, ".pick"):
        box.click()
    by_id(browser, "merge").click()
    wait(browser, lambda: by_id(browser, "identity-count").text == "1 identity")
    button(browser.find_element(By.CSS_SELECTOR, "#identities > li"), "Images").click()
    boxes = wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, ".sheet input"))
    assert len(boxes) == 5
    boxes[0].click()
    assert_fits(browser)
    browser.save_screenshot(str(screenshot))
    button(browser.find_element(By.CSS_SELECTOR, ".sheet"), "Split ticked off").click()
    wait(browser, lambda: by_id(browser, "identity-count").text == "2 identities")
    for action in ("split", "merge", "name"):
        wait(browser, lambda: not by_id(browser, "message").is_displayed())
        by_id(browser, "undo").click()
        wait(browser, lambda action=action: by_id(browser, "message").text == f"{action} taken back")
        browser.execute_script("document.getElementById('message').hidden = true")
    assert_fits(browser)


def whole_list(browser, *, other_than):
    texts = [hit.text for hit in browser.find_elements(By.CSS_SELECTOR, "#hits li")]
    return texts if len(texts) == 20 and texts not in other_than else None


def test_the_camera_of_a_picture_is_chosen_where_it_counts(browser, address, served, centering, crops, tmp_path):
    browser.get(address)
    browser.execute_script(f"sessionStorage.setItem('token', '{TOKEN}')")
    browser.get(address)
    wait(browser, lambda: "images" in by_id(browser, "summary").text)
    assert not by_id(browser, "query-camera").is_displayed()
    with serving(shutil.copytree(served, tmp_path / "centered"), centering) as centered:
        browser.get(centered)
        choice = wait(browser, lambda: by_id(browser, "query-camera"))
        wait(browser, choice.is_displayed)
        assert_fits(browser)
        by_id(browser, "file").send_keys(str(sorted(crops.iterdir())[3]))
        seen = []
        for camera in ("", "1", "2"):
            support.Select(choice).select_by_value(camera)
            seen.append(wait(browser, lambda: whole_list(browser, other_than=seen)))
        browser.save_screenshot(str(tmp_path / "camera.png"))


def test_what_is_no_image_is_told_on_the_page(browser, address, tmp_path):
    (tmp_path / "letter.png").write_text("no image")
    browser.get(address)
    browser.execute_script(f"sessionStorage.setItem('token', '{TOKEN}')")
    browser.get(address)
    wait(browser, lambda: "images" in by_id(browser, "summary").text)
    by_id(browser, "file").send_keys(str(tmp_path / "letter.png"))
    wait(browser, lambda: by_id(browser, "message").text == "cannot be decoded as an image (not an image)")


def test_uploads_that_break_off_leave_nothing_behind(address, crops):
    """Clients that vanish in the middle of a request; those after them are answered."""
    import httpx

    host, port = address.removeprefix("http://").rstrip("/").split(":")
    content = sorted(crops.iterdir())[0].read_bytes()
    boundary = "----cut"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="q.jpg"\r\n\r\n'.encode()
    body = head + content + f"\r\n--{boundary}--\r\n".encode()
    request = (
        f"POST /api/search HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    headers = {"Authorization": f"Bearer {TOKEN}"}

    def best():
        found = httpx.post(
            f"{address}api/search", headers=headers, files={"image": ("q.jpg", content)}, data={"top": 1}, timeout=30
        )
        return found.json()["hits"][0]["similarity"]

    assert best() == pytest.approx(1, abs=1e-4)
    files = Path(f"/proc/{os.getpid()}/fd")
    before = len(list(files.iterdir())) if files.is_dir() else None
    for share in range(20):
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(request[: len(request) * share // 20])
    assert best() == pytest.approx(1, abs=1e-4)
    deadline = time.monotonic() + SECONDS
    while before is not None and len(list(files.iterdir())) > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
