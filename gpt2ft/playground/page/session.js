// What there is on the page at this moment, and what it was before each change.

const LONGEST_PAST = 200; // changes that can be taken back
const box = document.getElementById("box");

// `form`: "text", which has one turn at most, or "chat". A turn is {question, columns}; in a text there is no question.
// `last`: numbers of the columns of the last turn that were written last. `editing`: a text is shown in the box.
export const session = { models: [], form: "text", turns: [], last: [], editing: true, past: [] };

export function isChat() {
  return session.form === "chat";
}

export function lastTurn() {
  return session.turns.at(-1);
}

// Whether models write side by side.
export function isCompared() {
  return document.getElementById("compare").checked && session.models.length > 1;
}

// Whether a text that was written on is in the box.
export function isEditing() {
  return session.editing && !isChat() && !isCompared() && session.turns.length > 0;
}

export function label(model) {
  return model.what ? `${model.name} · ${model.what}` : model.name;
}

// Keeps what there is, so that the change that follows can be taken back. `compared`: whether models wrote side by side.
export function remember(compared = isCompared()) {
  const { form, turns, last, editing } = session;
  session.past.push({ form, turns: turns.map(copied), last, editing, box: box.value, compared });
  if (session.past.length > LONGEST_PAST) session.past.shift();
}

// Spans are never changed, so that a copy shares them.
function copied({ question, columns }) {
  return { question, columns: columns.map((column) => ({ ...column, spans: [...column.spans] })) };
}

// Takes back the last change.
export function restore() {
  const { box: text, compared, ...before } = session.past.pop();
  Object.assign(session, before);
  box.value = text;
  document.getElementById("compare").checked = compared;
}
