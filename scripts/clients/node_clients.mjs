// Clients for node against a running `chelsea serve`: OpenAI's and Anthropic's own, and the AI SDK.
//
//   npm install openai@6.49.0 @anthropic-ai/sdk@1.14.0 ai@6.0.326 @ai-sdk/openai-compatible@2.0.92 zod
//   chelsea serve -m qwen2.5-coder-0.5b --port 8099 &    (its chat template knows tools)
//   node scripts/clients/node_clients.mjs http://127.0.0.1:8099
//
// Every check prints a line; the first that fails ends the script with an error.

import { createRequire } from "node:module";
import { join } from "node:path";

// From where they were installed: the folder that this is started in.
const installed = createRequire(join(process.cwd(), "x.js"));
const OpenAI = installed("openai");
const Anthropic = installed("@anthropic-ai/sdk");
const { generateText, streamText, jsonSchema, Output } = installed("ai");
const { createOpenAICompatible } = installed("@ai-sdk/openai-compatible");

const [base = "http://127.0.0.1:8080"] = process.argv.slice(2);
const ask = [{ role: "user", content: "Name three colours." }];
const place = { type: "object", properties: { city: { type: "string", maxLength: 12 } }, required: ["city"], additionalProperties: false };

function check(name, condition, shown = "") {
  console.log((condition ? "ok  " : "NOT ") + name, shown);
  if (!condition) process.exit(1);
}

async function openai() {
  const client = new (OpenAI.default ?? OpenAI)({ baseURL: base + "/v1", apiKey: "none", maxRetries: 0 });
  const model = (await client.models.list()).data[0].id;
  const whole = await client.chat.completions.create({ model, messages: ask, max_tokens: 24, temperature: 0 });
  const text = whole.choices[0].message.content;
  check("openai: chat", text.length > 0 && whole.usage.completion_tokens <= 24, JSON.stringify(text));
  let streamed = "";
  const stream = await client.chat.completions.create({ model, messages: ask, max_tokens: 24, temperature: 0, stream: true });
  for await (const chunk of stream) streamed += chunk.choices[0]?.delta?.content ?? "";
  check("openai: the stream says what the whole says", streamed === text);
  const format = { type: "json_schema", json_schema: { name: "place", strict: true, schema: place } };
  const formed = await client.chat.completions.create({ model, messages: ask, max_tokens: 60, response_format: format });
  check("openai: a schema", typeof JSON.parse(formed.choices[0].message.content).city === "string");
  const tools = [{ type: "function", function: { name: "find", parameters: place } }];
  const called = await client.chat.completions.create({
    model, messages: ask, max_tokens: 100, tools, tool_choice: { type: "function", function: { name: "find" } },
  });
  const call = called.choices[0].message.tool_calls[0].function;
  check("openai: a forced call", call.name === "find" && "city" in JSON.parse(call.arguments), call.arguments);
  const short = { model, input: "Name three colours.", max_output_tokens: 4, temperature: 0 };
  const response = await client.responses.create(short);
  check("openai: response", text.startsWith(response.output_text) && response.status === "incomplete");
  let said = "", last;
  for await (const event of await client.responses.create({ ...short, stream: true })) {
    if (event.type === "response.output_text.delta") said += event.delta;
    last = event;
  }
  check("openai: the response's stream", said === response.output_text && last.type === "response.incomplete");
  const file = await client.files.create({ file: new File(["The tower was built in 1931.\n".repeat(20)], "tower.txt"), purpose: "user_data" });
  const content = await (await client.files.content(file.id)).text();
  check("openai: a file", content.startsWith("The tower") && (await client.files.retrieve(file.id)).filename === "tower.txt");
  const about = await client.chat.completions.create({
    model, max_tokens: 8, messages: [{ role: "user", content: [{ type: "file", file: { file_id: file.id } }, { type: "text", text: "When?" }] }],
  });
  check("openai: a question about it", about.usage.prompt_tokens > 150);
  check("openai: it is deleted", (await client.files.delete(file.id)).deleted);
  const wrong = await client.chat.completions.create({ model: "other", messages: ask }).catch(error => error);
  check("openai: a mistake is told", wrong instanceof OpenAI.NotFoundError && wrong.code === "model_not_found", wrong.message);
}

async function anthropic() {
  const client = new (Anthropic.default ?? Anthropic)({ baseURL: base, apiKey: "none", maxRetries: 0 });
  const model = (await client.models.list()).data[0].id;
  const body = { model, messages: ask, max_tokens: 24, temperature: 0, system: "Be brief." };
  const whole = await client.messages.create(body);
  const text = whole.content[0].text;
  check("anthropic: message", text.length > 0, JSON.stringify(text));
  const stream = client.messages.stream(body);
  let streamed = "";
  stream.on("text", piece => { streamed += piece; });
  const final = await stream.finalMessage();
  check("anthropic: the stream says what the whole says", streamed === text && final.stop_reason === whole.stop_reason);
  const tools = [{ name: "find", input_schema: place }];
  const called = await client.messages.create({ ...body, max_tokens: 100, tools, tool_choice: { type: "tool", name: "find" } });
  check("anthropic: a forced call", called.stop_reason === "tool_use" && "city" in called.content[0].input);
  const counted = await client.messages.countTokens({ model, messages: ask, system: "Be brief." });
  check("anthropic: count_tokens", counted.input_tokens === whole.usage.input_tokens + whole.usage.cache_read_input_tokens);
  const wrong = await client.messages.create({ ...body, messages: [] }).catch(error => error);
  check("anthropic: a mistake is told", wrong instanceof Anthropic.BadRequestError, wrong.message);
}

async function sdk() {
  const provider = createOpenAICompatible({ name: "chelsea", baseURL: base + "/v1", supportsStructuredOutputs: true, includeUsage: true });
  const model = provider("default");
  const options = { model, prompt: "Name three colours.", maxOutputTokens: 24, temperature: 0, maxRetries: 0 };
  const whole = await generateText(options);
  check("ai: generateText", whole.text.length > 0 && whole.usage.outputTokens <= 24, JSON.stringify(whole.text));
  let streamed = "";
  const stream = streamText(options);
  for await (const piece of stream.textStream) streamed += piece;
  check("ai: the stream says what the whole says", streamed === whole.text);
  check("ai: usage of the stream", (await stream.usage).outputTokens === whole.usage.outputTokens);
  const formed = await generateText({ ...options, maxOutputTokens: 60, output: Output.object({ schema: jsonSchema(place) }) });
  check("ai: an object", typeof formed.output.city === "string");
  const tools = { find: { description: "Finds a city.", inputSchema: jsonSchema(place) } };
  const called = await generateText({ ...options, maxOutputTokens: 100, tools, toolChoice: { type: "tool", toolName: "find" } });
  check("ai: a forced call", called.toolCalls[0].toolName === "find" && "city" in called.toolCalls[0].input);
}

await openai();
await anthropic();
await sdk();
