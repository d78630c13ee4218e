// The page: documents, questions, answers as they come, and the cache beside them.

import { begin, show, showAll } from "./cache.js";
import { bytes, call, events } from "./client.js";
import { listed, remove, upload } from "./documents.js";
import { load, save, told } from "./store.js";

const $ = id => document.getElementById(id);
const number = n => n.toLocaleString();
const LARGEST = 30e6;

let all = load(), current = all[0] || null;
/** Documents that come with the next question, and whether it waits for them. */
let waiting = [], waits = false;
/** What is asked right now, by conversation. */
const running = new Map();
/** The elements of the turns that are shown. */
const views = new WeakMap();

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function keep() {
  if (!save(all)) complain("This conversation is too large for the browser to keep: it is gone when the page is left.");
}

function complain(text) { $("complaint").textContent = text; }

/** Says something to those who hear the page. */
function tell(text) { $("status").textContent = text; }

// What is shown.

function start() {
  current = { name: "New conversation", turns: [], kv: null, budget: $("budget").value };
  all.unshift(current);
  draw();
  $("question").focus();
}

function drawList() {
  $("list").replaceChildren(...all.map(conversation => {
    const item = make("li"), open = make("button", "", conversation.name), drop = make("button", "", "×");
    if (conversation === current) open.setAttribute("aria-current", "true");
    if (running.has(conversation)) open.append(" …");
    open.onclick = () => { current = conversation; draw(); };
    drop.setAttribute("aria-label", "Delete " + conversation.name);
    drop.onclick = () => {
      running.get(conversation)?.abort();
      all = all.filter(other => other !== conversation);
      if (current === conversation) current = all[0] || null;
      keep();
      draw();
      $("new").focus();
    };
    item.append(open, drop);
    return item;
  }));
}

function draw() {
  drawList();
  $("title").textContent = current ? "Conversation: " + current.name : "Conversation";
  $("log").replaceChildren(...(current ? current.turns : []).map(view));
  $("log").scrollTop = $("log").scrollHeight;
  $("budget").value = current?.budget || "";
  show(current && current.kv);
  buttons();
}

function buttons() {
  const busy = running.has(current);
  $("stop").hidden = !busy;
  $("send").disabled = busy || waits;
}

function view(turn) {
  const box = make("div", "turn " + turn.role), chips = make("div");
  box.append(make("h3", "", turn.role === "user" ? "you" : "model"));
  for (const document of turn.documents || []) chips.append(chip(document));
  const parts = { thought: make("span", "thought"), text: make("span"), progress: make("progress"), note: make("span", "note") };
  parts.progress.setAttribute("aria-label", "Tokens read");
  box.append(chips, parts.thought, parts.text, parts.progress, parts.note);
  views.set(turn, parts);
  update(turn);
  return box;
}

function chip(document) {
  return make("span", "chip", document.name + " · " + bytes(document.bytes));
}

function button(text, label, act) {
  const element = make("button", "", text);
  element.type = "button";
  element.setAttribute("aria-label", label);
  element.onclick = act;
  return element;
}

/** Brings the elements of a turn up to date, if it is shown. */
function update(turn) {
  const parts = views.get(turn);
  if (!parts) return;
  const log = $("log"), follows = log.scrollHeight - log.scrollTop - log.clientHeight < 120;
  parts.thought.textContent = turn.thought || "";
  parts.thought.hidden = !turn.thought;
  parts.text.textContent = turn.content;
  parts.progress.hidden = !turn.reading;
  if (turn.reading) [parts.progress.value, parts.progress.max] = turn.reading;
  parts.note.textContent = turn.note || "";
  parts.note.classList.toggle("wrong", !!turn.wrong);
  if (follows) log.scrollTop = log.scrollHeight;
}

function drawDocuments() {
  $("documents").replaceChildren(...waiting.map(document => {
    const item = chip(document), place = make("li");
    if (document.error) {
      item.classList.add("wrong");
      item.append(" · not on the server: " + document.error, button("Try again", "Try again to put " + document.name + " on the server", () => put(document)));
    } else if (!document.id) {
      item.append(" · on its way");
      item.setAttribute("aria-busy", "true");
    }
    item.append(button("×", "Leave out " + document.name, () => { leaveOut(document); $("question").focus(); }));
    place.append(item);
    return place;
  }));
}

function leaveOut(document) {
  waiting = waiting.filter(other => other !== document);
  drawDocuments();
}

/** The documents of the server, to be asked about in any conversation. */
async function drawThere() {
  const list = $("thereList");
  try {
    const documents = await listed();
    list.replaceChildren(...documents.map(document => {
      const item = make("li"), name = document.name + " · " + bytes(document.bytes);
      item.append(button(name, "Ask about " + document.name, () => {
        if (!waiting.some(other => other.id === document.id)) waiting.push(document);
        $("there").open = false;
        drawDocuments();
        $("question").focus();
      }));
      if (!document.mounted) {
        item.append(button("×", "Delete " + document.name + " from the server", async () => {
          try { await remove(document.id); } catch (error) { complain(error.message); }
          drawThere();
        }));
      }
      return item;
    }));
    if (!documents.length) list.append(make("li", "soft", "There are none yet."));
  } catch (error) {
    list.replaceChildren(make("li", "wrong", error.message));
  }
}

async function properties() {
  try {
    const props = await (await call("/props")).json();
    $("model").textContent = props.model + ", " + number(props.context) + " tokens, " + props.kv.budget + " of the cache";
    showAll(props.kv);
  } catch (error) {
    $("model").textContent = error.message;
  }
}

// What is asked.

