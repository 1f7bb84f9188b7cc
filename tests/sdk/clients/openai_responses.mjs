// OpenAI's Node SDK, Responses.

import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { GATEWAY, IMAGE, KEY, SYSTEM, TOOLS, run } from "./cells.mjs";

const settings = { baseURL: `${GATEWAY}/v1`, apiKey: KEY, maxRetries: 0 };
const client = new OpenAI(settings);
const stranger = new OpenAI({ ...settings, apiKey: "wrong" });
const tools = TOOLS.map((tool) => ({ type: "function", strict: true, ...tool }));
const verdict = z.object({ city: z.enum(["Paris", "Rome"]), sure: z.boolean() });

const asked = (cell, more = {}) => ({
  model: cell.model,
  input: cell.prompt,
  instructions: SYSTEM,
  max_output_tokens: 1000,
  ...more,
});
const ask = (cell, more, by = client) => by.responses.create(asked(cell, more));

async function* deltas(events) {
  for await (const event of events) if (event.type === "response.output_text.delta") yield event.delta;
}

const called = (answer) =>
  answer.output
    .filter((item) => item.type === "function_call")
    .map((call) => [call.call_id, call.name, JSON.parse(call.arguments)]);

async function final(cell, answer) {
  const results = called(answer).map(([call_id, name]) => ({
    type: "function_call_output",
    call_id,
    output: cell.result(name),
  }));
  const input = [{ role: "user", content: cell.prompt }, ...answer.output, ...results];
  const last = await ask(cell, { input, tools });
  cell.isFinal(last.output_text, called(last));
}

await run("openai-node responses", "responses", {
  async text(cell) {
    const answer = await ask(cell);
    cell.isText(answer.output_text);
    cell.isTrue(`status is ${answer.status}`, /^(completed|incomplete)$/.test(answer.status));
  },

  async stream(cell) {
    const pieces = [];
    for await (const piece of deltas(await ask(cell, { stream: true }))) pieces.push(piece);
    cell.isStream(pieces);
  },

  async tool_round_trip(cell) {
    const answer = await ask(cell, { tools, tool_choice: "required", parallel_tool_calls: false });
    cell.isCalls(called(answer));
    await final(cell, answer);
  },

  async parallel_tools(cell) {
    const answer = await client.responses.stream(asked(cell, { tools, tool_choice: "required" })).finalResponse();
    cell.isCalls(called(answer));
    await final(cell, answer);
  },

  async image(cell) {
    const content = [
      { type: "input_text", text: cell.prompt },
      { type: "input_image", image_url: `data:image/png;base64,${IMAGE}`, detail: "auto" },
    ];
    cell.isText((await ask(cell, { input: [{ role: "user", content }] })).output_text);
  },

  async json_schema(cell) {
    const answer = await client.responses.parse(asked(cell, { text: { format: zodTextFormat(verdict, "verdict") } }));
    cell.isVerdict(answer.output_parsed);
  },

  async usage(cell) {
    const whole = (await ask(cell)).usage;
    cell.isUsage(whole.input_tokens, whole.output_tokens, whole.total_tokens);
    let last;
    for await (const event of await ask(cell, { stream: true })) last = event;
    cell.isTrue(`the last event is ${last.type}`, /^response\.(completed|incomplete)$/.test(last.type));
    const streamed = last.response.usage;
    cell.isUsage(streamed.input_tokens, streamed.output_tokens, streamed.total_tokens);
  },

  async error(cell) {
    await cell.fails(() => ask(cell), OpenAI.BadRequestError, 400, cell.complaint);
    await cell.fails(() => ask(cell, { stream: true }), OpenAI.BadRequestError, 400, cell.complaint);
    await cell.fails(() => ask(cell, { model: "nobody" }), OpenAI.NotFoundError, 404, "nobody");
    await cell.fails(() => ask(cell, {}, stranger), OpenAI.AuthenticationError, 401);
  },

  async cut(cell) {
    await cell.breaks(deltas(await ask(cell, { stream: true })), OpenAI.APIError);
  },

  async cut_early(cell) {
    await cell.failsEarly(() => ask(cell, { stream: true }), OpenAI.InternalServerError);
  },
});
