// What is on the page: turns of a text or a conversation, each with a column for each model.

import { idsOf, newColumn, textOf } from "./column.js";
import * as settings from "./settings.js";

export const now = {
  models: [],
  doc: { form: "text", turns: [], last: [] }, // `last`: columns of the last turn that were written last
  editing: true, // form "text": the box is shown, not what was written
  running: null, // ends the calls that run
};

const past = []; // what it was before each change

// Keeps what is there, with what was typed, for undo.
export function remember(typed) {
  past.push(structuredClone({ doc: now.doc, editing: now.editing, typed }));
}

// Takes the last change back; returns what was typed then.
export function takeBack() {
  const before = past.pop();
  [now.doc, now.editing] = [before.doc, before.editing];
  return before.typed;
}

export function canTakeBack() {
  return past.length > 0;
}

export function newTurn(lead, isSideBySide) {
  const numbers = isSideBySide && now.models.length > 1 ? [0, 1] : [0];
  return { lead, columns: numbers.map((model) => newColumn(model, lead)) };
}

// The conversation that a model is shown for its answer in the turn of that number.
function messages(turnNumber, columnNumber) {
  const { turns } = now.doc;
  const found = [];
  for (const turn of turns.slice(0, turnNumber)) {
    const column = turn.columns[Math.min(columnNumber, turn.columns.length - 1)];
    found.push({ role: "user", content: turn.lead }, { role: "assistant", content: textOf(column) });
  }
  return [...found, { role: "user", content: turns[turnNumber].lead }];
}

// What the server is asked for a column that goes on behind these pieces.
export function request(turnNumber, columnNumber, pieces) {
  const column = now.doc.turns[turnNumber].columns[columnNumber];
  const isChat = now.doc.form === "chat";
  const beginning = isChat ? { messages: messages(turnNumber, columnNumber) } : { prompt: column.lead };
  return { model: column.model, ...beginning, fixed: idsOf(pieces), settings: settings.values() };
}

// All that the text depends on, for a link.
export function content(typed) {
  const turns = now.doc.turns.map(({ lead, columns }) => ({
    lead,
    columns: columns.map((column) => ({
      model: column.model,
      name: now.models[column.model].name,
      lead: column.lead,
      seed: column.seed,
      fixed: idsOf(column.pieces.slice(0, column.fixed)),
      n: idsOf(column.pieces.slice(column.fixed)).length,
      text: textOf(column),
    })),
  }));
  const begun = turns.length ? turns : [{ lead: typed, columns: [] }];
  return { form: now.doc.form, turns: begun, settings: settings.values() };
}

// The turns of a link's content. What was drawn last is not in them: it is drawn again.
export function turnsOf({ turns }) {
  const last = turns.at(-1);
  return turns.map((turn) => ({
    lead: turn.lead,
    columns: turn.columns.filter((column) => now.models[column.model]).map((column) => ({
      ...newColumn(column.model, column.lead),
      seed: column.seed,
      pieces: turn === last ? [] : [{ ids: [], text: column.text, probability: null }],
    })),
  }));
}
