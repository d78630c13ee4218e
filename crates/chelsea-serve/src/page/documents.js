// Documents: each is put on the server once, and asked about by its id.

import { call } from "./client.js";

const KEY = "chelsea-documents";

/** The ids of what was put there from this browser, by the marks of the texts. */
function remembered() {
  try { return JSON.parse(localStorage.getItem(KEY)) || {}; } catch { return {}; }
}

function remember(mark, id) {
  try { localStorage.setItem(KEY, JSON.stringify({ ...remembered(), [mark]: id })); } catch { /* it is put there once more */ }
}

/** A mark of a text, by which the same file is known again: 64 bits in two halves, each mixed with every character. */
function markOf(text) {
  let a = 0x9e3779b9, b = 0x85ebca6b;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    a = Math.imul(a ^ c, 0x01000193);
    b = Math.imul((b << 5 | b >>> 27) ^ c, 0x9e3779b1);
  }
  return (a >>> 0).toString(16) + (b >>> 0).toString(16) + text.length.toString(16);
}

/** Whether the server still has it: with another key, or after a start without a folder, it has not. */
async function isThere(id) {
  try { await call("/v1/files/" + id); return true; }
  catch (error) { if (error.status === 404) return false; throw error; }
}

/** Puts a text on the server, unless it is there already. Resolves to what conversations keep of it. */
export async function upload(name, text) {
  const mark = markOf(name + "\0" + text), known = remembered()[mark];
  if (known && await isThere(known)) return { id: known, name, bytes: new Blob([text]).size, mark };
  const file = await (await call("/v1/files", { method: "POST", body: JSON.stringify({ name, text }) })).json();
  remember(mark, file.id);
  return { id: file.id, name, bytes: file.bytes, mark };
}

/** The documents that the server has for this key, the latest first, and those that it was started with. */
export async function listed() {
  const files = (await (await call("/v1/files")).json()).data.reverse();
  return files.map(file => ({ id: file.id, name: file.filename, bytes: file.bytes, mounted: !!file.mounted }));
}

export async function remove(id) { await call("/v1/files/" + id, { method: "DELETE" }); }
