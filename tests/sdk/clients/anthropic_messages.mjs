// Anthropic's Node SDK.

import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";
import { GATEWAY, IMAGE, KEY, SYSTEM, TOOLS, run } from "./cells.mjs";

const settings = { baseURL: GATEWAY, apiKey: KEY, maxRetries: 0 };
const client = new Anthropic(settings);
const stranger = new Anthropic({ ...settings, apiKey: "wrong" });
const tools = TOOLS.map(({ name, description, parameters }) => ({ name, description, input_schema: parameters }));
const verdict = z.object({ city: z.enum(["Paris", "Rome"]), sure: z.boolean() });

const asked = (cell, more = {}) => ({
  model: cell.model,
  system: SYSTEM,
  messages: [{ role: "user", content: cell.prompt }],
  max_tokens: 1000,
  ...more,
});
const ask = (cell, more, by = client) => by.messages.create(asked(cell, more));

async function* deltas(events) {
  for await (const event of events) {
    if (event.type === "content_block_delta" && event.delta.type === "text_delta") yield event.delta.text;
  }
}

const said = (message) =>
  message.content
    .filter((block) => block.type === "text")
    .map((block) => block.text)
    .join("");
const called = (message) =>
  message.content.filter((block) => block.type === "tool_use").map((block) => [block.id, block.name, block.input]);

async function final(cell, message) {
  const results = called(message).map(([tool_use_id, name]) => ({
    type: "tool_result",
    tool_use_id,
    content: cell.result(name),
  }));
  const messages = [
    { role: "user", content: cell.prompt },
    { role: "assistant", content: message.content },
    { role: "user", content: results },
  ];
  const answer = await ask(cell, { messages, tools });
  cell.isFinal(said(answer), called(answer));
}

await run("anthropic-node", "messages", {
  async text(cell) {
    const answer = await ask(cell);
    cell.isText(said(answer));
    cell.isTrue(`stop_reason is ${answer.stop_reason}`, /^(end_turn|max_tokens)$/.test(answer.stop_reason));
  },

  async stream(cell) {
    const events = client.messages.stream(asked(cell));
    const pieces = [];
    for await (const piece of deltas(events)) pieces.push(piece);
    cell.isStream(pieces);
    cell.isText(said(await events.finalMessage()));
  },

  async tool_round_trip(cell) {
    const answer = await ask(cell, { tools, tool_choice: { type: "any", disable_parallel_tool_use: true } });
    cell.isCalls(called(answer));
    cell.isEqual("stop_reason", answer.stop_reason, "tool_use");
    await final(cell, answer);
  },

  async parallel_tools(cell) {
    const answer = await client.messages.stream(asked(cell, { tools, tool_choice: { type: "any" } })).finalMessage();
    cell.isCalls(called(answer));
    await final(cell, answer);
  },

  async image(cell) {
    const source = { type: "base64", media_type: "image/png", data: IMAGE };
    const content = [
      { type: "image", source },
      { type: "text", text: cell.prompt },
    ];
    cell.isText(said(await ask(cell, { messages: [{ role: "user", content }] })));
  },

  async json_schema(cell) {
    const answer = await client.messages.parse(asked(cell, { output_config: { format: zodOutputFormat(verdict) } }));
    cell.isVerdict(answer.parsed_output);
  },

  async usage(cell) {
    const whole = (await ask(cell)).usage;
    cell.isUsage(whole.input_tokens, whole.output_tokens);
    const streamed = (await client.messages.stream(asked(cell)).finalMessage()).usage;
    cell.isUsage(streamed.input_tokens, streamed.output_tokens);
  },

  async error(cell) {
    await cell.fails(() => ask(cell), Anthropic.BadRequestError, 400, cell.complaint);
    await cell.fails(() => ask(cell, { stream: true }), Anthropic.BadRequestError, 400, cell.complaint);
    await cell.fails(() => ask(cell, { model: "nobody" }), Anthropic.NotFoundError, 404, "nobody");
    await cell.fails(() => ask(cell, {}, stranger), Anthropic.AuthenticationError, 401);
  },

  async cut(cell) {
    await cell.breaks(deltas(await ask(cell, { stream: true })), Anthropic.AnthropicError);
  },

  async cut_early(cell) {
    await cell.failsEarly(() => ask(cell, { stream: true }), Anthropic.InternalServerError);
  },
});
