// Vercel's AI SDK with its providers for OpenAI (Responses, which is its default, and Chat), Anthropic and Google.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createGoogleGenerativeAI } from "@ai-sdk/google";
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, Output, StreamProviderError, generateText, isStepCount, jsonSchema, streamText, tool } from "ai";
import { GATEWAY, IMAGE, KEY, SCHEMA, SYSTEM, TOOLS, run } from "./cells.mjs";

const openai = (apiKey) => createOpenAI({ baseURL: `${GATEWAY}/v1`, apiKey });
// What each speaks, and what makes it.
const providers = {
  "ai: openai responses": ["responses", (apiKey) => openai(apiKey).responses],
  "ai: openai store=false": ["responses", (apiKey) => openai(apiKey).responses],
  "ai: openai chat": ["chat", (apiKey) => openai(apiKey).chat],
  "ai: anthropic": ["messages", (apiKey) => createAnthropic({ baseURL: `${GATEWAY}/v1`, apiKey })],
  "ai: google": ["gemini", (apiKey) => createGoogleGenerativeAI({ baseURL: `${GATEWAY}/v1beta`, apiKey })],
};

// What a provider must be told, for each: that items of answers are sent again instead of referred to, which takes a vendor that stores
// them; and that a schema is a field, which this provider sends to models whose names it knows.
const options = {
  "ai: openai store=false": { openai: { store: false } },
  "ai: anthropic": { anthropic: { structuredOutputMode: "outputFormat" } },
};

const tools = (cell) =>
  Object.fromEntries(
    TOOLS.map(({ name, description, parameters }) => [
      name,
      tool({ description, inputSchema: jsonSchema(parameters), execute: () => cell.result(name) }),
    ]),
  );

function features(provider, providerOptions) {
  const asked = (cell, more = {}) => ({
    model: provider(KEY)(cell.model),
    system: SYSTEM,
    prompt: cell.prompt,
    maxOutputTokens: 1000,
    maxRetries: 0,
    providerOptions,
    ...more,
  });
  const ask = (cell, more) => generateText(asked(cell, more));

  /** The parts of a stream; its errors are parts, too, and are thrown here. */
  async function* parts(cell, more) {
    for await (const part of streamText({ ...asked(cell, more), onError: () => {} }).fullStream) {
      if (part.type === "error") throw part.error;
      yield part;
    }
  }

  async function drain(cell) {
    for await (const _ of parts(cell));
  }

  async function* deltas(cell) {
    for await (const part of parts(cell)) if (part.type === "text-delta") yield part.text;
  }

  /** The SDK makes the round trip itself: it calls the tools and sends their results. Only the first step must be a call. */
  const round = (cell) => ({
    tools: tools(cell),
    stopWhen: isStepCount(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "auto" }),
  });
  const called = (step) => step.toolCalls.map((call) => [call.toolCallId, call.toolName, call.input]);

  return {
    async text(cell) {
      const answer = await ask(cell);
      cell.isText(answer.text);
      cell.isTrue(`finishReason is ${answer.finishReason}`, /^(stop|length)$/.test(answer.finishReason));
    },

    async stream(cell) {
      const pieces = [];
      for await (const piece of deltas(cell)) pieces.push(piece);
      cell.isStream(pieces);
    },

    async tool_round_trip(cell) {
      const answer = await ask(cell, round(cell));
      cell.isCalls(called(answer.steps[0]));
      cell.isEqual("finishReason", answer.steps[0].finishReason, "tool-calls");
      cell.isFinal(answer.text, answer.toolCalls);
    },

    async parallel_tools(cell) {
      const errors = [];
      const stream = streamText({ ...asked(cell, round(cell)), onError: ({ error }) => errors.push(error) });
      await stream.consumeStream();
      if (errors.length) throw errors[0];
      const [first, last] = await stream.steps;
      cell.isCalls(called(first));
      cell.isFinal(last.text, last.toolCalls);
    },

    async image(cell) {
      const content = [
        { type: "text", text: cell.prompt },
        { type: "file", data: IMAGE, mediaType: "image/png" },
      ];
      cell.isText((await ask(cell, { prompt: undefined, messages: [{ role: "user", content }] })).text);
    },

    async json_schema(cell) {
      const answer = await ask(cell, { output: Output.object({ schema: jsonSchema(SCHEMA), name: "verdict" }) });
      cell.isVerdict(answer.output);
    },

    async usage(cell) {
      const whole = (await ask(cell)).usage;
      cell.isUsage(whole.inputTokens, whole.outputTokens, whole.totalTokens);
      const stream = streamText(asked(cell));
      await stream.consumeStream();
      const streamed = await stream.usage;
      cell.isUsage(streamed.inputTokens, streamed.outputTokens, streamed.totalTokens);
    },

    async error(cell) {
      await cell.fails(() => ask(cell), APICallError, 400, cell.complaint);
      await cell.fails(() => drain(cell), APICallError, 400, cell.complaint);
      await cell.fails(() => ask(cell, { model: provider(KEY)("nobody") }), APICallError, 404, "nobody");
      await cell.fails(() => ask(cell, { model: provider("wrong")(cell.model) }), APICallError, 401);
    },

    async cut(cell) {
      await cell.breaks(deltas(cell), StreamProviderError);
    },

    async cut_early(cell) {
      await cell.failsEarly(() => drain(cell), APICallError);
    },
  };
}

for (const [name, [speaks, provider]] of Object.entries(providers)) {
  await run(name, speaks, features(provider, options[name]));
}
