// The page: a text or a conversation that models write on.

import { call, state } from "./api.js";
import * as choices from "./choices.js";
import { append, idsOf, newColumn, redraw, render, say, summary, textOf } from "./column.js";
import * as link from "./link.js";
import * as settings from "./settings.js";
import { make, shown } from "./tokens.js";

const at = (id) => document.getElementById(id);
const box = at("box");

let models = [];
let doc = { form: "text", turns: [], last: [] }; // `last`: columns of the last turn that were written last
let past = []; // what it was before each change
let editing = true; // text form: the box is shown, not the text
let running = null; // ends the calls that run

// --- the document -------------------------------------------------------------------------------

function remember() {
  past.push(structuredClone({ doc, box: box.value, editing }));
}

function newTurn(lead) {
  const both = at("compare").checked && models.length > 1;
  return { lead, columns: (both ? [0, 1] : [0]).map((model) => newColumn(model, lead)) };
}

// The conversation that a model is shown for its answer in the turn of that number.
function messages(turnNumber, columnNumber) {
  const found = [];
  for (const turn of doc.turns.slice(0, turnNumber)) {
    const column = turn.columns[Math.min(columnNumber, turn.columns.length - 1)];
    found.push({ role: "user", content: turn.lead }, { role: "assistant", content: textOf(column) });
  }
  return [...found, { role: "user", content: doc.turns[turnNumber].lead }];
}

function request(turnNumber, columnNumber, pieces) {
  const column = doc.turns[turnNumber].columns[columnNumber];
  const beginning = doc.form === "chat" ? { messages: messages(turnNumber, columnNumber) } : { prompt: column.lead };
  return { model: column.model, ...beginning, fixed: idsOf(pieces), settings: settings.values() };
}

// --- writing ------------------------------------------------------------------------------------

function seedToUse() {
  const typed = at("seed").value.trim();
  if (typed === "") return crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
  if (!/^\d+$/.test(typed) || !Number.isSafeInteger(Number(typed))) throw new Error("the seed is a whole number from 0 on");
  return Number(typed);
}

// A text that can be written on: without the end, and without what a stop string cut off.
function open(column) {
  if (column.reason === "stop_string" && doc.form === "text") {
    column.lead += textOf(column);
    column.pieces = [];
  }
  column.pieces = column.pieces.filter((piece) => piece.text !== "");
}

async function writeColumn(columnNumber, seed, changes = {}) {
  const turnNumber = doc.turns.length - 1;
  const column = doc.turns[turnNumber].columns[columnNumber];
  column.fixed = column.pieces.length;
  [column.seed, column.reason] = [seed, null];
  const asked = request(turnNumber, columnNumber, column.pieces);
  Object.assign(asked, { seed }, changes, { settings: { ...asked.settings, ...changes.settings } });
  try {
    for await (const event of call("/api/write", asked, running.signal)) take(column, event);
  } catch (error) {
    say(column, error.name === "AbortError" ? `stopped; seed ${seed}` : `error: ${error.message}`);
  }
}

// Takes in an event of a text that is written.
function take(column, event) {
  if (event.waiting) say(column, `waits: ${event.waiting} request${event.waiting === 1 ? " is" : "s are"} before this one`);
  if (event.loading) say(column, `loading ${event.loading} …`);
  if (event.start) {
    const { fixed } = event.start;
    if (fixed.map((piece) => piece.text).join("") !== textOf(column) || fixed.some((piece) => piece.probability !== null)) {
      column.pieces = fixed;
      redraw(column);
    }
    column.fixed = column.pieces.length;
    say(column, "writing …");
  }
  if (event.token) {
    const following = innerHeight + scrollY > document.documentElement.scrollHeight - 80;
    column.pieces.push(event.token);
    append(column, column.pieces.length - 1);
    if (following) scrollTo(0, document.documentElement.scrollHeight);
  }
  if (event.end) {
    column.reason = event.end.reason;
    say(column, summary(event.end, column.seed));
  }
}

// Lets columns of the last turn write; `seeds` has one for each.
async function writeColumns(numbers, seeds, changes = []) {
  doc.last = numbers;
  editing = false;
  running = new AbortController();
  draw();
  tell("");
  await Promise.all(numbers.map((number, place) => writeColumn(number, seeds[place], changes[place])));
  running = null;
  drawTools();
}

async function write() {
  if (running) return;
  const seed = seedToUse();
  const typed = box.value;
  const isChat = doc.form === "chat";
  if (isChat && !typed.trim()) return tell("type a question first");
  remember();
  if (isChat || editing) {
    const turn = doc.turns.at(-1);
    const unchanged = !isChat && turn && typed === turn.columns[0].lead + textOf(turn.columns[0]);
    if (isChat) doc.turns.push(newTurn(typed));
    else if (!unchanged) doc.turns = [newTurn(typed)];
    if (isChat) box.value = "";
  }
  const { columns } = doc.turns.at(-1);
  columns.forEach(open);
  const numbers = [...columns.keys()];
  await writeColumns(numbers, numbers.map(() => seed));
}

