// A link that brings a text again: all that the text depends on, in the part of an address that no server is sent.

const VERSION = 1;

export function encode(content) {
  const bytes = new TextEncoder().encode(JSON.stringify({ v: VERSION, ...content }));
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  const code = btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  return `${location.origin}${location.pathname}${location.search}#${code}`;
}

// The content of a link; null if there is none. Throws if it is damaged.
export function decode(hash) {
  if (hash.length < 2) return null;
  let content;
  try {
    const binary = atob(hash.slice(1).replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(binary, (c) => c.charCodeAt(0));
    content = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    content = null;
  }
  if (!isRight(content)) throw new Error("the link is damaged: copy the whole of it");
  return content;
}

const isNumber = (value) => Number.isSafeInteger(value) && value >= 0;
const isText = (value) => typeof value === "string";
const isList = (value, isItem) => Array.isArray(value) && value.every(isItem);

function isRight(content) {
  return content?.v === VERSION && ["text", "chat"].includes(content.form) && isText(content.box) &&
    typeof content.settings === "object" && content.settings !== null && isList(content.turns, isTurn);
}

function isTurn(turn) {
  return isText(turn?.question) && isList(turn.columns, isColumn) && turn.columns.length > 0;
}

function isColumn(column) {
  return isNumber(column?.model) && isText(column.name) && isText(column.prompt) && isText(column.text) &&
    isList(column.fixed, isNumber) && isNumber(column.n) && (column.seed === null || isNumber(column.seed));
}
