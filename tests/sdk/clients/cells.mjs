// What the Node clients share; the same as cells.py, whose comments hold here.

import { readFileSync } from "node:fs";

const read = (name) => JSON.parse(readFileSync(new URL(`../fixtures/${name}.json`, import.meta.url), "utf8"));
const REQUEST = read("request");
const ANSWERS = read("answers").fixtures;

export const GATEWAY = process.env.SDK_TEST_GATEWAY;
export const KEY = process.env.SDK_TEST_KEY;
const VENDORS = JSON.parse(process.env.SDK_TEST_VENDORS ?? "[]");

export const IMAGE = REQUEST.image;
export const SYSTEM = REQUEST.system;
export const TOOLS = REQUEST.tools;
export const SCHEMA = REQUEST.schema;
const TOO_LONG = "too long ".repeat(2000);

const BREAKS = ["close", "reset", "end", "error", "garbled", "stall"];
const CUTS = ["cut", "cut_reset", "cut_end", "cut_error", "cut_garbled", "cut_stall"];
/** What the gateway says of a stream that its vendor did not end. */
const BROKEN = "the vendor's answer broke off";

class Wrong extends Error {}

/** The fixture's answer to a feature, or to its tool results. */
export function answer(feature, final = false) {
  const said = feature.startsWith("cut_") ? "[cut_" : `[${feature}]`;
  const found = ANSWERS.find(({ match }) => match.userMessage === said && final === "toolCallId" in match);
  return found.response;
}

/** One feature with one vendor. */
class Cell {
  constructor(client, speaks, vendor, feature) {
    Object.assign(this, { client, speaks, feature, vendor: vendor.name, model: vendor.model, scripted: vendor.scripted });
    this.tag = `(${client} to ${vendor.name})`;
    Object.assign(this, { broken: feature.replace("cut_", ""), place: "late" });
    if (feature.startsWith("cut_")) this.model += feature === "cut_rescued" ? "-rescued" : "-cut";
  }

  get prompt() {
    const words = `[${this.feature}] Do as the brackets say. ${this.tag}`;
    if (this.feature.startsWith("cut_")) return `${words} Broken by ${this.broken}, ${this.place}.`;
    return this.feature === "error" && !this.scripted ? `${words} ${TOO_LONG}` : words;
  }

  get complaint() {
    return this.scripted ? answer("error").error.message : "exceeds the available context size";
  }

  isTrue(what, condition) {
    if (!condition) throw new Wrong(what);
  }

  isEqual(what, found, expected) {
    const [left, right] = [found, expected].map((value) => JSON.stringify(sorted(value)));
    this.isTrue(`${what} is ${left}, not ${right}`, left === right);
  }

  isText(text) {
    if (this.scripted) this.isEqual("the text", text, answer(this.feature).content);
    else this.isTrue("there is no text", text);
  }

  isStream(pieces) {
    this.isTrue(`a stream of ${pieces.length} pieces`, pieces.length > 1);
    this.isText(pieces.join(""));
  }

  /** The calls of a turn: [id, name, arguments], where the arguments are an object. */
  isCalls(calls) {
    const ids = calls.map(([id]) => id);
    this.isTrue(`the ids are ${ids}`, ids.every(Boolean) && new Set(ids).size === ids.length);
    if (this.scripted) {
      const expected = answer(this.feature).toolCalls.map((call) => [call.id, call.name, call.arguments]);
      return this.isEqual("the list of calls", calls, expected);
    }
    this.isTrue("there are no calls", calls.length);
    for (const [, name, given] of calls) {
      const schema = TOOLS.find((tool) => tool.name === name)?.parameters;
      this.isTrue(`a call of ${name}`, schema);
      this.isEqual("the set of arguments", Object.keys(given).sort(), schema.required.toSorted());
      for (const [key, value] of Object.entries(given)) {
        this.isTrue(`${key} is ${value}`, schema.properties[key].enum.includes(value));
      }
    }
  }

  result(name) {
    return REQUEST.results[name];
  }

  isFinal(text, calls = []) {
    if (this.scripted) this.isEqual("the final text", text, answer(this.feature, true).content);
    else this.isTrue("nothing is said to the results", text || calls?.length);
  }

  isVerdict(verdict) {
    if (this.scripted) return this.isEqual("the object", verdict, JSON.parse(answer(this.feature).content));
    this.isEqual("the set of keys", Object.keys(verdict).sort(), ["city", "sure"]);
    this.isTrue(`city is ${verdict.city}`, ["Paris", "Rome"].includes(verdict.city));
    this.isTrue(`sure is ${verdict.sure}`, typeof verdict.sure === "boolean");
  }