async function retry() {
  if (running || !doc.turns.length || !doc.last.length) return;
  remember();
  const columns = doc.last.map((number) => doc.turns.at(-1).columns[number]);
  for (const column of columns) column.pieces = column.pieces.slice(0, column.fixed);
  await writeColumns(doc.last, columns.map((column) => (column.seed ?? seedToUse()) + 1));
}

function stop() {
  running?.abort();
}

function undo() {
  if (running || !past.length) return;
  const before = past.pop();
  [doc, editing] = [before.doc, before.editing];
  box.value = before.box;
  draw();
  tell("taken back");
}

// --- tokens -------------------------------------------------------------------------------------

async function choose(turnNumber, columnNumber, index, element) {
  if (running) return;
  const column = doc.turns[turnNumber].columns[columnNumber];
  const before = column.pieces.slice(0, index);
  choices.open(element, "…");
  const asking = new AbortController();
  try {
    for await (const event of call("/api/alternatives", request(turnNumber, columnNumber, before), asking.signal)) {
      if (event.waiting) choices.open(element, `waits: ${event.waiting} before this`);
      if (event.alternatives) {
        choices.fill(event.alternatives, column.pieces[index].ids, (choice) =>
          takeOther(turnNumber, columnNumber, index, choice).catch((error) => tell(`error: ${error.message}`)));
      }
    }
  } catch (error) {
    choices.close();
    tell(`error: ${error.message}`);
  }
}

async function takeOther(turnNumber, columnNumber, index, choice) {
  if (running) return;
  const seed = seedToUse();
  remember();
  doc.turns.length = turnNumber + 1;
  const column = doc.turns[turnNumber].columns[columnNumber];
  const taken = { ids: [choice.id], text: choice.text, probability: choice.probability };
  column.pieces = [...column.pieces.slice(0, index), taken];
  if (choice.text === "" && choice.name) return endHere(column);
  await writeColumns([columnNumber], [seed]);
}

// The token that ends a text was taken: nothing follows.
function endHere(column) {
  column.reason = "end_of_text";
  column.said = "the text has ended";
  draw();
}

// --- links --------------------------------------------------------------------------------------

function content() {
  const turns = doc.turns.map((turn) => ({
    lead: turn.lead,
    columns: turn.columns.map((column) => ({
      model: column.model,
      name: models[column.model].name,
      lead: column.lead,
      seed: column.seed,
      fixed: idsOf(column.pieces.slice(0, column.fixed)),
      n: idsOf(column.pieces.slice(column.fixed)).length,
      text: textOf(column),
    })),
  }));
  const shownTurns = turns.length ? turns : [{ lead: box.value, columns: [] }];
  return { form: doc.form, turns: shownTurns, settings: settings.values() };
}

async function copyLink() {
  const address = link.encode(content());
  history.replaceState(null, "", address);
  try {
    await navigator.clipboard.writeText(address);
    tell("the link is copied: it brings this text again");
  } catch {
    tell("the link is in the address bar: it brings this text again");
  }
}

function opened(column, isLast) {
  const made = newColumn(Math.min(column.model, models.length - 1), column.lead);
  made.seed = column.seed;
  if (!isLast) made.pieces = [{ ids: [], text: column.text, probability: null }];
  return made;
}

async function openLink() {
  const found = link.decode(location.hash);
  if (!found) return;
  const notes = settings.apply(found.settings ?? {}).map((name) => `there is no setting ${name} here`);
  const last = found.turns.at(-1);
  for (const column of last.columns) {
    const here = models[column.model]?.name;
    if (here !== column.name) notes.push(`the text was written by ${column.name}, here is ${here ?? models[0].name}`);
  }
  at("compare").checked = last.columns.length > 1 && models.length > 1;
  const isChat = found.form === "chat";
  if (isChat && at("forms").hidden) throw new Error("the link is of a conversation, but the model has no chat template: start it with --chat");
  doc = { form: isChat ? "chat" : "text", turns: [], last: [] };
  const written = last.columns.filter((column) => models[column.model] && column.n > 0);
  if (!written.length) {
    box.value = last.lead;
    doc.turns = [];
    draw();
  } else {
    doc.turns = found.turns.map((turn, number) => ({
      lead: turn.lead,
      columns: (turn === last ? written : turn.columns).map((column) => opened(column, number === found.turns.length - 1)),
    }));
    const changes = written.map((column) => ({ fixed: column.fixed, score_fixed: true, settings: { max_new_tokens: column.n } }));
    await writeColumns([...written.keys()], written.map((column) => column.seed), changes);
  }
  tell(notes.join("; "));
}

// --- the page -----------------------------------------------------------------------------------

