// The session as a link, and a link as the session.

import { doneEditing, show, writeColumns } from "./actions.js";
import * as link from "./link.js";
import { isEditing, remember, session } from "./session.js";
import * as settings from "./settings.js";
import { beginning, idsOf, known, newColumn, textOf, typed } from "./text.js";
import { tell } from "./view.js";
import { stopped } from "./writing.js";

const at = (id) => document.getElementById(id);

function content() {
  const turns = session.turns.map(({ question, columns }) => ({
    question,
    columns: columns.map((column) => ({
      model: column.model,
      name: session.models[column.model].name,
      ...beginning(column.spans.slice(0, column.drawn)),
      seed: column.seed,
      n: idsOf(column.spans.slice(column.drawn)).length,
      text: textOf(column.spans),
    })),
  }));
  return { form: session.form, box: at("box").value, turns, settings: settings.values() };
}

export async function copyLink() {
  if (isEditing()) doneEditing();
  const address = link.encode(content());
  history.replaceState(null, "", address);
  try {
    await navigator.clipboard.writeText(address);
    tell("The link is copied. It brings this text again.");
  } catch {
    tell("The link is in the address bar. It brings this text again.");
  }
}

// A column as a link has it. The last answer or text is written again, so that it has its probabilities.
function opened(given, isLast, form) {
  const column = newColumn(given.model, !isLast ? known(given.text) : form === "text" ? typed(given.prompt) : []);
  column.seed = given.seed;
  return column;
}

// Brings the text of the link in the address.
export async function openLink() {
  const found = link.decode(location.hash);
  if (!found) return;
  await stopped();
  if (found.form === "chat" && at("forms").hidden) throw new Error("the link is of a conversation, but the model has no chat template");
  const notes = settings.apply(found.settings).map((name) => `The setting ${name} of the link is unknown here.`);
  notes.push(...foreign(found));
  if (session.turns.length) remember();
  const here = ({ model }) => model < session.models.length;
  const last = found.turns.at(-1);
  const given = last?.columns.filter(here) ?? [];
  at("box").value = found.form === "chat" || last?.columns.length > 1 ? found.box : "";
  at("compare").checked = given.length > 1;
  Object.assign(session, { form: found.form, turns: [], last: [], editing: true });
  if (given.length) {
    session.turns = found.turns
      .map((turn) => ({ question: turn.question, columns: turn.columns.filter(here).map((column) => opened(column, turn === last, found.form)) }))
      .filter((turn) => turn.columns.length);
    await writeColumns(given.map((column, number) => job(column, number)));
  } else {
    at("box").value = found.box;
    show();
  }
  tell(notes.join(" "));
}

function job({ seed, fixed, n }, number) {
  const changes = { fixed, score_fixed: true, settings: { max_new_tokens: Math.max(1, n) } };
  return { number, seed: seed ?? 0, changes, onlyBeginning: n === 0 };
}

// Sentences about models that the link names and that are others here.
function foreign(found) {
  const names = new Map(found.turns.flatMap((turn) => turn.columns).map((column) => [column.model, column.name]));
  return [...names].filter(([number, name]) => session.models[number]?.name !== name).map(([number, name]) => {
    const here = session.models[number]?.name;
    return `The text of the link was written by ${name}; ${here ? `${here} writes here, and its text may be another.` : "it is not here."}`;
  });
}

