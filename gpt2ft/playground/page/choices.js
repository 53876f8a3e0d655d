// The list of what a token might have been, from which another is taken.

import { make, percent, shown } from "./tokens.js";

const list = document.getElementById("choices");
let opener = null;

export function close() {
  if (list.hidden) return;
  list.hidden = true;
  opener?.focus();
  opener = null;
}

function visible(choice) {
  if (choice.text === "") return choice.name;
  return shown(choice.text).replace(/ /g, "\u2423").replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5");
}

// Shows a list beside a token; `take` is called with the one that is chosen.
export function open(element, said) {
  opener = element;
  list.replaceChildren(make("p", "quiet small", said));
  list.hidden = false;
  const place = element.getBoundingClientRect();
  const left = Math.min(place.left + scrollX, scrollX + document.documentElement.clientWidth - list.offsetWidth - 12);
  list.style.left = `${Math.max(scrollX + 12, left)}px`;
  list.style.top = `${place.bottom + scrollY + 6}px`;
}

export function fill(choices, ids, take) {
  const rows = choices.map((choice) => {
    const row = make("button", "choice");
    row.type = "button";
    const is = ids.length === 1 && ids[0] === choice.id;
    if (is) row.setAttribute("aria-current", "true");
    const bar = make("i", "bar");
    bar.style.width = `${Math.max(1, 100 * choice.probability)}%`;
    row.append(bar, make("span", "what", visible(choice)), make("span", "share", percent(choice.probability)));
    row.addEventListener("click", () => {
      close();
      take(choice);
    });
    return row;
  });
  list.replaceChildren(...rows);
  (rows.find((row) => row.hasAttribute("aria-current")) ?? rows[0])?.focus();
  const below = list.getBoundingClientRect().bottom - document.documentElement.clientHeight;
  if (below > 0) list.scrollIntoView({ block: "nearest" });
}

list.addEventListener("keydown", (event) => {
  const rows = [...list.querySelectorAll(".choice")];
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) {
    rows[(rows.indexOf(document.activeElement) + step + rows.length) % rows.length]?.focus();
    event.preventDefault();
  } else if (event.key === "Escape") {
    close();
    event.stopPropagation();
  } else if (event.key === "Tab") {
    close();
  }
});

document.addEventListener("pointerdown", (event) => {
  if (!list.hidden && !list.contains(event.target)) close();
});
