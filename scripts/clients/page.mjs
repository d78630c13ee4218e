// Drives the page of a running server in a headless browser, at the sizes of a telephone and of a desk, light and dark: a
// document is dropped, questions are asked, the page is left and come back to, and documents fail to arrive or are lost.
// Screenshots go to a folder to be looked at.
//
//   npm install playwright-core
//   node scripts/clients/page.mjs http://127.0.0.1:8080 OUT [CHROMIUM]
//
// CHROMIUM is the browser's path, /usr/bin/chromium by default. The server should have no key.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

// From where it was installed: the folder that this is started in.
const { chromium } = createRequire(join(process.cwd(), "x.js"))("playwright-core");
const [base = "http://127.0.0.1:8080", out = "page-shots", executablePath = "/usr/bin/chromium"] = process.argv.slice(2);
mkdirSync(out, { recursive: true });

const facts = ["The tower was built in 1931.", "It was painted green.", "A cat named Pomelo lives in it.", "The ferry runs at noon."];
// One for each visit: what was read before is not read again.
const text = label => "# Notes of " + label + " on a tower\n\n"
  + Array.from({ length: 220 }, (_, i) => facts[i % facts.length] + " Note " + i + " was kept.").join("\n");
const SIZES = { desk: { width: 1440, height: 900 }, tablet: { width: 900, height: 1000 }, phone: { width: 390, height: 844 } };

/** Everything that is wrong with a page beyond what it does: requests to elsewhere, errors, widths. */
function watch(page, wrong) {
  page.on("request", request => {
    if (!request.url().startsWith(base) && !request.url().startsWith("data:")) wrong.push("a request to " + request.url());
  });
  page.on("console", message => { if (["error", "warning"].includes(message.type())) wrong.push(message.text()); });
  page.on("pageerror", error => wrong.push(String(error)));
}

const overflow = page => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

async function drop(page, name, content) {
  const data = await page.evaluateHandle(([name, content]) => {
    const data = new DataTransfer();
    data.items.add(new File([content], name, { type: "text/markdown" }));
    return data;
  }, [name, content]);
  await page.dispatchEvent("body", "drop", { dataTransfer: data });
}

async function answered(page) {
  await page.waitForFunction(() => document.getElementById("stop").hidden, null, { timeout: 300_000 });
}

/** The document that comes with the next question, once it is on the server. */
async function brought(page, name) {
  const chip = page.locator("#documents .chip", { hasText: name });
  await chip.waitFor();
  await page.waitForFunction(() => !document.querySelector("#documents [aria-busy]"));
  assert.doesNotMatch(await chip.textContent(), /not on the server/);
}

/** Names of controls that have none for those who do not see them. */
const nameless = page => page.evaluate(() => [...document.querySelectorAll("button, input, select, textarea, canvas, a, progress")]
  .filter(e => !(e.textContent.trim() || e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.labels?.length || e.title))
  .map(e => e.outerHTML));

