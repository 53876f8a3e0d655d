// The settings: a slider for each number, a switch, or a box of texts.

import { make } from "./tokens.js";

const fields = new Map(); // name -> {get, set, start}

function addNumber(row, setting) {
  const slider = make("input");
  slider.type = "range";
  const number = make("input", "number");
  number.type = "number";
  for (const input of [slider, number]) {
    input.step = setting.step;
    input.setAttribute("aria-label", setting.name);
  }
  [slider.min, slider.max, number.step] = [setting.least, setting.greatest, "any"];
  number.id = `setting-${setting.name}`;
  slider.addEventListener("input", () => (number.value = slider.value));
  number.addEventListener("input", () => (slider.value = number.value));
  const line = make("div", "line");
  line.append(slider, number);
  row.append(line);
  return {
    get: () => (number.value === "" ? setting.value : Number(number.value)),
    set: (value) => (slider.value = number.value = value),
  };
}

function addSwitch(row, setting, label) {
  const input = make("input");
  input.type = "checkbox";
  input.id = `setting-${setting.name}`;
  label.prepend(input, " ");
  return { get: () => input.checked, set: (value) => (input.checked = value) };
}

function addTexts(row, setting) {
  const box = make("textarea");
  box.rows = 1;
  box.id = `setting-${setting.name}`;
  box.placeholder = "one a line; \\n is a line end";
  row.append(box);
  return {
    get: () => box.value.split("\n").filter(Boolean).map((text) => text.replaceAll("\\n", "\n")),
    set: (texts) => (box.value = texts.map((text) => text.replaceAll("\n", "\\n")).join("\n")),
  };
}

export function build(settings) {
  const place = document.getElementById("sliders");
  for (const setting of settings) {
    const row = make("div", "setting");
    const label = make("label", "", setting.name);
    label.htmlFor = `setting-${setting.name}`;
    row.append(label);
    const add = { bool: addSwitch, texts: addTexts }[setting.kind] ?? addNumber;
    const field = add(row, setting, label);
    row.append(make("p", "quiet small", setting.help));
    place.append(row);
    field.set(setting.value);
    fields.set(setting.name, { ...field, start: setting.value });
  }
  document.getElementById("defaults").addEventListener("click", reset);
}

export function reset() {
  for (const field of fields.values()) field.set(field.start);
}

export function values() {
  return Object.fromEntries([...fields].map(([name, field]) => [name, field.get()]));
}

// Sets those that are known; returns the names of the others.
export function apply(given) {
  reset();
  const unknown = Object.keys(given).filter((name) => !fields.has(name));
  for (const [name, value] of Object.entries(given)) fields.get(name)?.set(value);
  return unknown;
}
