// A text: spans that somebody typed and spans that a model wrote. No element of the page is touched here.
//
// A span is {text, ids, probability, by}. `by` is "model" for tokens, which are sent as their ids, so that the model
// reads the very tokens that it wrote; "you" for what was typed; "before" for a model's text of which the characters
// alone are known. The last two are sent as a part of the prompt.

export function typed(text) {
  return text ? [{ text, ids: [], probability: null, by: "you" }] : [];
}

export function known(text) {
  return text ? [{ text, ids: [], probability: null, by: "before" }] : [];
}

export function written(piece) {
  return { ...piece, by: "model" };
}

export function textOf(spans) {
  return spans.map((span) => span.text).join("");
}

export function idsOf(spans) {
  return spans.flatMap((span) => span.ids);
}

// The number of the span after which all are tokens.
export function firstToken(spans) {
  return spans.findLastIndex((span) => span.by !== "model") + 1;
}

// What is sent of spans: characters up to the first token that no other text follows, then ids.
export function beginning(spans) {
  const first = firstToken(spans);
  return { prompt: textOf(spans.slice(0, first)), fixed: idsOf(spans.slice(first)) };
}

// What one model wrote: `spans`, of which those from `drawn` on were drawn with `seed`; `reason`: why it ended.
export function newColumn(model, spans) {
  return { model, spans, drawn: spans.length, seed: null, reason: null, said: "" };
}

// The spans of a column that can be written on: without the token that ends a text. What a stop string cut off is not in
// the characters, but it would be in the ids.
export function open({ spans, reason }) {
  const some = spans.filter((span) => span.text !== "");
  return reason === "stop_string" ? some.map((span) => (span.by === "model" ? known(span.text)[0] : span)) : some;
}

// How many spans of the beginning were typed; side by side they stand in the box above.
export function typedFirst(spans) {
  const end = spans.findIndex((span) => span.by !== "you");
  return end < 0 ? spans.length : end;
}

// A text box knows one kind of line end.
function asInBox(text) {
  return text.replace(/\r\n?/g, "\n");
}

// The spans after somebody changed their text: the tokens before and after the change stay tokens. Those after it have
// other probabilities now, which the server is asked for.
export function edited(spans, text) {
  let [start, from, end, to] = [0, 0, spans.length, text.length];
  for (; start < end && text.startsWith(asInBox(spans[start].text), from); start++) from += asInBox(spans[start].text).length;
  for (; end > start && text.slice(from, to).endsWith(asInBox(spans[end - 1].text)); end--) to -= asInBox(spans[end - 1].text).length;
  if (start === end && from === to) return spans;
  const after = spans.slice(end).map((span) => ({ ...span, probability: null }));
  return [...spans.slice(0, start), ...typed(text.slice(from, to)), ...after];
}

// The conversation that a model is shown for its answer in the turn of that number.
export function messages(turns, turnNumber, columnNumber) {
  const found = [];
  for (const { question, columns } of turns.slice(0, turnNumber)) {
    const { spans } = columns[Math.min(columnNumber, columns.length - 1)];
    found.push({ role: "user", content: question }, { role: "assistant", content: textOf(spans) });
  }
  return [...found, { role: "user", content: turns[turnNumber].question }];
}
