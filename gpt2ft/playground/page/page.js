// The page: what its buttons and keys do, and how it starts.

import { begin, compare, doneEditing, edit, retry, show, undo, write } from "./actions.js";
import { state } from "./api.js";
import * as choices from "./choices.js";
import { copyLink, openLink } from "./linked.js";
import { isChat, isEditing, label, session } from "./session.js";
import * as settings from "./settings.js";
import { showShares } from "./tokens.js";
import { fit, tell } from "./view.js";
import { isWriting, stop } from "./writing.js";

const at = (id) => document.getElementById(id);
const box = at("box");

// An action whose error is said on the page.
function said(action) {
  return () => Promise.resolve().then(action).catch((error) => tell(`error: ${error.message}`));
}

function showSettings(open) {
  document.body.classList.toggle("with-settings", open);
  at("open-settings").setAttribute("aria-expanded", open);
  (open ? at("close-settings") : at("open-settings")).focus();
}

function hasSettings() {
  return document.body.classList.contains("with-settings");
}

function escape() {
  if (choices.isOpen()) choices.close();
  else if (isWriting()) stop();
  else if (hasSettings()) showSettings(false);
  else if (isEditing()) doneEditing();
}

function press(event) {
  if (event.isComposing) return; // the keys are those of an input method
  const sends = isChat() && event.target === box && !event.shiftKey;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey || sends)) {
    event.preventDefault();
    said(write)();
  } else if (event.key === "Escape") escape();
}

function listen() {
  const actions = { write, stop, edit, retry, undo, link: copyLink, reset: () => begin("chat"), defaults: settings.reset };
  for (const [id, action] of Object.entries(actions)) at(id).addEventListener("click", said(action));
  at("form-text").addEventListener("click", () => isChat() && begin("text"));
  at("form-chat").addEventListener("click", () => isChat() || begin("chat"));
  at("open-settings").addEventListener("click", () => showSettings(!hasSettings()));
  at("close-settings").addEventListener("click", () => showSettings(false));
  at("keep-seed").addEventListener("click", (event) => {
    at("seed").value = event.target.value;
    event.target.hidden = true;
    at("seed").focus();
  });
  at("colours").addEventListener("change", (event) => document.body.classList.toggle("plain", !event.target.checked));
  at("compare").addEventListener("change", said(compare));
  box.addEventListener("input", fit);
  addEventListener("resize", fit);
  addEventListener("hashchange", said(openLink));
  addEventListener("keydown", press);
  showShares(at("turns"), at("share"));
}

async function start() {
  show();
  const found = await state();
  session.models = found.models;
  settings.build(found.settings);
  const [first, second] = found.models;
  at("model").textContent = first.name;
  at("model-what").textContent = first.what;
  document.title = `${first.name} – gpt2ft`;
  at("compare-switch").hidden = !second;
  if (second) at("compare-name").textContent = label(second);
  at("forms").hidden = !found.chat;
  if (found.seed !== null) at("seed").value = found.seed;
  listen();
  document.body.classList.add("ready");
  await openLink();
  if (!session.turns.length) box.focus();
}

said(start)();
