// The page: a text or a conversation that models write on.

import { call, state } from "./api.js";
import * as choices from "./choices.js";
import { append, redraw, render, say, summary, textOf } from "./column.js";
import { canTakeBack, content, newTurn, now, remember, request, takeBack, turnsOf } from "./document.js";
import * as link from "./link.js";
import * as settings from "./settings.js";
import { make, shown } from "./tokens.js";

const at = (id) => document.getElementById(id);
const box = at("box");

// --- writing ------------------------------------------------------------------------------------

function seedToUse() {
  const typed = at("seed").value.trim();
  if (typed === "") return crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
  if (!/^\d+$/.test(typed) || !Number.isSafeInteger(Number(typed))) throw new Error("the seed is a whole number from 0 on");
  return Number(typed);
}

// A text that can be written on: without the end, and without what a stop string cut off.
function open(column) {
  if (column.reason === "stop_string" && now.doc.form === "text") {
    column.lead += textOf(column);
    column.pieces = [];
  }
  column.pieces = column.pieces.filter((piece) => piece.text !== "");
}

async function writeColumn(columnNumber, seed, changes = {}) {
  const turnNumber = now.doc.turns.length - 1;
  const column = now.doc.turns[turnNumber].columns[columnNumber];
  column.fixed = column.pieces.length;
  [column.seed, column.reason] = [seed, null];
  const asked = request(turnNumber, columnNumber, column.pieces);
  Object.assign(asked, { seed }, changes, { settings: { ...asked.settings, ...changes.settings } });
  try {
    for await (const event of call("/api/write", asked, now.running.signal)) take(column, event);
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
  now.doc.last = numbers;
  now.editing = false;
  now.running = new AbortController();
  draw();
  tell("");
  await Promise.all(numbers.map((number, place) => writeColumn(number, seeds[place], changes[place])));
  now.running = null;
  drawTools();
}

async function write() {
  if (now.running) return;
  const seed = seedToUse();
  const typed = box.value;
  const isChat = now.doc.form === "chat";
  if (isChat && !typed.trim()) return tell("type a question first");
  remember(box.value);
  if (isChat || now.editing) {
    const turn = now.doc.turns.at(-1);
    const unchanged = !isChat && turn && typed === turn.columns[0].lead + textOf(turn.columns[0]);
    if (isChat) now.doc.turns.push(newTurn(typed, at("compare").checked));
    else if (!unchanged) now.doc.turns = [newTurn(typed, at("compare").checked)];
    if (isChat) box.value = "";
  }
  const { columns } = now.doc.turns.at(-1);
  columns.forEach(open);
  const numbers = [...columns.keys()];
  await writeColumns(numbers, numbers.map(() => seed));
}

async function retry() {
  if (now.running || !now.doc.turns.length || !now.doc.last.length) return;
  remember(box.value);
  const columns = now.doc.last.map((number) => now.doc.turns.at(-1).columns[number]);
  for (const column of columns) column.pieces = column.pieces.slice(0, column.fixed);
  await writeColumns(now.doc.last, columns.map((column) => (column.seed ?? seedToUse()) + 1));
}

function stop() {
  now.running?.abort();
}

function undo() {
  if (now.running || !canTakeBack()) return;
  box.value = takeBack();
  draw();
  tell("taken back");
}

// --- tokens -------------------------------------------------------------------------------------

async function choose(turnNumber, columnNumber, index, element) {
  if (now.running) return;
  const column = now.doc.turns[turnNumber].columns[columnNumber];
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
  if (now.running) return;
  const seed = seedToUse();
  remember(box.value);
  now.doc.turns.length = turnNumber + 1;
  const column = now.doc.turns[turnNumber].columns[columnNumber];
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

async function copyLink() {
  const address = link.encode(content(box.value));
  history.replaceState(null, "", address);
  try {
    await navigator.clipboard.writeText(address);
    tell("the link is copied: it brings this text again");
  } catch {
    tell("the link is in the address bar: it brings this text again");
  }
}

async function openLink() {
  const found = link.decode(location.hash);
  if (!found) return;
  const isChat = found.form === "chat";
  if (isChat && at("forms").hidden) throw new Error("the link is of a conversation, but the model has no chat template: start it with --chat");
  const notes = settings.apply(found.settings ?? {}).map((name) => `there is no setting ${name} here`);
  const last = found.turns.at(-1);
  for (const { model, name } of last.columns) {
    const here = now.models[model]?.name;
    if (here !== name) notes.push(`the text was written by ${name}, ${here ? `here is ${here}` : "which is not here"}`);
  }
  const written = last.columns.filter((column) => now.models[column.model] && column.n > 0);
  at("compare").checked = written.length > 1;
  now.doc = { form: isChat ? "chat" : "text", turns: turnsOf(found), last: [] };
  if (written.length) {
    const again = ({ fixed, n }) => ({ fixed, score_fixed: true, settings: { max_new_tokens: n } });
    await writeColumns([...written.keys()], written.map((column) => column.seed), written.map(again));
  } else {
    box.value = last.lead;
    [now.doc.turns, now.editing] = [isChat ? now.doc.turns.slice(0, -1) : [], true];
    draw();
  }
  tell(notes.join("; "));
}

// --- the page -----------------------------------------------------------------------------------

function tell(sentence) {
  at("status").textContent = sentence;
}

function edit() {
  if (now.running || now.doc.form === "chat" || !now.doc.turns.length) return;
  const [column] = now.doc.turns.at(-1).columns;
  box.value = column.lead + textOf(column);
  now.editing = true;
  draw();
  box.focus();
  box.setSelectionRange(box.value.length, box.value.length);
}

function draw() {
  choices.close();
  const isChat = now.doc.form === "chat";
  const isReading = isChat || (!now.editing && now.doc.turns.length > 0);
  at("turns").hidden = !isReading;
  at("asking").hidden = !isChat && isReading;
  at("turns").replaceChildren(...now.doc.turns.map(turnElement));
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
  if (now.doc.form === "chat") element.append(make("p", "question", shown(turn.lead)));
  const place = make("div", turn.columns.length > 1 ? "columns two" : "columns");
  turn.columns.forEach((column, number) => {
    place.append(render(column, {
      name: turn.columns.length > 1 ? label(now.models[column.model]) : "",
      lead: now.doc.form === "text",
      onEdit: edit,
      onToken: (index, token) => choose(turnNumber, number, index, token),
    }));
  });
  element.append(place);
  return element;
}

function drawTools() {
  const isChat = now.doc.form === "chat";
  at("write").hidden = Boolean(now.running);
  at("stop").hidden = !now.running;
  at("edit").hidden = isChat;
  at("edit").disabled = Boolean(now.running) || now.editing || !now.doc.turns.length;
  at("retry").disabled = Boolean(now.running) || !now.doc.turns.length || (now.editing && !isChat);
  at("undo").disabled = Boolean(now.running) || !canTakeBack();
  at("reset").hidden = !isChat;
  at("reset").disabled = Boolean(now.running) || !now.doc.turns.length;
  at("link").disabled = Boolean(now.running);
  document.body.classList.toggle("writing", Boolean(now.running));
}

function fit() {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

function begin(form) {
  if (now.running) return;
  remember(box.value);
  now.doc = { form, turns: [], last: [] };
  [now.editing, box.value] = [true, ""];
  draw();
  box.focus();
}

// The beginning of the text alone, for other models to write on.
function beginAgain() {
  remember(box.value);
  box.value = now.doc.turns.at(-1).lead;
  [now.doc.turns, now.editing] = [[], true];
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
  at("form-text").addEventListener("click", () => now.doc.form === "text" || begin("text"));
  at("form-chat").addEventListener("click", () => now.doc.form === "chat" || begin("chat"));
  at("open-settings").addEventListener("click", () => showSettings(!document.body.classList.contains("with-settings")));
  at("close-settings").addEventListener("click", () => showSettings(false));
  at("colours").addEventListener("change", (event) => {
    document.body.classList.toggle("plain", !event.target.checked);
  });
  at("compare").addEventListener("change", () => {
    if (!now.running && now.doc.turns.length && now.doc.form === "text") beginAgain();
  });
  box.addEventListener("input", fit);
  addEventListener("resize", fit);
  addEventListener("hashchange", said(openLink));
  addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) said(write)();
    else if (event.key === "Enter" && now.doc.form === "chat" && event.target === box && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      said(write)();
    } else if (event.key === "Escape") escape();
  });
}

function escape() {
  if (now.running) return stop();
  if (document.body.classList.contains("with-settings")) return showSettings(false);
  if (now.editing && now.doc.form === "text" && now.doc.turns.length) {
    now.editing = false;
    draw();
  }
}

async function start() {
  listen();
  draw();
  const found = await state();
  now.models = found.models;
  settings.build(found.settings);
  at("models").textContent = label(now.models[0]);
  document.title = `${now.models[0].name} – gpt2ft`;
  at("compare-switch").hidden = now.models.length < 2;
  if (now.models.length > 1) at("compare-switch").append(` with ${now.models[1].name}`);
  at("forms").hidden = !found.chat;
  if (found.seed !== null) at("seed").value = found.seed;
  await openLink();
  if (!now.doc.turns.length) box.focus();
}

said(start)();
