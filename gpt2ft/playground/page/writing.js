// Lets models write: what they send is put into columns and shown.

import { call, waiting } from "./api.js";
import { append, follow, redraw, say } from "./column.js";
import { firstToken, textOf, written } from "./text.js";

const ENDS = {
  end_of_text: "the text has ended",
  stop_string: "a stop string ended it",
  max_new_tokens: "max_new_tokens reached",
};

let running = null; // {end, done} of what is written at this moment

export function isWriting() {
  return running !== null;
}

export function stop() {
  running?.end.abort();
}

// Ends what is written, and waits until it has ended.
export async function stopped() {
  stop();
  await running?.done;
}

// Writes on in columns at once. `jobs` are {column, request, onlyBeginning}; the request says the seed and the settings.
export async function writeAll(jobs) {
  const end = new AbortController();
  const done = Promise.all(jobs.map((job) => write(job, end.signal)));
  running = { end, done };
  await done;
  running = null;
}

async function write({ column, request, onlyBeginning }, signal) {
  [column.seed, column.reason, column.drawn] = [request.seed, null, column.spans.length];
  say(column, "", true);
  const began = column.spans.slice(firstToken(column.spans));
  const score = request.score_fixed || began.some((span) => span.probability === null);
  const own = new AbortController();
  signal.addEventListener("abort", () => own.abort());
  try {
    for await (const event of call("/api/write", { ...request, score_fixed: score }, own.signal)) {
      take(column, event, score);
      if (event.start && onlyBeginning) {
        own.abort();
        column.seed = null; // nothing was drawn
        return say(column, "");
      }
    }
  } catch (error) {
    say(column, error.name === "AbortError" ? `stopped, seed ${column.seed}` : `error: ${error.message}`);
  }
}

// Takes in an event of a text that is written.
function take(column, event, score) {
  if (event.waiting) say(column, waiting(event.waiting), true);
  if (event.loading) say(column, `loading ${event.loading} …`, true);
  if (event.start) begin(column, event.start.fixed.map(written), score);
  if (event.token) {
    column.spans.push(written(event.token));
    append(column, column.spans.length - 1);
    follow();
  }
  if (event.end) {
    column.reason = event.end.reason;
    say(column, summary(event.end, column.seed));
  }
}

// The server says what the fixed tokens are; they are shown anew if that tells something new.
function begin(column, fixed, score) {
  const first = firstToken(column.spans);
  if (score || textOf(fixed) !== textOf(column.spans.slice(first))) {
    column.spans = [...column.spans.slice(0, first), ...fixed];
    redraw(column);
  }
  column.drawn = column.spans.length;
  say(column, "writing …", true);
}

function summary(end, seed) {
  const rate = end.tokens_per_second.toFixed(end.tokens_per_second < 10 ? 1 : 0);
  const tokens = `${end.tokens} token${end.tokens === 1 ? "" : "s"}, ${rate} a second`;
  return [tokens, ENDS[end.reason], `seed ${seed}`, end.note].filter(Boolean).join("; ");
}
