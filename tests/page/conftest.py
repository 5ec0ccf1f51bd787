"""Headless Chromium, and pages of generated results and of a real run: the demo's, or a small one's."""

import os
import shutil
from pathlib import Path

import pytest

from gateau.report_page.page import make_page
from page_results import make_results

from helpers import ROOT, small_config, snakemake

DEMO = ROOT / "results/demo"
AXE = Path(os.environ.get("AXE_CORE", ROOT / ".venv/axe/node_modules/axe-core/axe.min.js"))


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium: that of the system, or else the one that playwright installed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def real_results(directory):
    """The results of the demo, or else of a small run that scores, selects and trains nothing."""
    if (DEMO / "scores/scores.parquet").is_file():
        return DEMO
    experiments = {"gateau": {}, "gateau_robust": {"method": "gateau_robust"}}
    config = small_config(directory, experiments=experiments, train={"experiments": "none"})
    result = snakemake(directory, config, "results/report_page/index.html")
    assert result.returncode == 0, result.stdout
    return directory / "results"


@pytest.fixture(scope="session", params=["generated", "real"])
def results(request, tmp_path_factory):
    """A results folder, and the page made of it. Returns (folder, page)."""
    directory = tmp_path_factory.mktemp("run")
    folder = real_results(directory) if request.param == "real" else make_results(directory / "results")
    page = tmp_path_factory.mktemp("page") / "index.html"
    page.write_text(make_page(folder, page), encoding="utf-8")
    return folder, page


@pytest.fixture
def opened(browser, results):
    """A function that opens the page in a window of a width, height and scheme. Errors and requests fail the test."""
    _, path = results
    contexts, wrong = [], []

    def open_page(width=1440, height=1000, scheme="light", file=path):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or wrong.append(request.url)
        )
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready=true]", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def axe():
    """The source of axe-core."""
    assert AXE.is_file(), f"{AXE} is missing: make test-page installs it"
    return AXE.read_text(encoding="utf-8")
