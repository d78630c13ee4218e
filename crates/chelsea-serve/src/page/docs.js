// Shows what /openapi.json says.

const $ = id => document.getElementById(id);
let schemas = {};

function make(tag, text, ...children) {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  element.append(...children);
  return element;
}

function resolve(schema) {
  return schema.$ref ? schemas[schema.$ref.split("/").pop()] : schema;
}

/** An element with a text in which names stand between backticks. */
function said(tag, text) {
  return make(tag, "", ...text.split("`").map((part, i) => i % 2 ? make("code", part) : part));
}

/** What values a schema takes, in a few words. */
function kind(schema) {
  const named = schema.$ref?.split("/").pop();
  if (named && !["Usage", "Kv", "Timings"].includes(named)) return named;
  schema = resolve(schema);
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.filter(value => value !== null).map(value => JSON.stringify(value)).join(", ");
  if (schema.anyOf) return [...new Set(schema.anyOf.map(kind))].filter(word => word !== "null").join(" or ");
  if (schema.type === "null") return "null";
  const type = [schema.type ?? "anything"].flat().filter(word => word !== "null").join(" or ");
  if (type === "array") return "list of " + kind(schema.items || {});
  const least = schema.minimum ?? schema.exclusiveMinimum, most = schema.maximum, large = n => n === undefined || Math.abs(n) > 1e15;
  if (type === "integer" || type === "number") {
    const words = [large(least) ? "" : (schema.exclusiveMinimum === undefined ? "from " : "above ") + least, large(most) ? "" : "to " + most];
    return [type, ...words].filter(Boolean).join(" ");
  }
  return type;
}

function rows(schema, inner) {
  const required = schema.required || [];
  return Object.entries(schema.properties || {}).flatMap(([name, field]) => {
    const line = make("tr", "", make("th", ""), make("td", kind(field)), said("td", field.description || resolve(field).description || ""));
    line.firstChild.scope = "row";
    line.firstChild.append(make("code", name), required.includes(name) && !inner ? " *" : "");
    if (inner) line.className = "inner";
    const of = resolve(field), below = of.properties ? of : of.type === "array" && resolve(of.items || {});
    return [line, ...(!inner && below?.properties ? rows(below, true) : [])];
  });
}

function table(schema) {
  const whole = resolve(schema), of = whole.properties ? whole : whole.anyOf && resolve(whole.anyOf[0]);
  if (!of?.properties) return make("p", kind(schema));
  const head = make("tr", "", ...["field", "is", "says"].map(word => { const cell = make("th", word); cell.scope = "col"; return cell; }));
  return make("table", "", make("thead", "", head), make("tbody", "", ...rows(of, false)));
}

function section(method, path, operation) {
  const body = make("div"), box = make("details", "", make("summary", "", make("b", method.toUpperCase()), make("code", path), make("span", operation.summary)), body);
  const asked = operation.requestBody?.content["application/json"].schema;
  if (asked) body.append(make("h3", "Takes (fields with * are needed)"), table(asked));
  for (const [status, response] of Object.entries(operation.responses)) {
    if (status === "5XX") continue;
    body.append(make("h3", "Answers " + status + ": " + response.description));
    for (const [type, { schema }] of Object.entries(response.content || {})) {
      if (type === "application/json") body.append(table(schema));
      else body.append(said("p", type + (schema.description ? ": " + schema.description : "")));
      const data = schema.properties?.data, event = (data?.anyOf?.[0] ?? data)?.contentSchema;
      if (event) body.append(make("h3", "Data of each event"), table(event));
    }
  }
  if (method === "get" && !path.includes("{")) body.append(make("pre", "curl " + location.origin + path));
  box.dataset.words = (method + " " + path + " " + body.textContent).toLowerCase();
  return box;
}

try {
  const response = await fetch("/openapi.json"), api = await response.json();
  schemas = api.components.schemas;
  $("title").textContent = api.info.title + " " + api.info.version + ": the interfaces";
  $("about").textContent = api.info.description;
  for (const { name, description } of api.tags) {
    const sections = Object.entries(api.paths).flatMap(([path, item]) =>
      Object.entries(item).filter(([, operation]) => operation.tags[0] === name).map(([method, operation]) => section(method, path, operation)));
    $("paths").append(make("section", "", make("h2", name + ": " + description), ...sections));
  }
  $("find").addEventListener("input", event => {
    const word = event.target.value.trim().toLowerCase();
    for (const box of document.querySelectorAll("details")) box.hidden = !box.dataset.words.includes(word);
    for (const part of document.querySelectorAll("section")) part.hidden = ![...part.querySelectorAll("details")].some(box => !box.hidden);
  });
} catch (error) {
  $("about").textContent = "The description cannot be shown: " + error.message;
}
