// The list of what a token might have been, from which another is taken.

import { make, percent, visible } from "./tokens.js";

const list = document.getElementById("choices");
let opener = null, onClose = null;

export function isOpen() {
  return !list.hidden;
}

export function close() {
  if (list.hidden) return;
  const hadFocus = list.contains(document.activeElement);
  list.hidden = true;
  opener.classList.remove("opened");
  if (hadFocus) opener.focus();
  onClose();
}

// Opens the list at a token, and says why it is empty yet; `whenClosed` is called when it is closed.
export function open(element, whenClosed) {
  close();
  [opener, onClose] = [element, whenClosed];
  element.classList.add("opened");
  list.hidden = false;
  say("…");
}

export function say(sentence) {
  list.replaceChildren(make("p", "quiet small", sentence));
  place();
}

// Below the token, or above it where there is more room; it scrolls if there is little.
function place() {
  list.style.maxHeight = "none";
  const token = opener.getClientRects()[0], { clientWidth, clientHeight } = document.documentElement;
  const below = clientHeight - token.bottom - 12, above = token.top - 12;
  const isAbove = list.offsetHeight > below && above > below;
  list.style.maxHeight = `${Math.max(200, isAbove ? above : below)}px`;
  const last = clientWidth - list.offsetWidth - 12;
  list.style.left = `${scrollX + Math.max(12, Math.min(last, token.left - 8))}px`;
  list.style.top = `${scrollY + (isAbove ? token.top - list.offsetHeight - 6 : token.bottom + 6)}px`;
}

// Shows the choices; `span` is what was written, `take` is called with what is chosen in its place.
export function fill(choices, span, take) {
  const isHere = (choice) => span.ids.length === 1 && span.ids[0] === choice.id;
  const rows = choices.map((choice) => row(choice, isHere(choice), () => take(choice)));
  const others = choices.some(isHere) || span.probability === null ? [] : [
    make("p", "quiet small written", `written: ${visible(span.text) || "end of text"} ${percent(span.probability)}`),
  ];
  list.replaceChildren(make("p", "quiet small", "It might have been"), ...rows, ...others);
  place();
  (rows.find((each) => each.hasAttribute("aria-current")) ?? rows[0])?.focus();
}

function row(choice, isHere, take) {
  const element = make("button", "choice");
  element.type = "button";
  if (isHere) element.setAttribute("aria-current", "true");
  const bar = make("i", "bar");
  bar.style.width = `${Math.max(0.5, 100 * choice.probability)}%`;
  const what = make("span", "what", choice.text === "" ? choice.name : visible(choice.text));
  element.append(bar, what, make("span", "share", percent(choice.probability)));
  element.addEventListener("click", () => {
    close();
    if (!isHere) take();
  });
  return element;
}

list.addEventListener("keydown", (event) => {
  const rows = [...list.querySelectorAll(".choice")];
  const here = rows.indexOf(document.activeElement);
  const next = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: -1 }[event.key];
  if (next !== undefined) {
    rows.at(next % rows.length)?.focus();
    event.preventDefault();
  } else if (event.key === "Tab") close();
});
document.addEventListener("pointerdown", (event) => {
  if (!list.contains(event.target)) close();
});
addEventListener("resize", close);
