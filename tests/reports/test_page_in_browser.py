"""The page in a real browser: nothing overflows a phone, nothing is logged, nothing is fetched."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autotune.spaces.front import pick, study_front
from autotune.spaces.study_record import StudyRecord

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
        "[...document.querySelectorAll('[role=img]')].filter(e => e.offsetHeight > 0).map(e => e.parentNode.className)"
    )
    assert visible
    assert set(visible) == {f"plot {shown}"}


BOX = "(e => { const b = e.getBoundingClientRect(); return [b.left, b.right, b.top, b.bottom]; })"


@pytest.mark.parametrize(("width", "form"), [(390, "n"), (1280, "w")])
def test_panels_of_a_schedule_stand_exactly_above_each_other(
    browser: Browser, page: Path, width: int, form: str
) -> None:
    browser.open(page, width)
    names = [f"schedule-balanced-{form}-panel-{panel}" for panel in ("time", "strip", "map")]
    boxes = [browser.value(f"{BOX}(document.getElementById('{name}'))") for name in names]
    assert boxes[0][1] - boxes[0][0] > 0.6 * min(width, 1200)
    for box in boxes[1:]:
        assert box[:2] == pytest.approx(boxes[0][:2], abs=0.2)
    assert boxes[0][3] <= boxes[1][2] + 0.2
    assert boxes[1][3] <= boxes[2][2] + 0.2


def shown_tips(browser: Browser) -> list[str]:
    tips = "[...document.querySelectorAll('.tip')].filter(e => e.offsetHeight > 0)"
    return list(browser.value(f"{tips}.map(e => e.innerText)"))


@pytest.mark.parametrize("width", [390, 1280])
def test_every_point_tells_its_figures_when_focused_and_stays_on_the_page(
    browser: Browser, page: Path, record: StudyRecord, width: int
) -> None:
    browser.open(page, width)
    assert shown_tips(browser) == []
    dots = "[...document.querySelectorAll('.dot')].filter(e => e.offsetHeight > 0)"
    n_dots = browser.value(f"{dots}.length")
    assert n_dots > len(study_front(record))
    told = []
    for i in range(n_dots):
        browser.value(f"{dots}[{i}].focus()")
        (tip,) = shown_tips(browser)
        told.append(tip)
        left, right = browser.value(f"{BOX}({dots}[{i}].nextElementSibling)")[:2]
        assert 0 <= left < right <= width
    assert browser.value("document.documentElement.scrollWidth") <= width
    for name, candidate in pick(study_front(record), record).items():
        (tip,) = (text for text in told if candidate.label in text)
        assert f"autotune export mini-flux-first --pick {name}" in tip
        assert name.upper() in tip.upper()
        assert tip.count("[") == 3  # intervals of latency, speed-up and deviation


def test_points_lie_on_their_marks_and_show_their_figures_on_hover(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    browser.value("document.querySelector('.wide .dot.pick').scrollIntoView({block: 'center'})")
    left, right, top, bottom = browser.value(f"{BOX}(document.querySelector('.wide .dot.pick'))")
    x, y = (left + right) / 2, (top + bottom) / 2
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert len(shown_tips(browser)) == 1
    below = browser.value(f"document.elementsFromPoint({x}, {y}).map(e => e.tagName)")
    assert below[0] == "BUTTON"
    assert "use" in below  # which is how matplotlib draws marks


def test_a_click_copies_the_line_and_says_so(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    for selector, line in (
        (".wide .dot.pick", "--pick fast -o fast.schedule.json"),
        ("pre .copy", "autotune export mini-flux-first --pick balanced -o balanced.schedule.json"),
    ):
        browser.value(f"document.querySelector('{selector}').click()")
        said = browser.call(
            "Runtime.evaluate", awaitPromise=True, returnByValue=True,
            expression="new Promise(r => setTimeout(() => r(document.querySelector('.status').textContent), 100))",
        )["result"]["value"]  # fmt: skip
        assert line in said
    assert browser.named("Runtime.exceptionThrown") == []


def test_without_scripts_nothing_essential_is_missing(browser: Browser, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page, 390)
        assert browser.value("document.querySelectorAll('.copy').length") == 0
        assert browser.value("document.querySelector('pre').innerText").startswith("autotune export mini-flux-first")
        browser.value("document.querySelector('.narrow .dot.pick').focus()")
        (tip,) = shown_tips(browser)
        assert "autotune export" in tip
        assert "click" not in tip
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


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
