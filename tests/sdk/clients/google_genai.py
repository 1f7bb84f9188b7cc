"""Google's Python SDK, which asks for version `v1` unless told otherwise."""

from cells import GATEWAY, IMAGE_BYTES, KEY, SYSTEM, TOOLS, Verdict, run
from google import genai
from google.genai import errors, types

client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=GATEWAY))
functions = [
    types.FunctionDeclaration(
        name=tool["name"], description=tool["description"], parameters_json_schema=tool["parameters"]
    )
    for tool in TOOLS
]
tools = [types.Tool(function_declarations=functions)]
calling = types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode="ANY"))


def asked(cell, contents=None, model=None, **more):
    settings = types.GenerateContentConfig(**{"system_instruction": SYSTEM, "max_output_tokens": 1000, **more})
    return {"model": model or cell.model, "contents": contents or cell.prompt, "config": settings}


def ask(cell, contents=None, **more):
    return client.models.generate_content(**asked(cell, contents, **more))


def ask_stream(cell, **more):
    return client.models.generate_content_stream(**asked(cell, **more))


def text(cell):
    answer = ask(cell)
    cell.is_text(answer.text)
    cell.is_true("finish_reason", answer.candidates[0].finish_reason in ("STOP", "MAX_TOKENS"))


def stream(cell):
    chunks = list(ask_stream(cell))
    cell.is_stream([chunk.text for chunk in chunks if chunk.text])
    ends = [chunk.candidates[0].finish_reason for chunk in chunks if chunk.candidates and chunk.candidates[0].finish_reason]
    cell.is_true(f"the ends are {ends}", ends in (["STOP"], ["MAX_TOKENS"]))


def parts_of(chunks):
    parts = [part for chunk in chunks for part in (chunk.candidates[0].content.parts if chunk.candidates else None) or []]
    return [part for part in parts if part.function_call or part.text]


def called(parts):
    calls = [part.function_call for part in parts if part.function_call]
    return [(call.id, call.name, dict(call.args)) for call in calls]


def final(cell, parts):
    results = [
        types.Part(function_response=types.FunctionResponse(id=call_id, name=name, response={"output": cell.result(name)}))
        for call_id, name, _ in called(parts)
    ]
    contents = [
        types.UserContent(cell.prompt),
        types.ModelContent(parts),
        types.UserContent(results),
    ]
    answer = ask(cell, contents, tools=tools)
    cell.is_final("".join(part.text or "" for part in parts_of([answer])), answer.function_calls)


def tool_round_trip(cell):
    parts = parts_of([ask(cell, tools=tools, tool_config=calling)])
    cell.is_calls(called(parts))
    final(cell, parts)


def parallel_tools(cell):
    parts = parts_of(ask_stream(cell, tools=tools, tool_config=calling))
    cell.is_calls(called(parts))
    final(cell, parts)


def image(cell):
    contents = [types.Part.from_bytes(data=IMAGE_BYTES, mime_type="image/png"), cell.prompt]
    cell.is_text(ask(cell, contents).text)


def json_schema(cell):
    answer = ask(cell, response_mime_type="application/json", response_schema=Verdict)
    cell.is_verdict(answer.parsed.model_dump())


def usage(cell):
    whole = ask(cell).usage_metadata
    cell.is_usage(whole.prompt_token_count, whole.candidates_token_count, whole.total_token_count)
    streamed = [chunk.usage_metadata for chunk in ask_stream(cell) if chunk.usage_metadata][-1]
    cell.is_usage(streamed.prompt_token_count, streamed.candidates_token_count, streamed.total_token_count)


def error(cell):
    cell.fails(lambda: ask(cell), errors.ClientError, 400, cell.complaint)
    cell.fails(lambda: list(ask_stream(cell)), errors.ClientError, 400, cell.complaint)
    cell.fails(lambda: ask(cell, model="nobody"), errors.ClientError, 404, "nobody")
    stranger = genai.Client(api_key="wrong", http_options=types.HttpOptions(base_url=GATEWAY))
    cell.fails(lambda: stranger.models.generate_content(**asked(cell)), errors.ClientError, 401)


def cut(cell):
    cell.breaks((chunk.text or "" for chunk in ask_stream(cell)), errors.APIError)


def cut_early(cell):
    cell.fails_early(lambda: list(ask_stream(cell)), errors.ServerError)


features = [text, stream, tool_round_trip, parallel_tools, image, json_schema, usage, error, cut, cut_early]
run("google-genai-python", "gemini", features)
