// Conversations, kept in the browser: what was said, the documents, and the cache as it was last.

const KEY = "chelsea-conversations";

/** All conversations, the latest first. */
export function load() {
  let all;
  try { all = JSON.parse(localStorage.getItem(KEY)); } catch { all = null; }
  if (!Array.isArray(all)) return [];
  for (const conversation of all) {
    // What was on its way when the page was left goes no further.
    for (const turn of conversation.turns) {
      if (turn.pending) { turn.pending = false; turn.note = "stopped when the page was left"; turn.stopped = true; }
    }
  }
  return all;
}

/**
 * Keeps them. Documents may be larger than what a browser keeps: the oldest conversations give way. Returns whether the
 * latest one was kept.
 */
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

/** What the model is told in a turn: the documents, then the question. */
export function words(turn) {
  const documents = (turn.documents || []).map(document => document.name + ":\n\n" + document.text);
  return [...documents, turn.content].join("\n\n");
}
