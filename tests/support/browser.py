"""Opens a page in a Chromium of the system, and watches what it asks for and what goes wrong in it."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Page, Route, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120_000  # milliseconds: of a machine that does other things, too
LOCAL = ("file:", "data:", "blob:", "about:")


@dataclass
class Visit:
    """An open page with all that it asked for since it was opened."""

    page: Page
    requests: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)  # the requests that would have left the machine
    errors: list[str] = field(default_factory=list)  # of the console, and exceptions that nothing caught


@contextmanager
def visit(
    address: str,
    origins: Sequence[str] = (),
    size: tuple[int, int] = (1280, 900),
    javascript: bool = True,
    touch: bool = False,
    ignore: Sequence[str] = (),
) -> Iterator[Visit]:
    """Opens `address`; afterwards fails the test on any error in the page and on any request to somewhere else.

    Skips the test where there is no Chromium, unless UDASEG_REQUIRE_BROWSER is 1.

    Args:
        address: a file: address, or one of `origins`.
        origins: what may be asked beside files, as "http://127.0.0.1:5000". All else is aborted.
        size: width and height of the window in CSS pixels.
        javascript: whether scripts run.
        touch: whether the page sees a touch screen.
        ignore: texts that make an error one of those that are known and harmless.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=FLAGS, timeout=PATIENCE)
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, java_script_enabled=javascript, has_touch=touch
        )
        context.set_default_timeout(PATIENCE)
        watched = Visit(context.new_page())

        def is_allowed(url: str) -> bool:
            return url.startswith(LOCAL) or any(url == origin or url.startswith(f"{origin}/") for origin in origins)

        def gate(route: Route) -> None:
            if is_allowed(route.request.url):
                route.continue_()
            else:
                route.abort()

        def asked(url: str) -> None:
            watched.requests.append(url)
            if not is_allowed(url):
                watched.foreign.append(url)

        def wrong(text: str) -> None:
            if not any(known in text for known in ignore):
                watched.errors.append(text)

        context.route("**/*", gate)
        context.on("request", lambda request: asked(request.url))
        watched.page.on("websocket", lambda socket: asked(socket.url))
        context.on("console", lambda message: wrong(message.text) if message.type == "error" else None)
        context.on("weberror", lambda error: wrong(str(error.error)))
        try:
            watched.page.goto(address)
            yield watched
            assert watched.foreign == [], "asked for something outside this machine"
            assert watched.errors == [], "errors in the page"
        finally:
            browser.close()


def executable() -> str:
    """The path of a Chromium; skips the test, or fails it where one must be there, if there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        message = f"no Chromium: none of {', '.join(NAMES)} is on the path; Debian: apt-get install chromium"
        if os.environ.get("UDASEG_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return found
