"""A real llama.cpp server with a model that nobody trained: random weights, one token for each byte, and one with which tool
calls begin.

    llama.py MODEL.gguf

writes the model if it is not there, serves it on a port of its own choice, says where on the first line of its output, and goes on
until its input ends. What the model says means nothing; how the server says it is what real servers do.
"""

import sys
from pathlib import Path

import gguf
import numpy
import xllamacpp

WIDTH, FEED_FORWARD, LAYERS, HEADS = 64, 128, 2, 4
CONTEXT = 4096
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4

BEGIN, END, CALL = "<|im_start|>", "<|im_end|>", "<tool_call>"
# llama.cpp recognises this as a template with tools and then forces calls by a grammar, as with the models it was made for.
TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {{- 'You may call these tools:\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools>\\nA call is <tool_call>{"name": NAME, "arguments": ARGUMENTS}</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role }}
    {%- if message.content %}
        {{- '\\n' + message.content }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>{"name": "' + call.function.name + '", "arguments": ' }}
        {{- call.function.arguments | tojson }}
        {{- '}</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def byte_names():
    """The letters that byte-level BPE writes bytes as: printable ones are themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names, others = {}, 0
    for byte in range(256):
        if byte in plain:
            names[byte] = chr(byte)
        else:
            names[byte] = chr(256 + others)
            others += 1
    return [names[byte] for byte in range(256)]


def write(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    # llama.cpp wants at least one merge; nobody sees this one's result.
    tokens = [*byte_names(), BEGIN, END, CALL, "ĀĀ"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([NORMAL] * 256 + [CONTROL] * 2 + [USER_DEFINED, NORMAL])
    writer.add_token_merges(["Ā Ā"])
    writer.add_bos_token_id(tokens.index(BEGIN))
    writer.add_eos_token_id(tokens.index(END))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    random = numpy.random.default_rng(1)

    def some(*shape):
        return (random.standard_normal(shape) * 0.05).astype(numpy.float32)

    def weights(name, *shape):
        writer.add_tensor(name, some(*shape))

    def ones(name):
        writer.add_tensor(name, numpy.ones(WIDTH, dtype=numpy.float32))

    # Two habits in all that chance. The first dimension is the same whatever comes before: calls begin now and then, and white space,
    # which the grammar of arguments allows without end, does not come. The second is that of `>`, behind which the turn may end.
    embedding, output = some(len(tokens), WIDTH), some(len(tokens), WIDTH)
    embedding[:, 0] = 1.0
    embedding[tokens.index(">"), 1] = 1.0
    output[:, :2] = 0.0
    blanks = [(byte_names()[byte], -1.0, 0.0) for byte in b" \t\r\n"]
    for token, always, behind in [(CALL, 0.3, 0.0), (END, -0.5, 1.15), *blanks]:
        output[tokens.index(token)] = 0.0
        output[tokens.index(token), :2] = always, behind
    writer.add_tensor("token_embd.weight", embedding)
    ones("output_norm.weight")
    writer.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        ones(f"{block}.attn_norm.weight")
        ones(f"{block}.ffn_norm.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights(f"{block}.{part}.weight", WIDTH, WIDTH)
        weights(f"{block}.ffn_gate.weight", FEED_FORWARD, WIDTH)
        weights(f"{block}.ffn_up.weight", FEED_FORWARD, WIDTH)
        weights(f"{block}.ffn_down.weight", WIDTH, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(path):
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = CONTEXT
    params.n_batch = params.n_ubatch = CONTEXT
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.use_jinja = True
    params.warmup = False
    params.fit_params = False
    params.sampling.seed = 1
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return xllamacpp.Server(params)


def main():
    path = Path(sys.argv[1])
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        write(unfinished)
        unfinished.rename(path)
    server = serve(path)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
