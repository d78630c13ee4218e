// The cache of a conversation: how large it is beside the full one, and what each head holds.

import { bytes } from "./client.js";

const $ = id => document.getElementById(id);
const number = n => n.toLocaleString();
const sum = list => list.reduce((a, b) => a + b, 0);
const GUTTER = 22, GAP = 6;
/** Where the cache stands above the conversation, not beside it. */
const NARROW = "(max-width: 75rem)";

let layout = null, tokens = 0, chosen = 0;

/** Shows what a cache holds: `kv` as the server tells it, or nothing. */
export function show(kv) {
  const share = kv && kv.bytes_full ? Math.min(100, 100 * kv.bytes / kv.bytes_full) : 0;
  $("now").style.width = share + "%";
  $("full").style.width = kv ? "100%" : "0";
  $("nowText").textContent = kv ? bytes(kv.bytes) + ", " + number(kv.entries) + " entries" : "–";
  $("fullText").textContent = kv ? bytes(kv.bytes_full) + " for " + number(kv.tokens) + " tokens" : "–";
  $("cacheShort").textContent = kv ? bytes(kv.bytes) + " instead of " + bytes(kv.bytes_full) : "nothing read yet";
  layout = kv && kv.layout && kv.layout.heads.length ? kv.layout : null;
  tokens = kv ? kv.tokens : 0;
  for (const id of ["heads", "legend", "numbers"]) $(id).hidden = !layout;
  $("head").textContent = "";
  if (!layout) {
    $("summary").textContent = kv
      ? "How the entries lie is told while the next question is answered."
      : "Each line here will be a head of the model: what it keeps of the text, from the first tokens to the last.";
    return;
  }
  summary();
  legend();
  draw();
  if ($("numbers").open) table();
}

/** What all caches of the server take together. */
export function showAll(kv) {
  $("all").style.width = Math.min(100, 100 * kv.bytes / kv.bytes_limit) + "%";
  $("allText").textContent = bytes(kv.bytes) + " of " + bytes(kv.bytes_limit);
}

const centroids = head => sum(head.clustered.slice(1));
const entries = head => head.sinks + sum(head.clustered) + head.recent;
// Every token before the recent ones that is no sink lies in an entry, unless a policy drops some.
const behind = head => Math.max(0, tokens - head.sinks - head.recent);

function summary() {
  const heads = layout.heads, layers = new Set(heads.map(head => head.layer)).size;
  const old = sum(heads.map(head => sum(head.clustered))), stood = sum(heads.map(behind));
  const each = heads.length / layers;
  $("summary").textContent = number(layers) + " layers of " + (Number.isInteger(each) ? number(each) : "several") + " heads. "
    + (old ? "What lies between the first and the latest tokens is kept in " + number(old) + " entries, each for "
      + (stood / old).toFixed(1) + " tokens on average." : "So far every token has an entry of its own.");
}

function say(head) {
  return "Layer " + head.layer + ", head " + head.head + ": " + number(head.sinks) + " sinks, " + number(head.clustered[0])
    + " kept as they are, " + number(centroids(head)) + " centroids, " + number(head.recent) + " recent.";
}

function colours() {
  const style = getComputedStyle(document.documentElement), of = name => style.getPropertyValue("--" + name).trim();
  return { sinks: of("sinks"), recent: of("recent"), empty: of("empty"), soft: of("soft"), accent: of("accent"),
    shades: layout.classes.map((_, i) => of("shade-" + i)) };
}

function legend() {
  const from = i => i === 0 ? 1 : layout.classes[i - 1] + 1;
  const shades = layout.classes.map((most, i) => [`shade-${i}`, most === null ? "over " + (from(i) - 1) : from(i) === most ? "" + most : from(i) + "–" + most]);
  const items = [["sinks", "first tokens"], ...shades, ["recent", "latest tokens"]];
  if ($("legend").children.length === items.length + 1) return;
  const note = document.createElement("li");
  note.textContent = "Tokens that an entry stands for:";
  $("legend").replaceChildren(...items.map(([name, text]) => {
    const item = document.createElement("li"), box = document.createElement("i");
    box.style.background = `var(--${name})`;
    item.append(box, text);
    return item;
  }));
  $("legend").children[0].after(note);
}

