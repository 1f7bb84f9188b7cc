"""OpenAI's Python SDK, Chat Completions."""

import json

import openai
from cells import GATEWAY, IMAGE, KEY, SYSTEM, TOOLS, Verdict, run

client = openai.OpenAI(base_url=f"{GATEWAY}/v1", api_key=KEY, max_retries=0)
tools = [{"type": "function", "function": {**tool, "strict": True}} for tool in TOOLS]


def ask(cell, content=None, **more):
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content or cell.prompt}]
    return client.chat.completions.create(**{"model": cell.model, "messages": messages, "max_tokens": 1000, **more})


def text(cell):
    answer = ask(cell)
    cell.is_text(answer.choices[0].message.content)
    cell.is_true("the object", answer.object == "chat.completion" and answer.choices[0].finish_reason in ("stop", "length"))


def stream(cell):
    pieces, ends = [], []
    for chunk in ask(cell, stream=True):
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
        ends += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
    cell.is_stream(pieces)
    cell.is_true(f"the ends are {ends}", ends in (["stop"], ["length"]))


def final(cell, message):
    """Sends the results of a turn's calls."""
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": cell.result(call.function.name)} for call in message.tool_calls
    ]
    messages = [{"role": "user", "content": cell.prompt}, message, *results]
    answer = ask(cell, messages=messages, tools=tools).choices[0].message
    cell.is_final(answer.content, answer.tool_calls)


def called(message):
    return [(call.id, call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]


def tool_round_trip(cell):
    answer = ask(cell, tools=tools, tool_choice="required", parallel_tool_calls=False)
    cell.is_calls(called(answer.choices[0].message))
    cell.is_equal("finish_reason", answer.choices[0].finish_reason, "tool_calls")
    final(cell, answer.choices[0].message)


def parallel_tools(cell):
    messages = [{"role": "user", "content": cell.prompt}]
    more = {"messages": messages, "max_tokens": 1000, "tools": tools, "tool_choice": "required"}
    with client.chat.completions.stream(model=cell.model, **more) as events:
        for _ in events:
            pass
        message = events.get_final_completion().choices[0].message
    # Some streams of llama.cpp's do not say it.
    message.role = "assistant"
    cell.is_calls(called(message))
    final(cell, message)


def image(cell):
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}
    cell.is_text(ask(cell, [{"type": "text", "text": cell.prompt}, picture]).choices[0].message.content)


def json_schema(cell):
    messages = [{"role": "user", "content": cell.prompt}]
    answer = client.chat.completions.parse(model=cell.model, messages=messages, response_format=Verdict)
    cell.is_verdict(answer.choices[0].message.parsed.model_dump())


def usage(cell):
    whole = ask(cell).usage
    cell.is_usage(whole.prompt_tokens, whole.completion_tokens, whole.total_tokens)
    last = [chunk.usage for chunk in ask(cell, stream=True, stream_options={"include_usage": True}) if chunk.usage]
    cell.is_equal("chunks with usage", len(last), 1)
    cell.is_usage(last[0].prompt_tokens, last[0].completion_tokens, last[0].total_tokens)
    cell.is_equal("usage that was not asked for", [chunk.usage for chunk in ask(cell, stream=True) if chunk.usage], [])


def error(cell):
    cell.fails(lambda: ask(cell), openai.BadRequestError, 400, cell.complaint)
    cell.fails(lambda: list(ask(cell, stream=True)), openai.BadRequestError, 400, cell.complaint)
    cell.fails(lambda: ask(cell, model="nobody"), openai.NotFoundError, 404, "nobody")
    stranger = client.with_options(api_key="wrong")
    cell.fails(lambda: stranger.chat.completions.create(model=cell.model, messages=[]), openai.AuthenticationError, 401)


def cut(cell):
    chunks = ask(cell, stream=True)
    pieces = (choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    cell.breaks(pieces, openai.APIError)


def cut_early(cell):
    cell.fails_early(lambda: list(ask(cell, stream=True)), openai.InternalServerError)


features = [text, stream, tool_round_trip, parallel_tools, image, json_schema, usage, error, cut, cut_early]
run("openai-python chat", "chat", features)
