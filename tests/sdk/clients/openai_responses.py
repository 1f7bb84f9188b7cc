"""OpenAI's Python SDK, Responses."""

import json

import openai
from cells import GATEWAY, IMAGE, KEY, SYSTEM, TOOLS, Verdict, run

client = openai.OpenAI(base_url=f"{GATEWAY}/v1", api_key=KEY, max_retries=0)
tools = [{"type": "function", "strict": True, **tool} for tool in TOOLS]


def ask(cell, **more):
    asked = {"model": cell.model, "input": cell.prompt, "instructions": SYSTEM, "max_output_tokens": 1000, **more}
    return client.responses.create(**asked)


def text(cell):
    answer = ask(cell)
    cell.is_text(answer.output_text)
    cell.is_true("the object", answer.object == "response" and answer.status in ("completed", "incomplete"))


def stream(cell):
    """Through the SDK's own accumulator, which is strict about the order of events."""
    with client.responses.stream(model=cell.model, input=cell.prompt, max_output_tokens=1000) as events:
        pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
        try:
            whole = events.get_final_response()
        except RuntimeError:
            # The accumulator knows no other end than `response.completed`.
            cell.is_true("the stream has no end", not cell.scripted)
            whole = None
    cell.is_stream(pieces)
    if whole:
        cell.is_text(whole.output_text)


def called(answer):
    calls = [item for item in answer.output if item.type == "function_call"]
    return [(call.call_id, call.name, json.loads(call.arguments)) for call in calls]


def final(cell, answer):
    results = [
        {"type": "function_call_output", "call_id": call_id, "output": cell.result(name)}
        for call_id, name, _ in called(answer)
    ]
    question = {"role": "user", "content": cell.prompt}
    answer = ask(cell, input=[question, *answer.output, *results], tools=tools)
    cell.is_final(answer.output_text, called(answer))


def tool_round_trip(cell):
    answer = ask(cell, tools=tools, tool_choice="required", parallel_tool_calls=False)
    cell.is_calls(called(answer))
    final(cell, answer)


def parallel_tools(cell):
    more = {"input": cell.prompt, "max_output_tokens": 1000, "tools": tools, "tool_choice": "required"}
    with client.responses.stream(model=cell.model, **more) as events:
        for _ in events:
            pass
        answer = events.get_final_response()
    cell.is_calls(called(answer))
    final(cell, answer)


def image(cell):
    content = [
        {"type": "input_text", "text": cell.prompt},
        {"type": "input_image", "image_url": f"data:image/png;base64,{IMAGE}", "detail": "auto"},
    ]
    cell.is_text(ask(cell, input=[{"role": "user", "content": content}]).output_text)


def json_schema(cell):
    answer = client.responses.parse(model=cell.model, input=cell.prompt, text_format=Verdict)
    cell.is_verdict(answer.output_parsed.model_dump())


def usage(cell):
    whole = ask(cell).usage
    cell.is_usage(whole.input_tokens, whole.output_tokens, whole.total_tokens)
    last = [event for event in ask(cell, stream=True)][-1]
    cell.is_true(f"the last event is {last.type}", last.type in ("response.completed", "response.incomplete"))
    streamed = last.response.usage
    cell.is_usage(streamed.input_tokens, streamed.output_tokens, streamed.total_tokens)


def error(cell):
    cell.fails(lambda: ask(cell), openai.BadRequestError, 400, cell.complaint)
    cell.fails(lambda: list(ask(cell, stream=True)), openai.BadRequestError, 400, cell.complaint)
    cell.fails(lambda: ask(cell, model="nobody"), openai.NotFoundError, 404, "nobody")
    stranger = client.with_options(api_key="wrong")
    cell.fails(lambda: stranger.responses.create(model=cell.model, input=""), openai.AuthenticationError, 401)


def cut(cell):
    events = ask(cell, stream=True)
    cell.breaks((event.delta for event in events if event.type == "response.output_text.delta"), openai.APIError)


def cut_early(cell):
    cell.fails_early(lambda: list(ask(cell, stream=True)), openai.InternalServerError)


features = [text, stream, tool_round_trip, parallel_tools, image, json_schema, usage, error, cut, cut_early]
run("openai-python responses", "responses", features)