  isUsage(tokensIn, tokensOut, total) {
    if (this.scripted) {
      const { input_tokens, output_tokens } = answer(this.feature).usage;
      this.isEqual("the usage", [tokensIn, tokensOut], [input_tokens, output_tokens]);
    }
    this.isTrue(`the usage is ${tokensIn} and ${tokensOut}`, tokensIn > 0 && tokensOut > 0);
    if (total !== undefined) this.isEqual("the total", total, tokensIn + tokensOut);
  }

  /** The action fails with an exception of this class, status and message. */
  async fails(action, kind, status, says) {
    let done;
    try {
      done = await action();
    } catch (error) {
      this.isTrue(`${error.name} ${error.message} is no ${kind.name}`, is(error, kind));
      if (status) this.isEqual(`the status of ${error.message}`, error.status ?? error.statusCode, status);
      this.isTrue(`the message is ${error.message}`, !says || error.message.toLowerCase().includes(says.toLowerCase()));
      return error;
    }
    throw new Wrong(`no ${kind.name}, but ${JSON.stringify(done)?.slice(0, 300)}`);
  }

  /** What is said of a stream that broke off. */
  get brokenWords() {
    if (this.broken === "error") return REQUEST.stream_error;
    return this.broken === "stall" ? "the vendor stopped answering" : BROKEN;
  }

  /** A stream whose pieces come at first, and then an exception of this class. */
  async breaks(pieces, kind) {
    let text = "";
    try {
      for await (const piece of pieces) text += piece;
    } catch (error) {
      this.isTrue(`${error.name} ${error.message} is no ${kind.name}`, is(error, kind));
      const [before, rest] = answer(this.feature).content.split("(here)");
      const isThere = rest === undefined ? text && before.startsWith(text) : text === before;
      this.isTrue(`"${text}" came before ${error.message}`, isThere);
      this.isTrue(`the message is ${error.message}`, error.message.includes(this.brokenWords));
      return error;
    }
    throw new Wrong(`a broken stream ended after "${text}" as if it were whole`);
  }

  /** Streams that break before content fail with an exception of this class and status, as if they had never begun. */
  async failsEarly(action, kind) {
    this.place = "early";
    const status = this.speaks === "messages" ? 529 : 503;
    for (this.broken of BREAKS) {
      if (this.broken === "stall") await this.fails(action, kind, 504, "no target answered in time");
      else await this.fails(action, kind, status, "no target of this route could answer");
    }
  }
}

/** Classes of the AI SDK know their own, whichever copy of the package they come from. */
function is(error, kind) {
  return typeof kind.isInstance === "function" ? kind.isInstance(error) : error instanceof kind;
}

/** A value whose objects have their keys in order. */
function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}

/** Runs all cells of a client that speaks a vendor's format, and tells each outcome as a line of JSON. */
export async function run(client, speaks, { cut, cut_early, ...features }) {
  const tell = (outcome) => console.log(JSON.stringify(outcome));
  for (const vendor of VENDORS) {
    for (const [feature, action] of Object.entries(features)) {
      tell(await outcomeOf(new Cell(client, speaks, vendor, feature), action));
    }
  }
  const cut_rescued = (cell) => isRescued(cell, features.stream);
  const cuts = { ...Object.fromEntries(CUTS.map((name) => [name, cut])), cut_early, cut_rescued };
  // A real server is cut off by nobody.
  const cells = VENDORS.filter((vendor) => vendor.scripted).flatMap((vendor) =>
    Object.entries(cuts).map(([feature, action]) => [new Cell(client, speaks, vendor, feature), action]),
  );
  // They wait more than they work.
  const left = cells.entries();
  const outcomes = [];
  const worker = async () => {
    for (const [at, cell] of left) outcomes[at] = await outcomeOf(...cell);
  };
  await Promise.all(Array.from({ length: 16 }, worker));
  outcomes.forEach(tell);
}

/** The first target's stream breaks before content, and the client gets the whole one of the second. */
async function isRescued(cell, stream) {
  cell.place = "early";
  for (cell.broken of BREAKS) await stream(cell);
}

async function outcomeOf(cell, action) {
  const { client, vendor, feature, tag } = cell;
  const outcome = { client, vendor, feature, tag };
  try {
    await action(cell);
    outcome.outcome = "pass";
  } catch (error) {
    if (process.env.SDK_TEST_TRACE) console.error(error);
    const where = /clients\/((?!cells)[\w]+\.mjs:\d+)/.exec(error.stack ?? "");
    const how = feature.startsWith("cut_") ? ` (broken by ${cell.broken})` : "";
    const detail = `${error.name}: ${error.message}`.slice(0, 1500) + how;
    Object.assign(outcome, { outcome: "fail", detail, ...(where && { where: where[1] }) });
  }
  return outcome;
}
