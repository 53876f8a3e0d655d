// How spans of a text are shown: each token of the model on a band in the colour of its probability.

const LEAST = [0.5, 0.2, 0.05, 0.01, 0.001]; // probabilities of the colours p0 to p4, p5 is below

// Characters that nobody sees, or that would turn the text around, as signs.
export function shown(text) {
  return text
    .replace(/[\x00-\x08\x0b-\x1f]/g, (c) => String.fromCodePoint(0x2400 + c.codePointAt(0)))
    .replace(/\x7f/g, "\u2421")
    .replace(/[\x80-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]/g, named);
}

function named(c) {
  return `\u27e8U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
}

// Also spaces and line ends as signs, for a token that stands alone.
export function visible(text) {
  return shown(text).replaceAll(" ", "\u2423").replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5");
}

export function percent(probability) {
  if (probability === null) return "";
  const share = 100 * probability;
  const digits = share >= 10 ? 0 : share >= 0.1 ? 1 : 3;
  return share >= 0.001 ? `${share.toFixed(digits)} %` : "under 0.001 %";
}

export function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function colour(probability) {
  if (probability === null) return "";
  const place = LEAST.findIndex((least) => probability >= least);
  return `p${place < 0 ? LEAST.length : place}`;
}

// The element of a span. One of tokens can be reached and opened; it has the number of the span.
export function spanElement(span, index) {
  if (span.by !== "model") return make("span", span.by, shown(span.text));
  const element = make("span", `token ${colour(span.probability)}`);
  const [space] = span.text.trim() ? span.text.match(/^ */) : [""]; // at the end of a line no band stands below it
  element.append(space, make("span", "band", shown(span.text.slice(space.length))));
  if (/^\n+$/.test(span.text)) element.classList.add("newline");
  if (span.text === "") {
    element.classList.add("end");
    element.textContent = "end of text";
  }
  if (!span.ids.length) return element; // the rest of a token that stands before it
  element.dataset.index = index;
  element.dataset.share = percent(span.probability);
  element.tabIndex = -1;
  element.setAttribute("role", "button");
  element.setAttribute("aria-haspopup", "dialog");
  element.setAttribute("aria-label", `${span.text === "" ? "end of text" : visible(span.text)} ${percent(span.probability)}`);
  return element;
}

// Arrow keys move between the tokens of a text; the Tab key comes to the one that had the focus last.
export function moveByKeys(body) {
  body.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = [...body.querySelectorAll(".token[tabindex]")];
    const here = all.indexOf(document.activeElement);
    if (here < 0) return;
    all[Math.max(0, Math.min(all.length - 1, here + steps[event.key]))].focus();
    event.preventDefault();
  });
  body.addEventListener("focusin", (event) => {
    for (const old of body.querySelectorAll(".token[tabindex='0']")) old.tabIndex = -1;
    event.target.tabIndex = 0;
  });
}

// The probability of the token that has the focus or the mouse, above it.
export function showShares(place, bubble) {
  const show = (event) => {
    const token = event.target.closest?.(".token[data-share]");
    bubble.hidden = !token?.dataset.share || token.matches(".opened");
    if (bubble.hidden) return;
    bubble.textContent = token.dataset.share;
    const [box] = token.getClientRects();
    const last = document.documentElement.clientWidth - bubble.offsetWidth - 4;
    bubble.style.left = `${scrollX + Math.max(4, Math.min(last, box.left))}px`;
    bubble.style.top = `${scrollY + box.top - bubble.offsetHeight - 2}px`;
  };
  for (const kind of ["pointerover", "focusin"]) place.addEventListener(kind, show);
  const hide = () => (bubble.hidden = true);
  for (const kind of ["pointerleave", "focusout", "click"]) place.addEventListener(kind, hide);
  addEventListener("scroll", hide);
}
