// The settings: a slider for each number, a switch, or a box of texts.

import { make } from "./tokens.js";

const FIRST = ["max_new_tokens", "temperature", "top_k", "top_p"]; // the others are folded away
const fields = new Map(); // name -> {get, set, isRight, start, row}

function addNumber(row, setting) {
  const slider = make("input"), number = make("input", "number");
  slider.type = "range";
  number.type = "number";
  [slider.min, slider.max, slider.step, number.step] = [setting.least, setting.greatest, setting.step, "any"];
  slider.setAttribute("aria-label", `${setting.name}, slider`);
  number.id = `setting-${setting.name}`;
  slider.addEventListener("input", () => (number.value = slider.value));
  number.addEventListener("input", () => (slider.value = number.value));
  const line = make("div", "line");
  line.append(slider, number);
  row.append(line);
  return {
    get: () => (number.value === "" ? setting.value : Number(number.value)),
    set: (value) => (slider.value = number.value = value),
    isRight: Number.isFinite,
  };
}

function addSwitch(row, setting, label) {
  const input = make("input");
  input.type = "checkbox";
  input.id = `setting-${setting.name}`;
  label.prepend(input, " ");
  return { get: () => input.checked, set: (value) => (input.checked = value), isRight: (value) => typeof value === "boolean" };
}

function addTexts(row, setting) {
  const box = make("textarea");
  box.rows = 2;
  box.id = `setting-${setting.name}`;
  box.spellcheck = false;
  box.placeholder = "one a line; \\n is a line end";
  row.append(box);
  return {
    get: () => box.value.split("\n").filter(Boolean).map((text) => text.replaceAll("\\n", "\n")),
    set: (texts) => (box.value = texts.map((text) => text.replaceAll("\n", "\\n")).join("\n")),
    isRight: (texts) => Array.isArray(texts) && texts.every((text) => typeof text === "string"),
  };
}

function add(setting) {
  const row = make("div", "setting"), label = make("label", "", setting.name), help = make("p", "quiet small", setting.help);
  label.htmlFor = `setting-${setting.name}`;
  row.append(label);
  const field = ({ bool: addSwitch, texts: addTexts }[setting.kind] ?? addNumber)(row, setting, label);
  help.id = `help-${setting.name}`;
  for (const input of row.querySelectorAll("input, textarea")) input.setAttribute("aria-describedby", help.id);
  row.append(help);
  row.addEventListener("input", () => mark(fields.get(setting.name)));
  fields.set(setting.name, { ...field, start: setting.value, row });
  document.getElementById(FIRST.includes(setting.name) ? "first-settings" : "more-settings").append(row);
}

// Shows whether a setting is another than at the start.
function mark({ get, start, row }) {
  row.classList.toggle("changed", JSON.stringify(get()) !== JSON.stringify(start));
}

function put(field, value) {
  field.set(value);
  mark(field);
}

export function build(settings) {
  settings.forEach(add);
  reset();
}

// All as at the start.
export function reset() {
  for (const field of fields.values()) put(field, field.start);
}

export function values() {
  return Object.fromEntries([...fields].map(([name, field]) => [name, field.get()]));
}

// Sets those that are known; returns the names of the others.
export function apply(given) {
  reset();
  const isKnown = ([name, value]) => fields.get(name)?.isRight(value);
  const all = Object.entries(given);
  for (const [name, value] of all.filter(isKnown)) put(fields.get(name), value);
  return all.filter((entry) => !isKnown(entry)).map(([name]) => name);
}
