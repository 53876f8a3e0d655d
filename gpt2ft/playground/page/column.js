// What one model wrote: its tokens, how they were drawn, and its place on the page.

import { make, moveByKeys, shown, tokenElement } from "./tokens.js";

const views = new WeakMap(); // column -> {body, state}

const ENDS = {
  end_of_text: "the text has ended",
  stop_string: "stopped before a stop string",
  max_new_tokens: "max_new_tokens reached",
};

export function newColumn(model, lead) {
  return { model, lead, pieces: [], fixed: 0, seed: null, reason: null };
}

export function idsOf(pieces) {
  return pieces.flatMap((piece) => piece.ids);
}

export function textOf(column) {
  return column.pieces.map((piece) => piece.text).join("");
}

// The element of a column; `name` is that of its model, `lead` whether the beginning is shown in it.
export function render(column, { name, lead, onEdit, onToken }) {
  const place = make("section", "column");
  if (name) place.append(make("h2", "small quiet", name));
  const body = make("div", "body");
  body.setAttribute("role", "group");
  body.setAttribute("aria-label", name ? `text of ${name}` : "text");
  if (lead) {
    const beginning = make("span", "lead", shown(column.lead));
    beginning.title = "edit the text";
    beginning.addEventListener("click", onEdit);
    body.append(beginning);
  }
  const choose = (event) => {
    const token = event.target.closest(".token[tabindex]");
    if (token) onToken(Number(token.dataset.index), token);
  };
  body.addEventListener("click", choose);
  body.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    if (event.ctrlKey || event.metaKey || !event.target.matches(".token")) return;
    event.preventDefault();
    choose(event);
  });
  moveByKeys(body);
  const state = make("p", "state small quiet");
  place.append(body, state);
  views.set(column, { body, state });
  column.pieces.forEach((_, index) => append(column, index));
  if (column.said) say(column, column.said);
  return place;
}

// Shows the piece of that number.
export function append(column, index) {
  const { body } = views.get(column);
  const element = tokenElement(column.pieces[index], index);
  if (element.hasAttribute("tabindex") && !body.querySelector(".token[tabindex='0']")) element.tabIndex = 0;
  body.append(element);
}

// Shows all pieces anew.
export function redraw(column) {
  for (const old of views.get(column).body.querySelectorAll(".token")) old.remove();
  column.pieces.forEach((_, index) => append(column, index));
}

export function say(column, sentence) {
  column.said = sentence;
  views.get(column).state.textContent = sentence;
}

// What is said of a text that has ended.
export function summary(end, seed) {
  const rate = end.tokens_per_second.toFixed(end.tokens_per_second < 10 ? 1 : 0);
  const note = end.note ? `; ${end.note}` : "";
  return `${end.tokens} token${end.tokens === 1 ? "" : "s"}, ${rate} a second; ${ENDS[end.reason]}; seed ${seed}${note}`;
}
