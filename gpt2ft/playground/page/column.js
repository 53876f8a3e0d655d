// A column of the page: what one model wrote, and the sentence that says how it goes.

import { make, moveByKeys, spanElement } from "./tokens.js";

const views = new WeakMap(); // column -> {place, body, state, first}

// The element of a column; `name`: that of its model, if it is shown; `first`: the number of its first span on the page.
export function render(column, { name, label, first, onEdit, onToken }) {
  const place = make("section", "column");
  if (name) place.append(make("h2", "small quiet", name));
  const body = make("div", "body");
  body.setAttribute("role", "group");
  body.setAttribute("aria-label", label);
  const choose = (event) => {
    const token = event.target.closest(".token[tabindex]");
    if (token) onToken(Number(token.dataset.index), token);
    else if (event.type === "click" && !getSelection().toString()) onEdit?.();
  };
  body.addEventListener("click", choose);
  body.addEventListener("keydown", (event) => {
    if ((event.key !== "Enter" && event.key !== " ") || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    choose(event);
  });
  moveByKeys(body);
  const state = make("p", "state small quiet", column.said);
  state.setAttribute("role", "status");
  place.append(body, state);
  views.set(column, { place, body, state, first });
  redraw(column);
  return place;
}

// Shows the span of that number, behind the others.
export function append(column, index) {
  const { body, first } = views.get(column);
  if (index < first) return;
  const element = spanElement(column.spans[index], index);
  if (element.hasAttribute("tabindex") && !body.querySelector(".token[tabindex='0']")) element.tabIndex = 0;
  body.append(element);
}

// Shows all spans anew.
export function redraw(column) {
  views.get(column).body.replaceChildren();
  column.spans.forEach((_, index) => append(column, index));
}

// Says how it goes; `busy`: whether it goes on.
export function say(column, sentence, busy = false) {
  column.said = sentence;
  const { place, state } = views.get(column);
  if (state.textContent !== sentence) state.textContent = sentence;
  place.classList.toggle("busy", busy);
}

// Keeps the end of the page in sight while it grows, if it was in sight.
let willFollow = false;
export function follow() {
  const root = document.documentElement;
  if (willFollow || innerHeight + scrollY < root.scrollHeight - 120) return;
  willFollow = true;
  requestAnimationFrame(() => {
    willFollow = false;
    scrollTo(0, root.scrollHeight);
  });
}
