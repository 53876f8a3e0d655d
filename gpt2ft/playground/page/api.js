// The calls of the server: each answer is a stream of lines of JSON.

const token = new URLSearchParams(location.search).get("token");
const headers = { "Content-Type": "application/json" };
if (token) headers.Authorization = `Bearer ${token}`;

export async function state() {
  const response = await fetch("/api/state", { headers });
  const found = await response.json();
  if (!response.ok) throw new Error(found.error);
  return found;
}

// The events of a call. It ends the call, and with it the text, if `signal` is aborted.
export async function* call(path, body, signal) {
  let response;
  try {
    response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("the server does not answer: is generate.py still running?");
  }
  if (!response.ok) {
    const found = await response.json().catch(() => ({ error: `the server answers ${response.status}` }));
    throw new Error(found.error);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Error("the server has gone");
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