async function visit(browser, size, scheme) {
  const wrong = [], label = size + "-" + scheme;
  const context = await browser.newContext({ viewport: SIZES[size], colorScheme: scheme, deviceScaleFactor: size === "phone" ? 2 : 1 });
  const page = await context.newPage();
  watch(page, wrong);
  const shot = name => page.screenshot({ path: `${out}/${label}-${name}.png` });
  await page.goto(base + "/");
  await page.waitForFunction(() => document.getElementById("model").textContent.includes("tokens"));
  await shot("1-empty");

  // It is put on the server once, and asked about by its id.
  const uploads = [], asked = [];
  page.on("request", request => {
    if (request.method() !== "POST") return;
    if (request.url().endsWith("/v1/files")) uploads.push(request);
    if (request.url().endsWith("/v1/chat/completions")) asked.push(request.postDataJSON());
  });
  const tower = text(label + " at " + Date.now());
  await drop(page, "tower.md", tower);
  await brought(page, "tower.md");
  await shot("1-dropped");
  await page.getByLabel(/^Your question/).fill("Who lives in the tower?");
  await page.keyboard.press("Enter");
  await page.locator(".turn.assistant progress").waitFor({ state: "visible", timeout: 60_000 });
  await page.locator("#cache").evaluate(cache => { cache.open = true; });
  await page.waitForFunction(() => document.getElementById("heads").height > 100, null, { timeout: 120_000 });
  await shot("2-reading");
  await page.waitForFunction(() => document.querySelector(".turn.assistant span:nth-of-type(2)")?.textContent.length > 10, null, { timeout: 300_000 });
  await shot("3-answering");
  await answered(page);
  assert.match(await page.locator("#cacheShort").textContent(), /iB instead of .*iB/);
  assert.match(await page.locator("#summary").textContent(), /entries, each for \d/);
  await page.locator("#heads").focus();
  await page.keyboard.press("ArrowDown");
  assert.match(await page.locator("#head").textContent(), /^Layer 1, head 0: \d+ sinks/);
  await page.locator("#numbers summary").click();
  await page.locator("#rows tr").nth(2).waitFor();
  await shot("4-answered");

  // Another conversation while the first stays, about the same document: from the list, and dropped once more.
  await page.getByRole("button", { name: "New conversation", exact: true }).first().click();
  await page.getByText("On the server", { exact: true }).click();
  await page.getByRole("button", { name: "Ask about tower.md" }).first().waitFor();
  await shot("4-on-the-server");
  await page.getByRole("button", { name: "Ask about tower.md" }).first().click();
  await brought(page, "tower.md");
  await page.getByRole("button", { name: "Leave out tower.md" }).click();
  await drop(page, "tower.md", tower);
  await brought(page, "tower.md");
  await page.getByLabel(/^Your question/).fill("Which colour has it?");
  await page.getByRole("button", { name: "Ask", exact: true }).click();
  await answered(page);
  assert.match(await page.locator(".turn.assistant .note").last().textContent(), /of them remembered/, "it is read once for both");
  assert.equal(await page.locator("#list li").count(), 2);
  await page.reload();
  assert.equal(await page.locator("#list li").count(), 2);
  await page.getByRole("button", { name: /^tower\.md: Who/ }).click();
  assert.match(await page.locator(".turn.user").first().textContent(), /Who lives in the tower/);
  await page.getByLabel(/^Your question/).fill("When was it built?");
  await page.keyboard.press("Enter");
  await answered(page);
  assert.match(await page.locator(".turn.assistant .note").last().textContent(), /of them remembered/, "the document is not read again");
  await shot("5-went-on");
  assert.equal(uploads.length, 1, "the document is brought once");
  assert.equal(asked.length, 3);
  assert.ok(asked.every(body => body.kv.document === asked[0].kv.document && /^file-/.test(body.kv.document)));
  assert.ok(asked.every(body => !JSON.stringify(body.messages).includes("Note 100 was kept")), "its text is not sent again");

  // Stopping.
  await page.getByLabel(/^Your question/).fill("Tell me everything about the tower, at length.");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Stop" }).click();
  await answered(page);
  assert.equal(await page.locator(".turn.assistant .note").last().textContent(), "stopped");

  // What cannot be put on the server says so, and is not asked about until it is there.
  const told = wrong.length;
  const refuse = route => route.request().method() === "POST"
    ? route.fulfill({ status: 413, json: { error: { message: "delete one first" } } }) : route.continue();
  await page.route("**/v1/files", refuse);
  await drop(page, "other.md", text("another " + label + Date.now()));
  await page.locator("#documents .chip.wrong", { hasText: "not on the server: delete one first" }).waitFor();
  await page.getByLabel(/^Your question/).fill("What now?");
  await page.keyboard.press("Enter");
  await page.locator("#complaint").getByText("other.md is not on the server").waitFor();
  await shot("5-not-on-the-server");
  await page.unroute("**/v1/files", refuse);
  await page.getByRole("button", { name: "Try again to put other.md on the server" }).click();
  await brought(page, "other.md");
  await page.getByRole("button", { name: "Leave out other.md" }).click();
  assert.equal(wrong.splice(told).filter(text => !text.includes("413")).length, 0);

  // One that the server has lost, as after a start without a folder.
  const { document } = asked[0].kv;
  await page.evaluate(id => fetch("/v1/files/" + id, { method: "DELETE" }), document);
  await page.getByLabel(/^Your question/).fill("Is it still there?");
  await page.keyboard.press("Enter");
  await answered(page);
  assert.match(await page.locator(".turn.assistant .note").last().textContent(), /Drop the same file here and ask again/);
  await drop(page, "tower.md", tower);
  await page.locator("#status").getByText("is on the server again").waitFor({ state: "attached" });
  await page.getByLabel(/^Your question/).fill("And now?");
  await page.keyboard.press("Enter");
  await answered(page);
  assert.doesNotMatch(await page.locator(".turn.assistant .note").last().textContent(), /no longer/);
  assert.equal(wrong.splice(told).filter(text => !text.includes("404")).length, 0);

  // What is no text is refused.
  await drop(page, "picture.png", "\u0000\u0001");
  await page.locator("#complaint").getByText("picture.png is no text").waitFor();

  assert.ok(await overflow(page) <= 0, "it is wider than the window by " + await overflow(page));
  assert.deepEqual(await nameless(page), []);
  await page.goto(base + "/docs");
  await page.getByText("/v1/chat/completions").waitFor();
  await page.getByText("/v1/chat/completions").click();
  await shot("6-docs");
  assert.ok(await overflow(page) <= 0, "the interfaces are wider than the window");
  assert.deepEqual(wrong, [], label);
  await context.close();
  console.log(label + ": fine");
}

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
try {
  for (const [size, scheme] of [["desk", "light"], ["desk", "dark"], ["tablet", "light"], ["phone", "light"], ["phone", "dark"]]) {
    await visit(browser, size, scheme);
  }
} finally {
  await browser.close();
}