async function take(files) {
  complain("");
  for (const file of files) {
    if (file.size > LARGEST) { complain(file.name + " is too large: " + bytes(LARGEST) + " at most."); continue; }
    try {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      if (text.includes("\0")) throw new Error("it holds bytes that no text has");
      const document = { name: file.name, text, bytes: file.size };
      waiting.push(document);
      put(document);
    } catch {
      complain(file.name + " is no text in UTF-8.");
    }
  }
  $("question").focus();
}

/** Puts a document on the server. What comes of it is shown beside its name. */
function put(document) {
  document.error = "";
  document.done = upload(document.name, document.text).then(there => {
    Object.assign(document, there);
    delete document.text;
    // The same text may have had another id, on a server that has forgotten it.
    const same = all.flatMap(conversation => conversation.turns.flatMap(turn => turn.documents || [])).filter(other => other.mark === there.mark);
    same.forEach(other => { other.id = there.id; });
    keep();
    const known = current?.turns.some(turn => turn.documents?.some(other => other.mark === there.mark));
    if (known) leaveOut(document);
    tell(document.name + (known ? " is on the server again." : " is on the server and comes with the next question."));
  }, error => {
    document.error = error.message;
    tell("Error: " + document.name + " is not on the server: " + error.message);
  }).finally(() => { drawDocuments(); if ($("there").open) drawThere(); });
  drawDocuments();
}

function note(answer, usage, timings) {
  const cached = usage.prompt_tokens_details.cached_tokens;
  return number(usage.prompt_tokens) + " tokens" + (cached ? " (" + number(cached) + " of them remembered)" : "") + ", "
    + number(usage.completion_tokens) + " written" + (timings ? " at " + timings.predicted_per_second.toFixed(1) + " a second" : "");
}

/** Takes an event of the answer in. */
function hear(conversation, answer, event) {
  if (event.prompt_progress) {
    const { processed, total } = event.prompt_progress;
    answer.reading = [processed, total];
    answer.note = "reading: " + number(processed) + " of " + number(total) + " tokens";
  }
  if (event.kv) {
    conversation.kv = event.kv;
    if (conversation === current) show(event.kv);
  }
  const delta = event.choices?.[0]?.delta;
  if (delta?.content || delta?.reasoning_content) {
    if (answer.reading) { answer.reading = null; tell("The document was read, the answer begins."); }
    answer.content += delta.content || "";
    answer.thought = (answer.thought || "") + (delta.reasoning_content || "");
    answer.note = "";
  }
  update(answer);
}

/** What is kept of a document in a turn. */
const kept = ({ id, name, bytes, mark }) => ({ id, name, bytes, mark });

async function ask(question) {
  if (!current) start();
  const conversation = current, documents = waiting.map(kept);
  if (!conversation.turns.length) conversation.name = (documents.length ? documents[0].name + ": " : "") + question.slice(0, 40);
  conversation.budget = $("budget").value;
  conversation.turns.push({ role: "user", content: question, documents });
  const answer = { role: "assistant", content: "", note: "waiting", pending: true };
  conversation.turns.push(answer);
  all = [conversation, ...all.filter(other => other !== conversation)];
  waiting = [];
  drawDocuments();
  const asked = new AbortController();
  running.set(conversation, asked);
  keep();
  draw();
  tell("Asked.");
  try {
    const { messages, document } = told(conversation.turns);
    const kv = { layout: true, ...(conversation.budget ? { budget: conversation.budget } : {}), ...(document ? { document } : {}) };
    const body = JSON.stringify({
      messages, stream: true, return_progress: true, temperature: 0, kv, stream_options: { include_usage: true },
    });
    const busy = () => { answer.note = "the server is busy: trying again"; update(answer); };
    const response = await call("/v1/chat/completions", { method: "POST", body, signal: asked.signal }, busy);
    let usage = null, timings = null;
    for await (const event of events(response)) {
      hear(conversation, answer, event);
      usage = event.usage || usage;
      timings = event.timings || timings;
    }
    if (usage) answer.note = note(answer, usage, timings);
    else throw new Error("the answer ended before it was complete: ask again");
    tell("Answer: " + answer.content);
  } catch (error) {
    if (asked.signal.aborted) { answer.note = "stopped"; answer.stopped = true; tell("Stopped."); }
    else {
      const lost = error.status === 404 && conversation.turns.some(turn => turn.documents?.length);
      answer.note = error.message + (lost ? ": a document is no longer on the server. Drop the same file here and ask again." : "");
      answer.wrong = true;
      tell("Error: " + answer.note);
    }
  }
  answer.pending = false;
  answer.reading = null;
  running.delete(conversation);
  update(answer);
  drawList();
  buttons();
  keep();
  properties();
}

// What people do.

$("ask").onsubmit = async event => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (running.has(current) || waits || !question) return;
  complain("");
  waits = true;
  buttons();
  // Documents may still be on their way.
  await Promise.all(waiting.map(document => document.done));
  waits = false;
  const failed = waiting.find(document => document.error);
  if (failed) complain(failed.name + " is not on the server: try again, or leave it out.");
  else { $("question").value = ""; ask(question); }
  buttons();
};
$("question").onkeydown = event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("ask").requestSubmit(); }
};
$("stop").onclick = () => { running.get(current)?.abort(); $("question").focus(); };
$("new").onclick = start;
addEventListener("click", event => { if (!event.target.closest("#there")) $("there").open = false; });
$("there").ontoggle = () => { if ($("there").open) drawThere(); };
$("file").onchange = event => { take([...event.target.files]); event.target.value = ""; };
addEventListener("dragover", event => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", event => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", event => { event.preventDefault(); document.body.classList.remove("over"); take([...event.dataTransfer.files]); });
addEventListener("pagehide", () => save(all));

begin();
draw();
properties();
setInterval(() => document.hidden || properties(), 2000);
