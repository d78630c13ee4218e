"""OpenAI's and Anthropic's own Python clients against a running `chelsea serve`.

    pip install openai anthropic          (3.57 and 2.14 were tried)
    chelsea serve -m smollm2 --port 8099 &
    python scripts/clients/python_clients.py http://127.0.0.1:8099

Every check prints a line; the first that fails ends the script with an error.
"""

import sys

import anthropic
import openai

base = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
ask = [{"role": "user", "content": "Name three colours."}]


def check(name, condition, shown=""):
    print(f"{'ok ' if condition else 'NOT'} {name} {shown}")
    if not condition:
        sys.exit(1)


def openai_client():
    client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    whole = client.chat.completions.create(model=model, messages=ask, max_tokens=24, temperature=0)
    text = whole.choices[0].message.content
    check("openai: chat", bool(text) and whole.usage.completion_tokens <= 24, repr(text))
    stream = client.chat.completions.create(
        model=model, messages=ask, max_tokens=24, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    pieces, usage = [], None
    for chunk in stream:
        usage = chunk.usage or usage
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    check("openai: the stream says what the whole says", "".join(pieces) == text)
    check("openai: usage of the stream", usage.total_tokens == whole.usage.total_tokens)
    check("openai: what was read before is told", usage.prompt_tokens_details.cached_tokens > 0)
    scored = client.chat.completions.create(
        model=model, messages=ask, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    content = scored.choices[0].logprobs.content
    check("openai: logprobs", len(content) == 4 and all(len(c.top_logprobs) == 3 for c in content))
    check("openai: the greedy token is the likeliest", content[0].token == content[0].top_logprobs[0].token)
    several = client.chat.completions.create(model=model, messages=ask, max_tokens=16, n=3, seed=1)
    check("openai: n", len(several.choices) == 3)
    again = client.chat.completions.create(model=model, messages=ask, max_tokens=16, n=3, seed=1)
    said = [[c.message.content for c in answer.choices] for answer in (several, again)]
    check("openai: a seed repeats", said[0] == said[1])
    completion = client.completions.create(model=model, prompt="The capital of France is", max_tokens=4, temperature=0)
    check("openai: completion", bool(completion.choices[0].text), repr(completion.choices[0].text))
    for wrong, kind in [
        (dict(messages=[]), openai.BadRequestError),
        (dict(messages=ask, model="other"), openai.NotFoundError),
        (dict(messages=[{"role": "user", "content": "x " * 40000}]), openai.BadRequestError),
    ]:
        try:
            client.chat.completions.create(**{"model": model, **wrong})
            check("openai: a mistake is told", False)
        except kind as error:
            check("openai: a mistake is told", bool(error.body["message"]), error.body["message"][:70])


def anthropic_client():
    client = anthropic.Anthropic(base_url=base, api_key="none", max_retries=0)
    model, greedy = client.models.list().data[0].id, {"temperature": 0}
    whole = client.messages.create(model=model, messages=ask, max_tokens=24, system="Be brief.", extra_body=greedy)
    text = whole.content[0].text
    check("anthropic: message", bool(text) and whole.stop_reason in ("end_turn", "max_tokens"), repr(text))
    with client.messages.stream(
        model=model, messages=ask, max_tokens=24, system="Be brief.", extra_body=greedy
    ) as stream:
        streamed = "".join(stream.text_stream)
        final = stream.get_final_message()
    check("anthropic: the stream says what the whole says", streamed == text)
    check("anthropic: stop reason of the stream", final.stop_reason == whole.stop_reason)
    counted = client.messages.count_tokens(model=model, messages=ask, system="Be brief.")
    total = whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    check("anthropic: count_tokens", counted.input_tokens == total, counted.input_tokens)
    try:
        client.messages.create(model=model, messages=[], max_tokens=5)
        check("anthropic: a mistake is told", False)
    except anthropic.BadRequestError as error:
        check("anthropic: a mistake is told", error.body["type"] == "error")


openai_client()
anthropic_client()
