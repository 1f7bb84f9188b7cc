"""Mistral's Python SDK."""

import json

from cells import GATEWAY, IMAGE, KEY, SYSTEM, TOOLS, Verdict, run
from mistralai.client import Mistral
from mistralai.client.errors import MistralError, SDKError

client = Mistral(api_key=KEY, server_url=GATEWAY)
tools = [{"type": "function", "function": tool} for tool in TOOLS]


def asked(cell, content=None, **more):
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content or cell.prompt}]
    return {"model": cell.model, "messages": messages, "max_tokens": 1000, **more}


def ask(cell, content=None, **more):
    return client.chat.complete(**asked(cell, content, **more))


def ask_stream(cell, **more):
    return (event.data for event in client.chat.stream(**asked(cell, **more)))


def text(cell):
    answer = ask(cell)
    cell.is_text(answer.choices[0].message.content)
    cell.is_true("finish_reason", answer.choices[0].finish_reason in ("stop", "length"))


def stream(cell):
    choices = [choice for chunk in ask_stream(cell) for choice in chunk.choices]
    cell.is_stream([choice.delta.content for choice in choices if choice.delta.content])
    ends = [choice.finish_reason for choice in choices if choice.finish_reason]
    cell.is_true(f"the ends are {ends}", ends in (["stop"], ["length"]))


def arguments(call):
    given = call.function.arguments
    return json.loads(given) if isinstance(given, str) else given


def final(cell, content, calls):
    results = [{"role": "tool", "tool_call_id": call.id, "content": cell.result(call.function.name)} for call in calls]
    messages = [
        {"role": "user", "content": cell.prompt},
        {"role": "assistant", "content": content, "tool_calls": calls},
        *results,
    ]
    message = ask(cell, messages=messages, tools=tools).choices[0].message
    cell.is_final(message.content, message.tool_calls)


def tool_round_trip(cell):
    message = ask(cell, tools=tools, tool_choice="required", parallel_tool_calls=False).choices[0].message
    cell.is_calls([(call.id, call.function.name, arguments(call)) for call in message.tool_calls])
    final(cell, message.content, message.tool_calls)


def parallel_tools(cell):
    message = ask(cell, tools=tools, tool_choice="required").choices[0].message
    cell.is_calls([(call.id, call.function.name, arguments(call)) for call in message.tool_calls])
    final(cell, message.content, message.tool_calls)


def streamed_calls(cell):
    """Mistral says the name with every piece of a call's arguments, be it empty; OpenAI only with the first."""
    calls = {}
    for chunk in ask_stream(cell, tools=tools, tool_choice="required"):
        for call in (call for choice in chunk.choices for call in choice.delta.tool_calls or []):
            calls.setdefault(call.index, [call.id, call.function.name, ""])[2] += call.function.arguments
    cell.is_calls([(call_id, name, json.loads(given)) for call_id, name, given in calls.values()])


def image(cell):
    picture = {"type": "image_url", "image_url": f"data:image/png;base64,{IMAGE}"}
    cell.is_text(ask(cell, [{"type": "text", "text": cell.prompt}, picture]).choices[0].message.content)


def json_schema(cell):
    answer = client.chat.parse(response_format=Verdict, **asked(cell))
    cell.is_verdict(answer.choices[0].message.parsed.model_dump())


def usage(cell):
    """Of whole answers only: this SDK has no way to ask for that of streams, which Mistral sends unasked and OpenAI does not."""
    whole = ask(cell).usage
    cell.is_usage(whole.prompt_tokens, whole.completion_tokens, whole.total_tokens)


def error(cell):
    cell.fails(lambda: ask(cell), SDKError, 400, cell.complaint)
    cell.fails(lambda: list(ask_stream(cell)), SDKError, 400, cell.complaint)
    cell.fails(lambda: ask(cell, model="nobody"), SDKError, 404, "nobody")
    stranger = Mistral(api_key="wrong", server_url=GATEWAY)
    cell.fails(lambda: stranger.chat.complete(**asked(cell)), SDKError, 401)


def cut(cell):
    pieces = (choice.delta.content or "" for chunk in ask_stream(cell) for choice in chunk.choices)
    # It does not know errors in streams, and complains of what it was sent instead: its message shows the end of that, its body all.
    error = cell.breaks(pieces, MistralError, "server_error" if cell.has_vendors_error else "answer_cut_off")
    cell.is_true(f"the body is {error.body}", cell.broken_words in error.body)


def cut_early(cell):
    cell.fails_early(lambda: list(ask_stream(cell)), SDKError)


features = [text, stream, tool_round_trip, parallel_tools, image, json_schema, usage, error, cut, cut_early, streamed_calls]
run("mistralai", "chat", features)
