// The calls of the server: each answer is a stream of lines of JSON.

const GONE = "the server does not answer; is generate.py still running?";
const token = new URLSearchParams(location.search).get("token");
const headers = { "Content-Type": "application/json" };
if (token) headers.Authorization = `Bearer ${token}`;

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { headers, ...options });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(GONE);
  }
  if (response.ok) return response;
  const found = await response.json().catch(() => ({ error: `the server answers ${response.status}` }));
  throw new Error(found.error);
}

// What there is: the models, the settings.
export async function state() {
  return (await send("/api/state")).json();
}

// The events of a call. It ends the call, and with it the text, if `signal` is aborted.
export async function* call(path, body, signal) {
  const response = await send(path, { method: "POST", body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Error(GONE);
    });
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      if (event.error) throw new Error(event.error);
      yield event;
    }
  }
}

// A sentence for those who wait.
export function waiting(number) {
  return number === 1 ? "1 text is before this one" : `${number} texts are before this one`;
}
