"""What optuna-dashboard shows of a study, asked over HTTP and seen in a browser.

Screenshots are kept in the folder that the environment variable BIOTUNE_SCREENSHOTS names, else in
the test's temporary folder.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import urlopen

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore
from torch import nn

from optuna_biotune import (
    BioTuneSampler,
    FineTuningPlan,
    RefitResult,
    make_storage,
    suggest_plan,
)
from optuna_biotune.dashboard import publish, top_trials, upload_model
from tests.conftest import BROWSERS
from tests.synthetic_study import synthetic_study

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")

BLOCKS = ("stem", "layer1", "head")
SERVER = "from optuna_dashboard._cli import main; main()"
START_TIMEOUT = 60.0
PAGE_TIMEOUT = 60.0


def objective(trial: optuna.Trial) -> float:
    plan = suggest_plan(trial, BLOCKS)
    for name, lr in plan.learning_rates(1e-3).items():
        trial.set_user_attr(f"lr/{name}", lr)
    trial.set_user_attr("mask", plan.mask)
    trial.set_user_attr("trainable_params", 1000 * len(plan.trainable))
    return float(len(plan.trainable))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def get_json(url: str) -> Any:
    with urlopen(url, timeout=10) as response:
        return json.load(response)


def wait_for(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise AssertionError(f"the dashboard stopped: {log.read_text()}")
        try:
            get_json(url)
        except URLError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"the dashboard did not answer within {START_TIMEOUT} s")


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    study = optuna.create_study(
        direction="maximize",
        study_name="flowers",
        sampler=BioTuneSampler(population_size=3, elite_size=1, seed=0),
        storage=make_storage(tmp_path / "biotune.db"),
    )
    study.optimize(objective, n_trials=5)
    return study


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the study ``biotune.db`` in a folder, with its artifacts; gives the address."""
    port = free_port()
    artifacts = folder / "artifacts"
    artifacts.mkdir(exist_ok=True)
    command = [sys.executable, "-c", SERVER, f"sqlite:///{folder}/biotune.db"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--artifact-dir", str(artifacts)]
    log = folder / "dashboard.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_for(server, f"http://127.0.0.1:{port}/api/studies", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=10)


@pytest.fixture
def dashboard(study: optuna.Study, tmp_path: Path) -> Iterator[str]:
    """Address of a dashboard that shows the study."""
    with served(tmp_path) as address:
        yield address


def test_the_dashboard_shows_our_parameters_and_user_attributes(
    study: optuna.Study, dashboard: str
) -> None:
    (summary,) = get_json(f"{dashboard}/api/studies")["study_summaries"]
    assert summary["study_name"] == "flowers"

    detail = get_json(f"{dashboard}/api/studies/{summary['study_id']}")
    assert detail["directions"] == ["maximize"]
    assert [shown["number"] for shown in detail["trials"]] == [0, 1, 2, 3, 4]
    for shown, trial in zip(detail["trials"], study.trials, strict=True):
        assert shown["state"] == "Complete"
        assert shown["values"] == trial.values
        params = {param["name"]: param["param_internal_value"] for param in shown["params"]}
        assert params == trial.params
        assert {"importance/stem", "importance/head", "freeze_threshold"} <= set(params)
        attributes = {attr["key"]: attr["value"] for attr in shown["user_attrs"]}
        assert attributes["mask"] == trial.user_attrs["mask"]
        for name in BLOCKS:
            assert float(attributes[f"lr/{name}"]) == trial.user_attrs[f"lr/{name}"]

    sortable = {attr["key"]: attr["sortable"] for attr in detail["union_user_attrs"]}
    assert sortable == {
        "mask": False,
        "trainable_params": True,
        **{f"lr/{name}": True for name in BLOCKS},
    }


# In a browser


class Page:
    """A page of the dashboard in a headless browser."""

    def __init__(self, browser: Chrome, address: str, screenshots: Path) -> None:
        self._browser = browser
        self._address = address
        self._screenshots = screenshots

    def open(self, path: str) -> None:
        self._browser.get(f"{self._address}/dashboard/studies/1{path}")

    def text(self) -> str:
        return str(self._browser.find_element("tag name", "body").text)

    def wait_until_it_shows(self, *texts: str) -> None:
        deadline = time.monotonic() + PAGE_TIMEOUT
        while missing := [text for text in texts if text not in self.text()]:
            if time.monotonic() > deadline:
                raise AssertionError(f"the page does not show {missing}, but: {self.text()}")
            time.sleep(0.2)

    def has_plot(self, title: str) -> bool:
        """Tell whether a plot has a title that begins so."""
        titles = self._browser.find_elements("css selector", ".js-plotly-plot .gtitle")
        return any(str(found.text).startswith(title) for found in titles)

    def has_plots_with_content(self) -> bool:
        """Tell whether each plot has drawn points, bars, lines or an image."""
        plots = self._browser.find_elements("css selector", ".js-plotly-plot")
        drawn = ".point, .js-line, image"
        return all(plot.find_elements("css selector", drawn) for plot in plots)

    def download_links(self) -> dict[str, str]:
        """Return file name to address of the files that the page offers for download."""
        links = self._browser.find_elements("css selector", "a[download]")
        return {
            str(link.get_attribute("download")): str(link.get_attribute("href")) for link in links
        }

    def keep_screenshot(self, name: str) -> Path:
        path = self._screenshots / f"{name}.png"
        assert self._browser.save_screenshot(str(path))
        return path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a published study with an uploaded model."""
    folder = tmp_path_factory.mktemp("published")
    study = optuna.create_study(
        direction="maximize", study_name="flowers", storage=make_storage(folder / "biotune.db")
    )
    # A file takes half a second a trial, for the attributes of each.
    study.add_trials(synthetic_study(24, prunes=True, has_baselines=True).trials)
    (best,) = top_trials(study, 1)
    plan = FineTuningPlan.from_trial(best)
    result = RefitResult(nn.Linear(4, 2), plan, 8, {"accuracy": [0.8, 0.82, 0.81]})
    (folder / "artifacts").mkdir()
    store = FileSystemArtifactStore(folder / "artifacts")
    upload_model(study, result, store, name="best", files={"report.md": "It works."})
    publish(study, results={"best plan": result})
    return folder


@pytest.fixture(scope="module")
def page(published: Path) -> Iterator[Page]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("no chromedriver on the PATH (Debian's package chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.add_argument("--window-size=1400,3600")
    screenshots = Path(os.environ.get("BIOTUNE_SCREENSHOTS", published))
    service = webdriver.chrome.service.Service(driver)
    with served(published) as address:
        browser = webdriver.Chrome(options=options, service=service)
        try:
            yield Page(browser, address, screenshots)
        finally:
            browser.quit()


@pytest.mark.browser
def test_a_browser_shows_every_plot(page: Page) -> None:
    page.open("")
    titles = ("Plans", "Evolution", "Effect of each block", "Best plan", "Lineage")
    page.wait_until_it_shows(*titles, "Trainable parameters (lower is better)")
    assert all(map(page.has_plot, (*titles, "Cost: trainable parameters", "Cost: seconds a trial")))
    assert page.has_plots_with_content()
    assert page.keep_screenshot("dashboard_plots").stat().st_size > 50_000


@pytest.mark.browser
def test_a_browser_offers_the_model_its_plan_and_further_files_for_download(page: Page) -> None:
    page.open("")
    page.wait_until_it_shows("best.safetensors", "best.plan.json", "best.report.md")
    links = page.download_links()
    texts = {name: urlopen(link, timeout=10).read() for name, link in links.items()}
    assert texts["best.report.md"] == b"It works."
    assert FineTuningPlan.from_json(texts["best.plan.json"].decode()).names
    assert len(texts["best.safetensors"]) > 4 * (4 * 2 + 2)


@pytest.mark.browser
def test_a_browser_shows_the_note_as_tables(page: Page) -> None:
    page.open("/note")
    page.wait_until_it_shows("Fine-tuning plan", "full fine-tuning", "0.810 \u00b1 0.010")
    assert "|" not in page.text()
    page.keep_screenshot("dashboard_note")


@pytest.mark.browser
def test_a_browser_shows_our_attributes_in_the_trial_table(page: Page) -> None:
    page.open("/smartSelection")
    page.wait_until_it_shows("UserAttribute mask", "TTTTTT", "UserAttribute trainable_params")
    page.keep_screenshot("dashboard_trials")
