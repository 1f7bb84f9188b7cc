"""Anthropic's Python SDK."""

import anthropic
from cells import GATEWAY, IMAGE, KEY, SYSTEM, TOOLS, Verdict, run

client = anthropic.Anthropic(base_url=GATEWAY, api_key=KEY, max_retries=0)
tools = [{"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]} for tool in TOOLS]


def asked(cell, content=None, **more):
    messages = [{"role": "user", "content": content or cell.prompt}]
    return {"model": cell.model, "system": SYSTEM, "messages": messages, "max_tokens": 1000, **more}


def ask(cell, content=None, **more):
    return client.messages.create(**asked(cell, content, **more))


def said(message):
    return "".join(block.text for block in message.content if block.type == "text")


def text(cell):
    answer = ask(cell)
    cell.is_text(said(answer))
    cell.is_true("the object", answer.type == "message" and answer.stop_reason in ("end_turn", "max_tokens"))


def stream(cell):
    with client.messages.stream(**asked(cell)) as events:
        pieces = list(events.text_stream)
        whole = events.get_final_message()
    cell.is_stream(pieces)
    cell.is_text(said(whole))


def called(message):
    return [(block.id, block.name, block.input) for block in message.content if block.type == "tool_use"]


def final(cell, message):
    results = [
        {"type": "tool_result", "tool_use_id": call_id, "content": cell.result(name)} for call_id, name, _ in called(message)
    ]
    messages = [
        {"role": "user", "content": cell.prompt},
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": results},
    ]
    answer = ask(cell, messages=messages, tools=tools)
    cell.is_final(said(answer), called(answer))


def tool_round_trip(cell):
    answer = ask(cell, tools=tools, tool_choice={"type": "any", "disable_parallel_tool_use": True})
    cell.is_calls(called(answer))
    cell.is_equal("stop_reason", answer.stop_reason, "tool_use")
    final(cell, answer)


def parallel_tools(cell):
    with client.messages.stream(**asked(cell, tools=tools, tool_choice={"type": "any"})) as events:
        answer = events.get_final_message()
    cell.is_calls(called(answer))
    final(cell, answer)


def image(cell):
    source = {"type": "base64", "media_type": "image/png", "data": IMAGE}
    cell.is_text(said(ask(cell, [{"type": "image", "source": source}, {"type": "text", "text": cell.prompt}])))


def json_schema(cell):
    answer = client.messages.parse(**asked(cell), output_format=Verdict)
    cell.is_verdict(answer.parsed_output.model_dump())


def usage(cell):
    whole = ask(cell).usage
    cell.is_usage(whole.input_tokens, whole.output_tokens)
    with client.messages.stream(**asked(cell)) as events:
        streamed = events.get_final_message().usage
    cell.is_usage(streamed.input_tokens, streamed.output_tokens)


def error(cell):
    cell.fails(lambda: ask(cell), anthropic.BadRequestError, 400, cell.complaint)
    cell.fails(lambda: list(ask(cell, stream=True)), anthropic.BadRequestError, 400, cell.complaint)
    cell.fails(lambda: ask(cell, model="nobody"), anthropic.NotFoundError, 404, "nobody")
    stranger = client.with_options(api_key="wrong")
    cell.fails(lambda: stranger.messages.create(**asked(cell)), anthropic.AuthenticationError, 401)


def cut(cell):
    deltas = (event.delta for event in ask(cell, stream=True) if event.type == "content_block_delta")
    cell.breaks((delta.text for delta in deltas), anthropic.APIError)


def cut_early(cell):
    cell.fails_early(lambda: list(ask(cell, stream=True)), anthropic.InternalServerError)


features = [text, stream, tool_round_trip, parallel_tools, image, json_schema, usage, error, cut, cut_early]
run("anthropic-python", "messages", features)
