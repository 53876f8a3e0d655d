"""The playground in a real browser: pytest tests/whole/test_playground_page.py -m slow"""

import base64
import contextlib
import http.server
import json
import re
import threading
import time

import pytest
import torch
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from benchmarks.faults.processes import ROOT, run
from tests.support.browser import asked_for, headless, show_as
from tests.support.playground import start
from tests.support.tiny import byte_tokenizer, parrot

pytestmark = pytest.mark.slow
BEGINNING = "It was a dark and stormy night, and"
EVIL = "\x1b[2J<script>document.title='b'</script><img src=x>. "
COLOUR = re.compile(r"\bp[0-5]\b")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """gpt2-mini, fine-tuned for some steps on a text of squares."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "own.txt").write_text("".join(f"{n} and {n * n} are\n" for n in range(300)))
    flags = ("--model_name_or_path", "gpt2-mini", "--train_file", "own.txt", "--block_size", "32")
    flags += ("--max_steps", "24", "--learning_rate", "2e-3", "--output_dir", "tuned")
    done = run("train.py", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "tuned"


@contextlib.contextmanager
def served(*flags):
    process, link = start(*flags)
    try:
        yield link
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def link(tuned):
    flags = ("--max_new_tokens", "40", "--seed", "3")
    with served("--model_name_or_path", str(tuned), *flags) as link:
        yield link


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with headless(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def page(chromium, link):
    return Page(chromium, link)


class Page:
    """The page, as somebody uses it."""

    def __init__(self, browser, link, *, width=1600, dark=False):
        self.browser = browser
        show_as(browser, width=width, dark=dark)
        browser.get("about:blank")
        browser.get_log("performance"), browser.get_log("browser")
        browser.get(link)
        self.until(lambda: self.all("body.ready"))

    def __getitem__(self, name):
        return self.browser.find_element(By.ID, name)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def until(self, condition, seconds=30):
        return WebDriverWait(self.browser, seconds, 0.05).until(lambda _: condition())

    def click(self, name):
        self[name].click()

    def type(self, text):
        self["box"].clear()
        self["box"].send_keys(text)

    def ended(self):
        return self["write"].is_displayed() and self.all(".token")

    def write(self, text=None):
        if text is not None:
            self.type(text)
        self.click("write")
        self.until(lambda: self["stop"].is_displayed() or self.ended())
        self.until(self.ended)
        return self.texts()

    def texts(self):
        """What is in each column; side by side the beginning stands above, in the box."""
        return [body.get_property("textContent") for body in self.all(".body")]

    def states(self):
        return [state.text for state in self.all(".state")]

    def tokens(self):
        return [token.get_property("textContent") for token in self.all(".token")]

    def coloured(self):
        return [t for t in self.all(".token") if COLOUR.search(t.get_attribute("class"))]

    def press(self, *keys):
        webdriver.ActionChains(self.browser).send_keys(*keys).perform()

    def focused(self, attribute):
        return self.browser.switch_to.active_element.get_attribute(attribute)

    def set(self, name, value):
        self.browser.execute_script(
            "const input = document.getElementById(arguments[0]); input.value = arguments[1];"
            "input.dispatchEvent(new Event('input', {bubbles: true}))",
            name if name == "seed" else f"setting-{name}",
            value,
        )


def test_it_writes_in_colours_and_fetches_nothing_from_elsewhere(page, link):
    (text,) = page.write(BEGINNING)
    assert text.startswith(BEGINNING) and len(text) > len(BEGINNING) + 20
    tokens = page.all(".token")
    assert len(tokens) == 40
    kinds = {COLOUR.search(token.get_attribute("class"))[0] for token in tokens}
    assert len(kinds) > 2
    assert [span.text for span in page.all(".you")] == [BEGINNING]
    (state,) = page.states()
    assert re.fullmatch(r"40 tokens, [\d.]+ a second; max_new_tokens reached; seed \d+", state)
    files = {path.name for path in (ROOT / "gpt2ft" / "playground" / "page").iterdir()}
    assert {url for url in asked_for(page.browser) if not url.startswith("data:")} == {
        link,
        *(f"{link}page/{name}" for name in files - {"index.html"}),
        *(f"{link}api/{name}" for name in ("state", "write")),
    }
    assert page.browser.get_log("browser") == []


def test_it_is_the_text_of_generate(page, tuned):
    page.set("seed", "5")
    (text,) = page.write(BEGINNING)
    flags = ("--model_name_or_path", str(tuned), "--max_new_tokens", "40", "--seed", "5")
    assert run("generate.py", *flags, "-p", BEGINNING, cwd=ROOT).stdout == f"{text}\n"


def test_settings_count(page, tuned):
    page.click("open-settings")
    page.all("summary")[0].click()
    page["setting-do_sample"].click()
    page.set("max_new_tokens", "12")
    (text,) = page.write(BEGINNING)
    flags = ("--model_name_or_path", str(tuned), "--max_new_tokens", "12", "--greedy")
    assert run("generate.py", *flags, "-p", BEGINNING, cwd=ROOT).stdout == f"{text}\n"
    page.set("temperature", "-1")
    page.click("write")
    page.until(lambda: "temperature is -1" in page.states()[0])
    page.click("defaults")
    assert page["setting-max_new_tokens"].get_property("value") == "40"


def test_stop_keeps_what_came_and_frees_the_model(page):
    page.set("max_new_tokens", "100000")
    page.type(BEGINNING)
    page.click("write")
    page.until(lambda: len(page.all(".token")) > 5)
    page.click("stop")
    page.until(page.ended)
    n = len(page.all(".token"))
    assert page.states()[0].startswith("stopped")
    page.set("max_new_tokens", "3")
    page.write()
    assert len(page.all(".token")) == n + 3


def test_retry_has_the_next_seed_and_undo_brings_back(page):
    page.set("seed", "5")
    (first,) = page.write(BEGINNING)
    page.click("retry")
    page.until(lambda: page.ended() and "seed 6" in page.states()[0])
    (second,) = page.texts()
    assert second != first and second.startswith(BEGINNING)
    page.click("undo")
    assert page.texts() == [first]
    page.click("undo")
    assert page["box"].is_displayed() and page["box"].get_property("value") == BEGINNING
    assert not page["undo"].is_enabled()


def test_without_a_seed_each_text_has_a_new_one(page):
    page.set("seed", "")
    (first,) = page.write(BEGINNING)
    (seed,) = re.findall(r"seed (\d+)", page.states()[0])
    page.click("undo")
    (second,) = page.write()
    assert first != second and f"seed {seed}" not in page.states()[0]
    page.click("undo")
    page.set("seed", seed)
    assert page.write() == [first]
    page.set("seed", "one")
    page.click("write")
    page.until(lambda: "the seed is a whole number from 0 on, not one" in page["status"].text)


def test_a_text_is_edited_and_goes_on_from_there(page):
    (text,) = page.write(BEGINNING)
    page.click("edit")
    assert page["box"].get_property("value") == text
    page["box"].send_keys(" And then")
    (longer,) = page.write()
    assert longer.startswith(f"{text} And then") and len(page.all(".token")) == 80
    assert [span.text.strip() for span in page.all(".you")] == [BEGINNING, "And then"]
    page.write()
    assert len(page.all(".token")) == 120
    page.click("edit")
    caret = f"document.activeElement.setSelectionRange({len(BEGINNING)}, {len(BEGINNING)})"
    page.browser.execute_script(caret)
    page.press(
        " never", Keys.ESCAPE
    )  # back to the text, in which what was not changed is what it was
    assert [span.text.strip() for span in page.all(".you")] == [BEGINNING, "never", "And then"]
    assert len(page.all(".token")) == 120 and not page.coloured()
    page.write()  # what follows the last that was typed is read anew
    page.until(lambda: len(page.all(".token")) == 160)
    assert len(page.coloured()) == 120
    assert len(page.all(".you:last-of-type")) == 0  # tokens are behind it


def test_what_was_not_changed_stays_what_it_was(page):
    """Random changes of a text: the spans are the text, and all of them outside the change stay."""
    failed = page.browser.execute_async_script(
        """
        const [done] = arguments;
        (async () => {
          const { edited, textOf, beginning } = await import("/page/text.js");
          let state = 1;
          const random = (n) => (state = (state * 48271) % 2147483647) % n;
          const end = () => ["", " ", "\\u{1F600}", "\\n", "\\r"][random(5)];
          for (let round = 0; round < 3000; round++) {
            const spans = Array.from({ length: random(7) }, (_, id) => random(3)
              ? { text: `${id}${end()}`, ids: [id], probability: 0.5, by: "model" }
              : { text: `${id}${end()}`, ids: [], probability: null, by: "you" });
            const box = textOf(spans).replaceAll("\\r", "\\n");
            const from = random(box.length + 1), to = from + random(box.length + 1 - from);
            const text = box.slice(0, from) + ["", "+", "+-"][random(3)] + box.slice(to);
            const found = edited(spans, text);
            const kept = found.filter((span) => span.by === "model");
            const { prompt, fixed } = beginning(found);
            const tail = found.slice(found.findLastIndex((span) => span.by !== "model") + 1);
            let at = 0, before = 0, after = 0;
            for (const span of spans) {
              const start = at;
              at += span.text.length;
              if (span.by === "model" && at <= from) before++;
              else if (span.by === "model" && start >= to) after++;
            }
            const right = [textOf(found).replaceAll("\\r", "\\n") === text,
              prompt + textOf(tail) === textOf(found), kept.length >= before + after,
              fixed.length === tail.length, text !== box || found === spans];
            if (right.includes(false)) return done(JSON.stringify({ right, spans, text, found }));
          }
          done("");
        })().catch((error) => done(String(error)));
        """
    )
    assert failed == ""


def test_another_token_is_taken_with_the_mouse(page):
    page.write(BEGINNING)
    tokens = page.all(".token")
    before = [token.get_property("textContent") for token in tokens]
    tokens[6].click()
    choices = page.until(lambda: page.all(".choice"))
    assert len(choices) == 10
    shares = [choice.find_element(By.CLASS_NAME, "share").text for choice in choices]
    assert all(re.fullmatch(r"(under )?[\d.]+ %", share) for share in shares)
    other = next(choice for choice in choices[1:] if not choice.get_attribute("aria-current"))
    shown = other.find_element(By.CLASS_NAME, "what").text
    other.click()
    page.until(lambda: page.ended() and len(page.all(".token")) == 47)
    now = [token.get_property("textContent") for token in page.all(".token")]
    assert now[:6] == before[:6]
    assert now[6].replace(" ", "\u2423").replace("\n", "\u21b5") == shown
    page.click("undo")
    assert [token.get_property("textContent") for token in page.all(".token")] == before


def test_all_of_it_by_keyboard(page):
    page.press(BEGINNING)  # the box has the focus from the start
    keys = webdriver.ActionChains(page.browser)
    keys.key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
    page.until(page.ended)
    before = page.texts()
    for _ in range(20):
        if page.focused("data-index"):
            break
        page.press(Keys.TAB)
    assert page.focused("data-index") == "1"  # span 0 is the beginning
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert page.focused("data-index") == "2"
    assert page["share"].text == page.focused("data-share") != ""
    page.press(Keys.ENTER)
    page.until(lambda: page.all(".choice"))
    page.press(Keys.ESCAPE)
    assert not page["choices"].is_displayed() and page.texts() == before
    assert page.focused("data-index") == "2"
    page.press(Keys.ENTER)
    page.until(lambda: "choice" in (page.focused("class") or ""))
    here = page.focused("textContent")
    page.press(Keys.HOME)
    if page.focused("textContent") == here:  # another than what was written
        page.press(Keys.ARROW_DOWN)
    page.press(Keys.ENTER)
    page.until(lambda: page.ended() and page.texts() != before)
    page.until(lambda: len(page.all(".token")) == 42)
    page.set("max_new_tokens", "100000")
    keys.key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
    page.until(lambda: len(page.all(".token")) > 45)
    page.press(Keys.ESCAPE)
    page.until(page.ended)
    assert page.states()[0].startswith("stopped")


def test_two_models_write_side_by_side(page, tuned):
    page.set("seed", "5")
    page.click("compare")
    page.write(BEGINNING)
    page.until(lambda: all("seed 5" in state for state in page.states()))
    texts = page.texts()
    for name, text in zip((str(tuned), "gpt2-mini"), texts, strict=True):
        flags = ("--model_name_or_path", name, "--max_new_tokens", "40", "--seed", "5")
        done = run("generate.py", *flags, "-p", BEGINNING, cwd=ROOT)
        assert done.stdout == f"{BEGINNING}{text}\n"
    left, right = page.all(".column")
    assert left.rect["y"] == right.rect["y"] and left.rect["x"] < right.rect["x"]
    show_as(page.browser, width=390, dark=False)
    assert left.rect["x"] == right.rect["x"] and left.rect["y"] < right.rect["y"]
    assert page["box"].get_property("value") == BEGINNING
    (other,) = set(page.write("The old house")) - set(texts) - {page.texts()[0]}
    page.click("compare")
    assert other not in page.texts()[0] and page.texts()[0].startswith("The old house")


def test_the_other_model_begins_where_the_first_did(page):
    """When it is let in after the first has written."""
    page.set("seed", "5")
    (first,) = page.write(BEGINNING)
    page.click("compare")
    page.until(lambda: len(page.all(".column")) == 2 and page.ended())
    page.until(lambda: all("seed 5" in state for state in page.states()))
    texts = page.texts()
    assert BEGINNING + texts[0] == first and texts[1] not in ("", texts[0])
    page.click("undo")
    assert page.texts() == [first] and not page["compare"].is_selected()


def test_a_link_brings_the_text_again_even_from_another_server(chromium, tuned):
    flags = ("--model_name_or_path", str(tuned), "--max_new_tokens", "30", "--port", "23571")
    flags += ("--seed", "3")
    with served(*flags) as link:
        page = Page(chromium, link)
        page.set("temperature", "1.3")
        page.click("compare")
        page.write(BEGINNING)
        page.all(".token")[9].click()
        page.until(lambda: page.all(".choice:not([aria-current])"))[3].click()
        page.until(lambda: page.ended() and len(page.all(".column:first-child .token")) == 40)
        texts = page.texts()
        page.click("link")
        page.until(lambda: "The link is" in page["status"].text)
        address = page.browser.current_url
        assert address.startswith(f"{link}#")
        page.browser.switch_to.new_window("tab")
        again = Page(page.browser, address)
        again.until(lambda: again.ended() and again.texts() == texts)
        assert again["setting-temperature"].get_property("value") == "1.3"
        assert again.coloured() == again.all(".token")
        assert all("#" not in url for url in asked_for(again.browser))  # it stays in the browser
        page.browser.close()
        page.browser.switch_to.window(page.browser.window_handles[0])
    with served(*flags) as link:
        again = Page(chromium, address)
        again.until(lambda: again.ended() and again.texts() == texts)


def test_a_link_brings_an_edited_text_that_nothing_was_drawn_for(page):
    page.write(BEGINNING)
    page.click("edit")
    caret = f"document.activeElement.setSelectionRange({len(BEGINNING)}, {len(BEGINNING)})"
    page.browser.execute_script(caret)
    page.press(" never")
    page.click("link")
    page.until(lambda: "The link is" in page["status"].text)
    texts = page.texts()
    again = Page(page.browser, page.browser.current_url)
    again.until(lambda: len(again.coloured()) == 40 and again["write"].is_displayed())
    assert again.texts() == texts and again.states() == [""]
    assert not again["retry"].is_enabled()


def test_a_text_goes_on_behind_a_stop_string(page):
    page.click("open-settings")
    page.all("summary")[0].click()
    page.set("stop_strings", "e")
    page.click("compare")
    first = page.write(BEGINNING)
    assert all("a stop string ended it" in state for state in page.states())
    assert not any("e" in text for text in first)
    page.set("stop_strings", "")
    second = page.write()
    for one, other in zip(first, second, strict=True):
        assert other.startswith(one) and len(other) > len(one) + 20
    page.click("undo")
    assert page.texts() == first
    assert page["box"].get_property("value") == BEGINNING


def test_a_text_can_begin_with_nothing(page):
    (text,) = page.write("")
    assert text and len(page.all(".token")) == 40 and not page.all(".you")
    (longer,) = page.write()
    assert longer.startswith(text) and len(page.all(".token")) == 80


def test_a_damaged_link_is_said(chromium, link):
    page = Page(chromium, f"{link}#eyJ2IjoxLCJ0dXJu")
    page.until(lambda: "the link is damaged" in page["status"].text)
    page.write(BEGINNING)


def test_a_conversation(chromium):
    flags = ("--model_name_or_path", "gpt2-mini", "--chat", "--max_new_tokens", "20")
    with served(*flags, "--seed", "2") as link:
        page = Page(chromium, link)
        page.click("form-chat")
        page["box"].send_keys("Who are you?", Keys.ENTER)
        page.until(page.ended)
        (answer,) = page.texts()
        done = run("generate.py", *flags, "--seed", "2", "-p", "Who are you?", cwd=ROOT)
        assert done.stdout == f"Who are you?\n{answer}\n"
        page["box"].send_keys("And then?", Keys.ENTER)
        page.until(lambda: page.ended() and len(page.all(".turn")) == 2)
        page.until(lambda: len(page.all(".turn:last-child .token")) == 20)
        texts = page.texts()
        page.click("link")
        page.until(lambda: "The link is" in page["status"].text)
        again = Page(chromium, page.browser.current_url)
        again.until(lambda: again.ended() and again.texts() == texts)
        again.click("reset")
        assert again.texts() == []


def test_who_waits_is_told_and_a_closed_tab_lets_others_come(page, link):
    page.set("max_new_tokens", "100000")
    page.type(BEGINNING)
    page.click("write")
    page.until(lambda: len(page.all(".token")) > 2)
    browser = page.browser
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    second = browser.current_window_handle
    other = Page(browser, link)
    other.type("The")
    other.click("write")
    other.until(lambda: other.states() == ["1 text is before this one"])
    browser.switch_to.window(first)
    browser.close()
    browser.switch_to.window(second)
    other.until(other.ended)


def test_what_a_model_writes_is_harmless(chromium, tmp_path):
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    model = parrot(tokenizer, EVIL * 3)
    model.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    flags = ("--model_name_or_path", str(tmp_path), "--greedy", "--max_new_tokens", "110")
    with served(*flags) as link:
        page = Page(chromium, link)
        (text,) = page.write(EVIL[-8:])
        assert "\u241b[2J<script>document.title" in text and "<img src=x" in text
        assert "\x1b" not in text
        page.all(".token")[0].click()
        page.until(lambda: page.all(".choice"))
        assert page.browser.title.endswith("gpt2ft") and not page.all("img")
        assert len(page.all("script")) == 1
        assert page.browser.get_log("browser") == []


class Stranger(http.server.BaseHTTPRequestHandler):
    """A page of another origin that calls the playground in each way that a browser lets it."""

    playground = ""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(
            f"""<!doctype html><title>stranger</title><pre id="log"></pre>
            <form method="post" action="{self.playground}api/write" enctype="text/plain" target="x">
            <input name='{{"prompt":"form","a":"' value='"}}'></form><iframe name="x"></iframe>
            <iframe id="framed" src="{self.playground}"></iframe>
            <script>(async () => {{
              const kinds = {{"Content-Type": "application/json"}}, body = '{{"prompt":"fetch"}}';
              const url = "{self.playground}api/write", said = [];
              for (const options of [{{method: "POST", body, mode: "no-cors"}},
                {{method: "POST", body, headers: kinds}}, {{}}]) {{
                said.push(await fetch(url.replace("write", options.body ? "write" : "state"),
                  options).then((r) => r.type + r.status, (e) => "refused"));
              }}
              document.forms[0].submit();
              log.textContent = said.join(" ");
            }})();</script>""".encode()
        )

    def log_message(self, *_):
        pass


def test_a_page_of_another_origin_is_refused(chromium, link):
    Stranger.playground = link
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        chromium.get_log("performance")
        chromium.get(f"http://127.0.0.1:{server.server_port}/")
        log = chromium.find_element(By.ID, "log")
        WebDriverWait(chromium, 20).until(lambda _: log.text)
        assert log.text == "refused refused refused"
        time.sleep(1)
        answers = [
            entry["message"]
            for entry in chromium.get_log("performance")
            if '"Network.responseReceived"' in entry["message"] and "/api/" in entry["message"]
        ]
        statuses = {int(s) for text in answers for s in re.findall(r'"status":(\d+)', text)}
        assert statuses and statuses <= {403, 405, 415}
        chromium.switch_to.frame("framed")
        assert not chromium.find_elements(By.ID, "box")  # in no frame of others
    finally:
        chromium.switch_to.default_content()
        server.shutdown()
        server.server_close()
    assert Page(chromium, link).write(BEGINNING)


def test_with_a_token_the_whole_link_is_needed(chromium):
    flags = ("--model_name_or_path", "gpt2-mini", "--host", "127.0.0.2", "--max_new_tokens", "9")
    with served(*flags) as link:
        address, token = link.split("?token=")
        page = Page(chromium, link)
        assert page.write(BEGINNING)[0].startswith(BEGINNING)
        page.click("link")
        assert chromium.current_url.startswith(f"{link}#")
        texts = page.texts()
        again = Page(chromium, chromium.current_url)
        again.until(lambda: again.ended() and again.texts() == texts)
        chromium.get(address)
        assert "open the whole link that was printed" in chromium.page_source
        assert token not in chromium.page_source


def test_a_server_that_has_gone_is_said(chromium):
    with served("--model_name_or_path", "gpt2-mini") as link:
        page = Page(chromium, link)
        page.set("max_new_tokens", "100000")
        page.type(BEGINNING)
        page.click("write")
        page.until(lambda: len(page.all(".token")) > 5)
    gone = "error: the server does not answer; is generate.py still running?"
    page.until(lambda: page.states() == [gone])
    page.click("retry")
    page.until(lambda: page["write"].is_displayed() and page.states() == [gone])


def test_a_link_of_other_models_and_settings_is_said(page, link):
    column = {"model": 1, "name": "another", "prompt": "It was", "text": "", "fixed": [], "n": 3}
    content = {"v": 1, "form": "text", "box": "", "settings": {"temperature": "hot", "heat": 1}}
    content["turns"] = [{"question": "", "columns": [{**column, "seed": 4}]}]
    code = base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
    page.browser.execute_script(f"location.hash = '{code}'")
    page.until(lambda: "written by another" in page["status"].text and page.ended())
    assert len(page.all(".token")) == 3 and "gpt2-mini" in page.all(".column h2")[0].text
    for words in ("setting temperature of", "setting heat of", "its text may be another"):
        assert words in page["status"].text
    for wrong in ({"v": 2}, {"turns": [{}]}, {"turns": [{"question": "", "columns": []}]}):
        code = base64.urlsafe_b64encode(json.dumps({**content, **wrong}).encode()).decode()
        page.browser.execute_script(f"location.hash = '{code.rstrip('=')}'")
        page.until(lambda: "the link is damaged" in page["status"].text)
        page.browser.execute_script("document.getElementById('status').textContent = ''")


def test_the_colours_can_be_off(page):
    page.write(BEGINNING)
    band = "return getComputedStyle(document.querySelector('.p4 .band, .p3 .band')).backgroundImage"
    assert "rgb(" in page.browser.execute_script(band)
    page.click("colours")
    assert "rgb(" not in page.browser.execute_script(band)
    assert not page["legend"].is_displayed()


CONTRASTS = """
const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (colour) => parts(colour).slice(0, 3).map((c) => c / 255)
  .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (element) => {
  const { backgroundColor } = getComputedStyle(element);
  return parts(backgroundColor)[3] === 0 ? ground(element.parentElement) : backgroundColor;
};
const found = [];
for (const element of document.querySelectorAll("body *:not(script, noscript, noscript *)")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility() || element.closest(":disabled")) continue;
  const both = [light(getComputedStyle(element).color), light(ground(element))];
  const contrast = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
  found.push([contrast, element.outerHTML.slice(0, 80)]);
}
return found;
"""


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_can_be_read_and_every_control_has_a_name(chromium, link, dark):
    page = Page(chromium, link, dark=dark)
    page.click("open-settings")
    page.all("summary")[0].click()
    page.write(BEGINNING)
    page.all(".token")[5].click()
    page.until(lambda: page.all(".choice"))
    contrasts = chromium.execute_script(CONTRASTS)
    assert len(contrasts) > 60 and min(contrasts)[0] >= 4.5, min(contrasts)
    nodes = chromium.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = ("button", "textbox", "slider", "spinbutton", "checkbox", "dialog", "list")
    controls = [node for node in nodes if node.get("role", {}).get("value") in roles]
    assert len(controls) > 60
    assert not [node for node in controls if not node.get("name", {}).get("value")]


def test_nothing_moves_for_those_who_do_not_want_it(page):
    feature = {"name": "prefers-reduced-motion", "value": "reduce"}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    page.set("max_new_tokens", "100000")
    page.type(BEGINNING)
    page.click("write")
    page.until(lambda: page.all(".busy .token"))
    caret = (
        "return getComputedStyle(document.querySelector('.busy .body'), '::after').animationName"
    )
    assert page.browser.execute_script(caret) == "none"
    page.click("stop")
    page.until(page.ended)


# 320 and 800 are a phone and a wide screen that are zoomed.
@pytest.mark.parametrize("width", [320, 390, 800, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_a_wide_screen(chromium, link, width, dark, tmp_path):
    page = Page(chromium, link, width=width, dark=dark)
    page.click("compare")
    page.write(BEGINNING)
    for name in ("settings", "choices"):
        root = "return document.documentElement"
        scrolled, seen = (chromium.execute_script(f"{root}.{x}Width") for x in ("scroll", "client"))
        assert scrolled <= seen and width - 20 < seen <= width, name
        if name == "settings":
            page.click("open-settings")
            assert page["settings"].is_displayed()
            page.click("close-settings")
            page.all(".token")[5].click()
            page.until(lambda: page.all(".choice"))
    box = page["choices"].rect
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    inside = "const box = arguments[0].getBoundingClientRect(); return [box.top, box.bottom]"
    top, bottom = chromium.execute_script(inside, page["choices"])
    assert 0 <= top < bottom <= 1000
    ground = chromium.execute_script(
        "return getComputedStyle(document.documentElement).backgroundColor"
    )
    red = int(re.search(r"\d+", ground)[0])
    assert red < 50 if dark else red > 200
