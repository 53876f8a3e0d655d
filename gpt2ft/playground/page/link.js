// A link that brings a text again: all that it depends on, in the part of an address that stays here.

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
  try {
    const binary = atob(hash.slice(1).replaceAll("-", "+").replaceAll("_", "/"));
    const content = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(binary, (c) => c.charCodeAt(0))));
    const right = content.v === VERSION && Array.isArray(content.turns) && content.turns.length &&
      content.turns.every((turn) => typeof turn.lead === "string" && Array.isArray(turn.columns));
    if (right) return content;
  } catch {
    // said below
  }
  throw new Error("the link is damaged: copy the whole of it");
}
