// Conversations, kept in the browser: what was said, the ids of documents, and the cache as it was last.

const KEY = "chelsea-conversations";

/** All conversations, the latest first. */
export function load() {
  let all;
  try { all = JSON.parse(localStorage.getItem(KEY)); } catch { all = null; }
  if (!Array.isArray(all)) return [];
  for (const conversation of all) {
    // What was on its way when the page was left goes no further.
    for (const turn of conversation.turns) {
      // Pages of before kept texts instead of ids.
      if (turn.documents) turn.documents = turn.documents.filter(document => document.id);
      if (turn.pending) { turn.pending = false; turn.note = "stopped when the page was left"; turn.stopped = true; }
    }
  }
  return all;
}

/** Keeps them. Where there are more than a browser keeps, the oldest give way. Returns whether the latest one was kept. */
export function save(all) {
  for (let keep = all.slice(); ; keep.pop()) {
    try {
      localStorage.setItem(KEY, JSON.stringify(keep));
      return keep.length > 0 || all.length === 0;
    } catch {
      if (!keep.length) return false;
    }
  }
}

/**
 * A conversation as the server takes it: turns, and the document that goes before all of them. Answers that failed are left
 * out with their questions, whose documents go to the next one.
 */
export function told(turns) {
  const messages = [];
  let document, documents = [];
  turns.forEach((turn, i) => {
    const answer = turn.role === "user" ? turns[i + 1] : turn;
    if (turn.role === "user") documents.push(...(turn.documents || []));
    if (answer && (answer.wrong || (!answer.content && !answer.pending))) return;
    if (turn.role !== "user") {
      if (!turn.pending) messages.push({ role: turn.role, content: turn.content });
      return;
    }
    if (!messages.length) document = documents.shift()?.id;
    const files = documents.map(document => ({ type: "file", file: { file_id: document.id } }));
    messages.push({ role: "user", content: files.length ? [...files, { type: "text", text: turn.content }] : turn.content });
    documents = [];
  });
  return { messages, document };
}
