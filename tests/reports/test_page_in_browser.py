"""The page in a real browser: nothing overflows a phone, nothing is logged, nothing is fetched."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs a browser at {CHROMIUM}")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """Headless Chromium, driven over a pair of pipes with the DevTools protocol."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._write = to_browser
        self._read = os.fdopen(from_browser, "rb", buffering=0)
        self._rest = b""
        self._n = 0
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = self._read.read(1 << 16)
            assert data, "the browser has ended"
            self._rest += data
        message, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(message))

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """The result of a DevTools method; events that arrive meanwhile are kept."""
        self._n += 1
        message: dict[str, object] = {"id": self._n, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._n:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def open(self, page: Path, width: int, *, dark: bool = False) -> None:
        """Load a file at a window width in CSS pixels, in the light or the dark colour scheme."""
        self.events.clear()
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        """The JSON value of a script expression on the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def named(self, method: str) -> list[dict[str, Any]]:
        """Parameters of all events of a kind since the page was opened."""
        return [event["params"] for event in self.events if event.get("method") == method]


@contextlib.contextmanager
def running_browser(profile: Path) -> Iterator[Browser]:
    """A browser with its own profile folder, ended on leaving."""
    commands, to_browser = os.pipe()
    from_browser, answers = os.pipe()

    def connect() -> None:
        spare = [os.dup(fd) for fd in (commands, answers)]  # neither may be 3 or 4 already
        os.dup2(spare[0], 3)
        os.dup2(spare[1], 4)

    process = subprocess.Popen(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"],
        preexec_fn=connect, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(commands)
    os.close(answers)
    try:
        yield Browser(to_browser, from_browser)
    finally:
        process.terminate()
        process.wait(20)
        os.close(to_browser)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(files["report.html"])
    return path


@pytest.mark.parametrize("width", [360, 390, 700, 1280])
def test_page_never_scrolls_sideways(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width


def test_page_logs_nothing_and_fetches_nothing(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    assert browser.named("Log.entryAdded") == []
    assert browser.named("Runtime.consoleAPICalled") == []
    assert browser.named("Runtime.exceptionThrown") == []
    fetched = {event["request"]["url"] for event in browser.named("Network.requestWillBeSent")}
    assert {url for url in fetched if not url.startswith("data:")} == {page.resolve().as_uri()}


def test_every_image_decodes(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    widths = browser.value("[...document.images].map(i => i.naturalWidth)")
    assert len(widths) >= 2
    assert min(widths) > 0


@pytest.mark.parametrize(("width", "shown"), [(390, "narrow"), (1280, "wide")])
def test_each_figure_is_shown_in_one_form_only(browser: Browser, page: Path, width: int, shown: str) -> None:
    browser.open(page, width)
    visible = browser.value(
        "[...document.querySelectorAll('[role=img]')].filter(e => e.offsetHeight > 0).map(e => e.className)"
    )
    assert visible
    assert set(visible) == {shown}


def test_dark_scheme_swaps_ink_and_paper_of_the_figures(browser: Browser, page: Path) -> None:
    def ink() -> tuple[str, str]:
        text = "getComputedStyle(document.querySelector('.wide svg [style*=\"--ink\"]'))"
        return browser.value(f"{text}.fill + {text}.stroke"), browser.value(
            "getComputedStyle(document.body).backgroundColor"
        )

    browser.open(page, 1280)
    light = ink()
    browser.open(page, 1280, dark=True)
    dark = ink()
    assert light[0] != dark[0]
    assert light[1] != dark[1]
