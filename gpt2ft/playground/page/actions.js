// What a person does with a text: lets it be written, stops, edits, takes back, tries again, takes another token.

import { call, waiting } from "./api.js";
import * as choices from "./choices.js";
import * as column from "./column.js";
import { isChat, isCompared, lastTurn, remember, restore, session } from "./session.js";
import * as settings from "./settings.js";
import { beginning, edited, firstToken, messages, newColumn, open, textOf, typed, typedFirst, written } from "./text.js";
import { draw, drawTools, tell } from "./view.js";
import { isWriting, writeAll } from "./writing.js";

const at = (id) => document.getElementById(id);
const box = at("box");

export function show() {
  draw({ onEdit: edit, onToken: choose });
}

function seedToUse() {
  const text = at("seed").value.trim();
  if (text === "") return crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(Number(text))) throw new Error(`the seed is a whole number from 0 on, not ${text}`);
  return Number(text);
}

// What is sent for a column of a turn, of which there are these spans.
function requestOf(turnNumber, columnNumber, spans) {
  const { model } = session.turns[turnNumber].columns[columnNumber];
  const { prompt, fixed } = beginning(spans);
  const form = isChat() ? { messages: messages(session.turns, turnNumber, columnNumber) } : { prompt };
  return { model, ...form, fixed, settings: settings.values() };
}

// Lets columns of the last turn write; `jobs`: {number, seed, changes, onlyBeginning} for each.
export async function writeColumns(jobs) {
  const { columns } = lastTurn();
  [session.last, session.editing] = [jobs.map((job) => job.number), false];
  tell("");
  show();
  const done = writeAll(jobs.map(({ number, seed, changes = {}, onlyBeginning = false }) => {
    const request = requestOf(session.turns.length - 1, number, columns[number].spans);
    Object.assign(request, { seed }, changes, { settings: { ...request.settings, ...changes.settings } });
    return { column: columns[number], request, onlyBeginning };
  }));
  drawTools();
  await done;
  drawTools();
}

function newTurn(question, spans) {
  const models = isCompared() ? [0, 1] : [0];
  return { question, columns: models.map((model) => newColumn(model, [...spans])) };
}

// The text as the box has it; what did not change stays as it was.
function takeBox() {
  const [first] = lastTurn()?.columns ?? [];
  const isNew = !first || (isCompared() && box.value !== textOf(first.spans.slice(0, typedFirst(first.spans))));
  if (isNew) session.turns = [newTurn("", typed(box.value))];
  else if (!isCompared() && edited(first.spans, box.value) !== first.spans) {
    lastTurn().columns = [newColumn(first.model, edited(open(first), box.value))];
  }
}

export async function write() {
  if (isWriting()) return;
  const seed = seedToUse();
  if (isChat() && !box.value.trim()) return tell("type a question first");
  remember();
  if (isChat()) {
    session.turns.push(newTurn(box.value, []));
    box.value = "";
  } else {
    if (session.editing || isCompared()) takeBox();
    for (const column of lastTurn().columns) column.spans = open(column);
  }
  await writeColumns(lastTurn().columns.map((_, number) => ({ number, seed })));
}

// Draws anew what was drawn last, each with the next seed.
export async function retry() {
  if (isWriting() || !session.turns.length) return;
  const { columns } = lastTurn();
  const jobs = session.last.filter((number) => columns[number]?.seed != null);
  if (!jobs.length) return;
  remember();
  for (const number of jobs) columns[number].spans.length = columns[number].drawn;
  await writeColumns(jobs.map((number) => ({ number, seed: columns[number].seed + 1 })));
}

export function undo() {
  if (isWriting() || !session.past.length) return;
  restore();
  show();
  tell("taken back");
}

// From the text to the box with the text, and back.
export function edit() {
  if (isWriting() || isChat() || isCompared() || !session.turns.length) return;
  if (session.editing) return doneEditing();
  box.value = textOf(lastTurn().columns[0].spans);
  session.editing = true;
  show();
  box.focus();
  box.setSelectionRange(box.value.length, box.value.length);
}

export function doneEditing() {
  remember();
  const { columns } = lastTurn();
  takeBox();
  if (lastTurn().columns === columns) session.past.pop();
  session.editing = false;
  show();
}

// A new text or conversation.
export function begin(form) {
  if (isWriting()) return;
  remember();
  Object.assign(session, { form, turns: [], last: [], editing: true });
  box.value = "";
  show();
  box.focus();
}

// The other model begins where the first one began, or leaves.
export async function compare() {
  if (isWriting() || isChat() || !session.turns.length) return show();
  remember(!isCompared());
  if (!isCompared()) {
    lastTurn().columns.length = 1;
    [session.last, session.editing] = [[0], false];
    return show();
  }
  if (session.editing) {
    session.turns = [];
    return show();
  }
  const [first] = lastTurn().columns;
  const { prompt } = beginning(first.spans);
  const tokens = first.spans.slice(firstToken(first.spans));
  first.drawn += typed(prompt).length + tokens.length - first.spans.length;
  first.spans = [...typed(prompt), ...tokens];
  lastTurn().columns.push(newColumn(1, typed(prompt)));
  box.value = prompt;
  await writeColumns([{ number: 1, seed: first.seed ?? seedToUse() }]);
  session.last = [0, 1];
}

// --- other tokens -------------------------------------------------------------------------------

async function choose(turnNumber, columnNumber, index, element) {
  if (isWriting()) return;
  const { spans } = session.turns[turnNumber].columns[columnNumber];
  const asking = new AbortController();
  choices.open(element, () => asking.abort());
  try {
    const request = requestOf(turnNumber, columnNumber, spans.slice(0, index));
    for await (const event of call("/api/alternatives", request, asking.signal)) {
      if (event.waiting) choices.say(waiting(event.waiting));
      if (event.loading) choices.say(`loading ${event.loading} …`);
      if (event.alternatives) choices.fill(event.alternatives, spans[index], (choice) => takeOther(turnNumber, columnNumber, index, choice));
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    choices.close();
    tell(`error: ${error.message}`);
  }
}

async function takeOther(turnNumber, columnNumber, index, choice) {
  try {
    const seed = seedToUse();
    remember();
    session.turns.length = turnNumber + 1;
    const changed = lastTurn().columns[columnNumber];
    const taken = written({ ids: [choice.id], text: choice.text, probability: choice.probability });
    changed.spans = [...changed.spans.slice(0, index), taken];
    if (choice.text === "") endHere(changed, columnNumber);
    else await writeColumns([{ number: columnNumber, seed }]);
  } catch (error) {
    tell(`error: ${error.message}`);
  }
}

// The token that ends a text was taken: nothing follows.
function endHere(changed, columnNumber) {
  Object.assign(changed, { drawn: changed.spans.length, seed: null, reason: "end_of_text", said: "the text has ended" });
  session.last = [columnNumber];
  show();
  column.say(changed, changed.said);
}

