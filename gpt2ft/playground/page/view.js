// Draws the page as the session is.

import * as choices from "./choices.js";
import { render } from "./column.js";
import { isChat, isCompared, isEditing, label, lastTurn, session } from "./session.js";
import { make, shown } from "./tokens.js";
import { typedFirst } from "./text.js";
import { isWriting } from "./writing.js";

const at = (id) => document.getElementById(id);

// Says a sentence about the page as a whole.
export function tell(sentence) {
  at("status").textContent = sentence;
}

// `onEdit` and `onToken` are called when somebody wants to change the text, or opens a token.
export function draw({ onEdit, onToken }) {
  choices.close();
  const reading = !isChat() && !isCompared() && !session.editing;
  at("asking").hidden = reading;
  at("turns").hidden = !isChat() && !isCompared() && session.editing;
  at("turns").replaceChildren(...session.turns.map((turn, number) => turnElement(turn, number, { onEdit, onToken })));
  document.body.classList.toggle("chat", isChat());
  document.body.classList.toggle("compared", isCompared() && session.turns.length > 0);
  place();
  at("form-text").setAttribute("aria-pressed", !isChat());
  at("form-chat").setAttribute("aria-pressed", isChat());
  at("box-label").textContent = isChat() ? "Question" : "Beginning of the text";
  at("box").placeholder = isChat() ? "Ask something …" : "Type the beginning of a text …";
  fit();
  drawTools();
}

// A question is typed below the conversation, a beginning above what is written.
function place() {
  const [first, second] = isChat() ? [at("turns"), at("asking")] : [at("asking"), at("turns")];
  if (first.compareDocumentPosition(second) & Node.DOCUMENT_POSITION_PRECEDING) second.before(first);
}

function turnElement(turn, turnNumber, { onEdit, onToken }) {
  const element = make("article", "turn");
  if (isChat()) element.append(make("p", "question", shown(turn.question)));
  const place = make("div", turn.columns.length > 1 ? "columns two" : "columns");
  turn.columns.forEach((column, number) => {
    const model = session.models[column.model];
    place.append(render(column, {
      name: turn.columns.some((each) => each.model > 0) ? label(model) : "",
      label: isChat() ? `answer of ${model.name}` : `text of ${model.name}`,
      first: isCompared() && !isChat() ? typedFirst(column.spans) : 0, // the beginning is in the box above
      onEdit: isChat() || isCompared() ? null : onEdit,
      onToken: (index, token) => onToken(turnNumber, number, index, token),
    }));
  });
  element.append(place);
  return element;
}

// Shows what can be done.
export function drawTools() {
  const writing = isWriting(), some = session.turns.length > 0;
  at("write").textContent = isChat() ? "Ask" : "Write";
  at("write").hidden = writing;
  at("stop").hidden = !writing;
  at("edit").hidden = isChat() || isCompared();
  at("edit").textContent = isEditing() ? "Done" : "Edit";
  at("edit").disabled = writing || !some;
  at("retry").disabled = writing || isEditing() || !some || !lastTurn().columns.some((column) => column.seed !== null);
  at("undo").disabled = writing || !session.past.length;
  at("reset").hidden = !isChat();
  at("reset").disabled = writing || !some;
  at("link").disabled = writing;
  for (const id of ["compare", "form-text", "form-chat"]) at(id).disabled = writing;
  const seeds = some ? lastTurn().columns.map((column) => column.seed).filter((seed) => seed !== null) : [];
  keepSeed(seeds[0] ?? "");
}

// Offers the seed of the last text, unless it is the one that is set.
function keepSeed(seed) {
  const button = at("keep-seed");
  button.hidden = seed === "" || at("seed").value === String(seed);
  [button.value, button.textContent] = [seed, `Keep ${seed}, the last one`];
}

// As high as its text.
export function fit() {
  const box = at("box"), scrolled = scrollY;
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
  scrollTo(scrollX, scrolled);
}