/** Where each head is drawn: a row for each layer, a column for each of its heads. */
function grid(width) {
  const layers = [...new Set(layout.heads.map(head => head.layer))];
  const columns = Math.max(...layout.heads.map(head => head.head)) + 1;
  const room = matchMedia(NARROW).matches ? 240 : 420;
  const row = Math.max(5, Math.min(14, Math.floor(room / layers.length)));
  const cell = (width - GUTTER - GAP * (columns - 1)) / columns;
  const place = head => ({ x: GUTTER + head.head * (cell + GAP), y: layers.indexOf(head.layer) * row });
  return { layers, row, cell, place, height: layers.length * row };
}

function draw() {
  const canvas = $("heads"), width = canvas.clientWidth;
  if (!layout || !width) return;
  const { layers, row, cell, place, height } = grid(width), scale = devicePixelRatio || 1, colour = colours();
  canvas.style.height = height + "px";
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const to = canvas.getContext("2d");
  to.scale(scale, scale);
  to.font = "10px system-ui, sans-serif";
  to.textBaseline = "middle";
  const every = Math.ceil(12 / row);
  to.fillStyle = colour.soft;
  layers.forEach((layer, i) => { if (i % every === 0) to.fillText(layer, 0, i * row + row / 2); });
  const most = Math.max(1, ...layout.heads.map(entries));
  layout.heads.forEach((head, i) => {
    const { x, y } = place(head), high = row - 2;
    to.fillStyle = colour.empty;
    to.fillRect(x, y + 1, cell, high);
    let at = x;
    // What is there at all is seen: a few sinks beside a thousand entries would be less than a dot.
    const part = (n, fill, least = 0) => {
      const wide = n ? Math.max(least, n / most * (cell - 2)) : 0;
      to.fillStyle = fill;
      to.fillRect(at, y + 1, wide, high);
      at += wide;
    };
    part(head.sinks, colour.sinks, 2);
    head.clustered.forEach((n, shade) => part(n, colour.shades[shade]));
    part(head.recent, colour.recent);
    if (i === chosen && document.activeElement === canvas) {
      to.strokeStyle = colour.accent;
      to.lineWidth = 2;
      to.strokeRect(x - 1, y, cell + 2, row);
    }
  });
}

function table() {
  const rows = new Map();
  for (const head of layout.heads) {
    const row = rows.get(head.layer) || [0, 0, 0, 0];
    [head.sinks, head.clustered[0], centroids(head), head.recent].forEach((n, i) => { row[i] += n; });
    rows.set(head.layer, row);
  }
  $("rows").replaceChildren(...[...rows].map(([layer, cells]) => {
    const line = document.createElement("tr"), name = document.createElement("th");
    name.scope = "row";
    name.textContent = layer;
    line.append(name, ...cells.map(n => {
      const cell = document.createElement("td");
      cell.textContent = number(n);
      return cell;
    }));
    return line;
  }));
}

function choose(i) {
  chosen = Math.max(0, Math.min(layout.heads.length - 1, i));
  $("head").textContent = say(layout.heads[chosen]);
  draw();
}

/** Has the picture answer to pointers, keys, and pages that change. */
export function begin() {
  const canvas = $("heads");
  canvas.addEventListener("pointermove", event => {
    if (!layout) return;
    const { place, row, cell } = grid(canvas.clientWidth);
    const i = layout.heads.findIndex(head => {
      const { x, y } = place(head);
      return event.offsetX >= x && event.offsetX <= x + cell && event.offsetY >= y && event.offsetY < y + row;
    });
    if (i >= 0) choose(i);
  });
  canvas.addEventListener("focus", () => layout && choose(chosen));
  canvas.addEventListener("blur", draw);
  canvas.addEventListener("keydown", event => {
    if (!layout) return;
    const of = head => layout.heads.findIndex(other => other.layer === head.layer && other.head === head.head);
    const now = layout.heads[Math.min(chosen, layout.heads.length - 1)];
    const layers = [...new Set(layout.heads.map(head => head.layer))], at = layers.indexOf(now.layer);
    const vertical = step => of({ layer: layers[at + step], head: now.head });
    const next = { ArrowRight: chosen + 1, ArrowLeft: chosen - 1, ArrowDown: vertical(1), ArrowUp: vertical(-1) }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    if (next >= 0) choose(next);
  });
  $("numbers").addEventListener("toggle", () => layout && table());
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  if (matchMedia(NARROW).matches) $("cache").open = false;
}
