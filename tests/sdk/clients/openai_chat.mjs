// OpenAI's Node SDK, Chat Completions.

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { GATEWAY, IMAGE, KEY, SYSTEM, TOOLS, run } from "./cells.mjs";

const settings = { baseURL: `${GATEWAY}/v1`, apiKey: KEY, maxRetries: 0 };
const client = new OpenAI(settings);
const stranger = new OpenAI({ ...settings, apiKey: "wrong" });
const tools = TOOLS.map((tool) => ({ type: "function", function: { ...tool, strict: true } }));
const verdict = z.object({ city: z.enum(["Paris", "Rome"]), sure: z.boolean() });

function asked(cell, more = {}) {
  const messages = [
    { role: "system", content: SYSTEM },
    { role: "user", content: cell.prompt },
  ];
  return { model: cell.model, messages, max_tokens: 1000, ...more };
}

const ask = (cell, more, by = client) => by.chat.completions.create(asked(cell, more));

async function* deltas(cell) {
  for await (const chunk of await ask(cell, { stream: true })) {
    for (const choice of chunk.choices) if (choice.delta.content) yield choice.delta.content;
  }
}

const called = (message) =>
  (message.tool_calls ?? []).map((call) => [call.id, call.function.name, JSON.parse(call.function.arguments)]);

/** Sends the results of a turn's calls. */
async function final(cell, message) {
  const results = message.tool_calls.map((call) => ({
    role: "tool",
    tool_call_id: call.id,
    content: cell.result(call.function.name),
  }));
  const messages = [{ role: "user", content: cell.prompt }, message, ...results];
  const answer = await ask(cell, { messages, tools });
  cell.isFinal(answer.choices[0].message.content, answer.choices[0].message.tool_calls);
}

await run("openai-node chat", "chat", {
  async text(cell) {
    const answer = await ask(cell);
    cell.isText(answer.choices[0].message.content);
    cell.isTrue(`finish_reason is ${answer.choices[0].finish_reason}`, /^(stop|length)$/.test(answer.choices[0].finish_reason));
  },

  async stream(cell) {
    const pieces = [];
    for await (const piece of deltas(cell)) pieces.push(piece);
    cell.isStream(pieces);
  },

  async tool_round_trip(cell) {
    const answer = await ask(cell, { tools, tool_choice: "required", parallel_tool_calls: false });
    cell.isCalls(called(answer.choices[0].message));
    cell.isEqual("finish_reason", answer.choices[0].finish_reason, "tool_calls");
    await final(cell, answer.choices[0].message);
  },

  async parallel_tools(cell) {
    const events = client.chat.completions.stream(asked(cell, { tools, tool_choice: "required" }));
    const message = (await events.finalChatCompletion()).choices[0].message;
    message.role ??= "assistant"; // Some streams of llama.cpp's do not say it.
    cell.isCalls(called(message));
    await final(cell, message);
  },

  async image(cell) {
    const picture = { type: "image_url", image_url: { url: `data:image/png;base64,${IMAGE}` } };
    const content = [{ type: "text", text: cell.prompt }, picture];
    cell.isText((await ask(cell, { messages: [{ role: "user", content }] })).choices[0].message.content);
  },

  async json_schema(cell) {
    const format = { response_format: zodResponseFormat(verdict, "verdict") };
    const answer = await client.chat.completions.parse(asked(cell, format));
    cell.isVerdict(answer.choices[0].message.parsed);
  },

  async usage(cell) {
    const whole = (await ask(cell)).usage;
    cell.isUsage(whole.prompt_tokens, whole.completion_tokens, whole.total_tokens);
    const found = [];
    for await (const chunk of await ask(cell, { stream: true, stream_options: { include_usage: true } })) {
      if (chunk.usage) found.push(chunk.usage);
    }
    cell.isEqual("chunks with usage", found.length, 1);
    cell.isUsage(found[0].prompt_tokens, found[0].completion_tokens, found[0].total_tokens);
  },

  async error(cell) {
    await cell.fails(() => ask(cell), OpenAI.BadRequestError, 400, cell.complaint);
    await cell.fails(() => ask(cell, { stream: true }), OpenAI.BadRequestError, 400, cell.complaint);
    await cell.fails(() => ask(cell, { model: "nobody" }), OpenAI.NotFoundError, 404, "nobody");
    await cell.fails(() => ask(cell, {}, stranger), OpenAI.AuthenticationError, 401);
  },

  async cut(cell) {
    await cell.breaks(deltas(cell), OpenAI.APIError);
  },

  async cut_early(cell) {
    await cell.failsEarly(() => ask(cell, { stream: true }), OpenAI.InternalServerError);
  },
});
