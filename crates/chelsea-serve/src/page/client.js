// What the page asks the server: with its key where it wants one, and streams as they come.

const KEY = "chelsea-key";
const $ = id => document.getElementById(id);

/** Asks for a key. Resolves to null if none is given. */
function askForKey() {
  const dialog = $("keyDialog");
  if (dialog.open) return new Promise(resolve => dialog.addEventListener("close", () => resolve(sessionStorage.getItem(KEY)), { once: true }));
  $("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise(resolve => dialog.addEventListener("close", () => {
    const key = dialog.returnValue === "ok" ? $("key").value.trim() : "";
    if (key) sessionStorage.setItem(KEY, key);
    resolve(key || null);
  }, { once: true }));
}

/** A request whose answer is fine; anything else is an error that says what the server says. */
export async function call(path, options = {}, onBusy = () => {}) {
  for (;;) {
    const headers = { "Content-Type": "application/json" }, key = sessionStorage.getItem(KEY);
    if (key) headers.Authorization = "Bearer " + key;
    const response = await fetch(path, { ...options, headers });
    if (response.ok) return response;
    if (response.status === 401 && await askForKey()) continue;
    if (response.status === 429) {
      onBusy();
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      await new Promise((resolve, reject) => {
        const timer = setTimeout(resolve, 1000 * seconds);
        options.signal?.addEventListener("abort", () => { clearTimeout(timer); reject(options.signal.reason); });
      });
      continue;
    }
    let text = response.status + " " + response.statusText;
    try { text = (await response.json()).error.message; } catch { /* it is no JSON: the status says what is known */ }
    throw Object.assign(new Error(text), { status: response.status });
  }
}

/** The events of a stream, each as the JSON it holds. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

/** Bytes as people write them. */
export function bytes(n) {
  if (n < 1024) return n + " B";
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let i = -1;
  do { n /= 1024; i++; } while (n >= 1024 && i < units.length - 1);
  return n.toFixed(1) + " " + units[i];
}
