// A text on the page: what was typed, and each token of the model in the colour of its probability.

const LEAST = [0.5, 0.2, 0.05, 0.01, 0.001]; // probabilities of the colours p0 to p4, p5 is below

// Characters that nobody sees, or that would turn the text around, as signs.
export function shown(text) {
  return text
    .replace(/[\x00-\x08\x0b-\x1f]/g, (c) => String.fromCodePoint(0x2400 + c.codePointAt(0)))
    .replace(/\x7f/g, "\u2421")
    .replace(/[\x80-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => `\u27e8U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`);
}

export function percent(probability) {
  if (probability === null) return "";
  const share = 100 * probability;
  return `${share >= 10 ? share.toFixed(0) : share >= 0.1 ? share.toFixed(1) : share >= 0.001 ? share.toFixed(3) : "under 0.001"} %`;
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

// The element of a piece: one token, or the several that make one character.
export function tokenElement(piece, index) {
  const element = make("span", `token ${colour(piece.probability)}`, shown(piece.text));
  if (/^\n+$/.test(piece.text)) element.classList.add("newline");
  if (piece.text === "") {
    element.classList.add("end");
    element.textContent = "end of text";
  }
  const name = piece.text === "" ? "end of text" : JSON.stringify(piece.text);
  element.dataset.index = index;
  if (!piece.ids.length) return element; // the rest of a token that stands before it
  element.tabIndex = -1;
  element.setAttribute("role", "button");
  element.setAttribute("aria-haspopup", "dialog");
  element.setAttribute("aria-label", `${name} ${percent(piece.probability)}`);
  element.title = percent(piece.probability);
  return element;
}

// Arrow keys move between the tokens of a text; the first one is reached with Tab.
export function moveByKeys(body) {
  body.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    const all = [...body.querySelectorAll(".token[tabindex]")];
    const here = all.indexOf(document.activeElement);
    if (here < 0 || !(event.key in steps)) return;
    const next = all[Math.max(0, Math.min(all.length - 1, here + steps[event.key]))];
    all[here].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    event.preventDefault();
  });
}