function tell(sentence) {
  at("status").textContent = sentence;
}

function edit() {
  if (running || doc.form === "chat" || !doc.turns.length) return;
  const [column] = doc.turns.at(-1).columns;
  box.value = column.lead + textOf(column);
  editing = true;
  draw();
  box.focus();
  box.setSelectionRange(box.value.length, box.value.length);
}

function draw() {
  choices.close();
  const isChat = doc.form === "chat";
  const isReading = isChat || (!editing && doc.turns.length > 0);
  at("turns").hidden = !isReading;
  at("asking").hidden = !isChat && isReading;
  at("turns").replaceChildren(...doc.turns.map(turnElement));
  at("form-text").setAttribute("aria-pressed", !isChat);
  at("form-chat").setAttribute("aria-pressed", isChat);
  at("box-label").textContent = isChat ? "Question" : "Beginning of the text";
  box.placeholder = isChat ? "Ask something …" : "Type the beginning of a text …";
  at("write").textContent = isChat ? "Ask" : "Write";
  fit();
  drawTools();
}

function turnElement(turn, turnNumber) {
  const element = make("article", "turn");
  if (doc.form === "chat") element.append(make("p", "question", shown(turn.lead)));
  const place = make("div", turn.columns.length > 1 ? "columns two" : "columns");
  turn.columns.forEach((column, number) => {
    place.append(render(column, {
      name: turn.columns.length > 1 ? label(models[column.model]) : "",
      lead: doc.form === "text",
      onEdit: edit,
      onToken: (index, token) => choose(turnNumber, number, index, token),
    }));
  });
  element.append(place);
  return element;
}

function drawTools() {
  const isChat = doc.form === "chat";
  at("write").hidden = Boolean(running);
  at("stop").hidden = !running;
  at("edit").hidden = isChat;
  at("edit").disabled = Boolean(running) || editing || !doc.turns.length;
  at("retry").disabled = Boolean(running) || !doc.turns.length || (editing && !isChat);
  at("undo").disabled = Boolean(running) || !past.length;
  at("reset").hidden = !isChat;
  at("reset").disabled = Boolean(running) || !doc.turns.length;
  at("link").disabled = Boolean(running);
  document.body.classList.toggle("writing", Boolean(running));
}

function fit() {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

function begin(form) {
  if (running) return;
  remember();
  doc = { form, turns: [], last: [] };
  [editing, box.value] = [true, ""];
  draw();
  box.focus();
}

// The beginning of the text alone, for other models to write on.
function beginAgain() {
  remember();
  box.value = doc.turns.at(-1).lead;
  [doc.turns, editing] = [[], true];
  draw();
}

function label(model) {
  return model.what ? `${model.name} · ${model.what}` : model.name;
}

function showSettings(open) {
  document.body.classList.toggle("with-settings", open);
  at("open-settings").setAttribute("aria-expanded", open);
  (open ? at("seed") : at("open-settings")).focus();
}

function said(action) {
  return () => Promise.resolve().then(action).catch((error) => tell(`error: ${error.message}`));
}

function listen() {
  const actions = { write, stop, edit, retry, undo, link: copyLink, reset: () => begin("chat") };
  for (const [id, action] of Object.entries(actions)) at(id).addEventListener("click", said(action));
  at("form-text").addEventListener("click", () => doc.form === "text" || begin("text"));
  at("form-chat").addEventListener("click", () => doc.form === "chat" || begin("chat"));
  at("open-settings").addEventListener("click", () => showSettings(!document.body.classList.contains("with-settings")));
  at("close-settings").addEventListener("click", () => showSettings(false));
  at("colours").addEventListener("change", (event) => {
    document.body.classList.toggle("plain", !event.target.checked);
  });
  at("compare").addEventListener("change", () => {
    if (!running && doc.turns.length && doc.form === "text") beginAgain();
  });
  box.addEventListener("input", fit);
  addEventListener("resize", fit);
  addEventListener("hashchange", said(openLink));
  addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) said(write)();
    else if (event.key === "Enter" && doc.form === "chat" && event.target === box && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      said(write)();
    } else if (event.key === "Escape") escape();
  });
}

function escape() {
  if (running) return stop();
  if (document.body.classList.contains("with-settings")) return showSettings(false);
  if (editing && doc.form === "text" && doc.turns.length) {
    editing = false;
    draw();
  }
}

async function start() {
  listen();
  draw();
  const found = await state();
  models = found.models;
  settings.build(found.settings);
  at("models").textContent = label(models[0]);
  document.title = `${models[0].name} – gpt2ft`;
  at("compare-switch").hidden = models.length < 2;
  if (models.length > 1) at("compare-switch").append(` with ${models[1].name}`);
  at("forms").hidden = !found.chat;
  if (found.seed !== null) at("seed").value = found.seed;
  await openLink();
  if (!doc.turns.length) box.focus();
}

said(start)();
