"""A real browser, and what went wrong in it."""

import shutil
from dataclasses import dataclass, field

import pytest


@dataclass
class Watched:
    """A page of the browser, with everything that it asked for and complained of."""

    page: object
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        self.page.on("console", self._heard)

    def _heard(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def asked_elsewhere(self, origin):
        """Requests beyond the page's own address, or those below it."""
        return [u for u in self.requests if not u.startswith((origin, "data:", "blob:"))]


@pytest.fixture(scope="session")
def chromium():
    """Debian's Chromium without a window; one for all tests of a process."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium to open pages with: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def watched(chromium):
    """A fresh page that is watched."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(180_000)
    yield Watched(context.new_page())
    context.close()
