"""LangChain's chat model for OpenAI's interface against a running `chelsea serve`.

    pip install langchain-openai==1.7.4
    chelsea serve -m qwen2.5-coder-0.5b --port 8099 &    # its chat template knows tools
    python scripts/clients/langchain_client.py http://127.0.0.1:8099

Every check prints a line; the first that fails ends the script with an error.
"""

import sys

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

base = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
ask = [SystemMessage("Be brief."), HumanMessage("Name three colours.")]
PLACE = {
    "title": "find",
    "description": "A place.",
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}


def check(name, condition, shown=""):
    print(f"{'ok ' if condition else 'NOT'} {name} {shown}")
    if not condition:
        sys.exit(1)


def model(**more):
    settings = {"model": "default", "api_key": "none", "temperature": 0, "max_tokens": 24, "max_retries": 0, **more}
    return ChatOpenAI(base_url=f"{base}/v1", **settings)


whole = model().invoke(ask)
check("chat", bool(whole.content) and whole.usage_metadata["output_tokens"] <= 24, repr(whole.content))
pieces = list(model(stream_usage=True).stream(ask))
check("the stream says what the whole says", "".join(piece.content for piece in pieces) == whole.content)
check("usage of the stream", any(piece.usage_metadata for piece in pieces))
several = model().batch([ask, ask])
check("a batch", [answer.content for answer in several] == [whole.content] * 2)
formed = model(max_tokens=60).with_structured_output(PLACE, method="json_schema", strict=True).invoke(ask)
check("a schema", isinstance(formed["city"], str), formed)
called = model(max_tokens=100).bind_tools([PLACE], tool_choice="find").invoke(ask)
check("a forced call", called.tool_calls[0]["name"] == "find" and "city" in called.tool_calls[0]["args"])
response = model(use_responses_api=True).invoke(ask)
check("the same as a response", response.text == whole.content)
streamed = list(model(use_responses_api=True).stream(ask))
check("the same as a response's stream", "".join(piece.text for piece in streamed) == whole.content)
