"""The report in a real browser: pytest tests/whole/test_report_page.py -m slow"""

import re

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from benchmarks.faults.processes import run
from gpt2ft.evaluation.records import append_records
from tests.support.browser import asked_for, headless, show_as

pytestmark = pytest.mark.slow
EVIL = "</script><script>document.title = 'broken'</script><img src=x onerror=document.title='b'>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs of gpt2-mini on a small text, one of which overfits; and their pages."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "own.txt").write_text("".join(f"{n} and {n * n} are\n" for n in range(300)))
    (folder / "other.txt").write_text("It was a dark and stormy night in the old town.\n" * 20)
    flags = (
        *("--model_name_or_path", "gpt2-mini", "--train_file", "own.txt", "--block_size", "32"),
        *("--validation_file", "other.txt", "--max_steps", "24", "--eval_steps", "4"),
        *("--sample_prompts", f"It was {EVIL}", "The", "--threads", "1"),
    )
    for name, rate in (("low", "1e-4"), ("high", "1e-2")):
        done = run("train.py", *flags, "--learning_rate", rate, "--output_dir", name, cwd=folder)
        assert done.returncode == 0, done.stderr
    append_records(
        folder / "high" / "metrics.jsonl",
        *(
            {"step": step, "eval_loss": loss, "eval_perplexity": 9e3, "n_targets": 5}
            for step, loss in ((14, 1.0), (25, 9.0), (26, 10.0))
        ),
    )
    assert run("gpt2ft", "report", "high", cwd=folder).returncode == 0
    done = run("gpt2ft", "compare", "low", "high", "--html", "both.html", cwd=folder)
    assert done.returncode == 0 and "learning_rate" in done.stdout
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with headless(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


def opened(browser, path, *, width=1600, dark=False):
    show_as(browser, width=width, dark=dark)
    browser.get("about:blank")
    browser.get_log("performance")  # of the browser's own first page
    browser.get(f"file://{path}")
    WebDriverWait(browser, 20).until(
        lambda _: all(plot.find_elements(By.TAG_NAME, "path") for plot in plots(browser))
    )
    return browser


def plots(browser):
    return browser.find_elements(By.CSS_SELECTOR, "svg.plot")


def readout(plot):
    return plot.find_element(By.XPATH, "./following-sibling::p").text


@pytest.mark.parametrize("page", ["high/report.html", "both.html"])
def test_nothing_is_fetched_and_nothing_fails(page, folder, browser):
    opened(browser, folder / page)
    assert browser.get_log("browser") == []
    assert asked_for(browser) == {f"file://{folder / page}"}
    assert browser.title != "broken" and not browser.find_elements(By.TAG_NAME, "img")


@pytest.mark.parametrize("page", ["high/report.html", "both.html"])
@pytest.mark.parametrize("width", [390, 1600, 3840])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_any_width(page, width, dark, folder, browser):
    opened(browser, folder / page, width=width, dark=dark)
    root = "return document.documentElement"
    scrolled, seen = (browser.execute_script(f"{root}.{x}Width") for x in ("scroll", "client"))
    assert scrolled <= seen and width - 20 < seen <= width
    ground = browser.execute_script(
        "return getComputedStyle(document.body.parentNode).backgroundColor"
    )
    red = int(re.search(r"\d+", ground)[0])
    assert red < 50 if dark else red > 200
    for plot in plots(browser):
        assert plot.rect["width"] > 0.2 * width and plot.rect["height"] >= 160


def test_values_are_read_off_with_mouse_and_keys(folder, browser):
    opened(browser, folder / "high" / "report.html")
    loss = plots(browser)[0]
    webdriver.ActionChains(browser).move_to_element(loss).perform()
    by_mouse = readout(loss)
    assert re.match(r"step \d+: training [\d.]+, this step [\d.]+; held-out [\d.]+", by_mouse)
    browser.execute_script("arguments[0].focus()", loss)
    loss.send_keys(Keys.HOME)
    assert readout(loss).startswith("step 0: held-out ")
    loss.send_keys(Keys.ARROW_RIGHT)
    assert readout(loss).startswith("step 1: ")
    loss.send_keys(Keys.END)
    assert readout(loss).startswith("step 26: ")
    assert loss.get_attribute("aria-label").startswith("Loss, nats per token")
    assert plots(browser)[1].get_attribute("tabindex") == "0"


def test_overfitting_is_seen_at_a_glance(folder, browser):
    opened(browser, folder / "high" / "report.html")
    assert "It overfits" in browser.find_element(By.CLASS_NAME, "verdict").text
    assert plots(browser)[0].find_elements(By.CSS_SELECTOR, "rect.shade")
    assert len(plots(browser)[0].find_elements(By.CSS_SELECTOR, "circle.best")) == 1


def test_the_axis_can_be_tokens_or_seconds(folder, browser):
    opened(browser, folder / "both.html")
    loss = plots(browser)[0]
    assert len(loss.find_elements(By.TAG_NAME, "path")) == 4
    for axis in ("tokens", "seconds"):
        browser.find_element(By.CSS_SELECTOR, f'#axis option[value="{axis}"]').click()
        browser.execute_script("arguments[0].focus()", loss)
        loss.send_keys(Keys.HOME)
        assert readout(loss).startswith(f"{axis} 0: ")


def test_without_scripts_it_still_says_what_counts(folder, browser):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(f"file://{folder / 'high' / 'report.html'}")
        text = browser.find_element(By.TAG_NAME, "body").text
        for words in ("The card", "perplexity", "What it wrote", "learning_rate", "0.01"):
            assert words in text, words
        assert "drawn by the script in this page, which is off" in text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
