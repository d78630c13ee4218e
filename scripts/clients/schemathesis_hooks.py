"""Keeps the answers short that schemathesis asks a running `chelsea serve` for, so that thousands of requests take minutes.

    pip install schemathesis==4.32.5
    chelsea serve -m smollm2 --port 8099 &
    SCHEMATHESIS_HOOKS=schemathesis_hooks PYTHONPATH=scripts/clients schemathesis run \
        http://127.0.0.1:8099/openapi.json --exclude-checks positive_data_acceptance --exclude-path /v1/embeddings

What is made up is seldom a conversation that can be answered, so that everything that is valid is answered cannot be checked.
"""

import schemathesis

LENGTHS = {
    "/v1/chat/completions": "max_completion_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/messages": "max_tokens",
}
MOST = 4


@schemathesis.hook
def before_call(context, case, kwargs):
    length, body = LENGTHS.get(case.operation.path), case.body
    if length is None or not isinstance(body, dict):
        return
    lengths = {"n_predict", "max_tokens", "max_completion_tokens", "max_output_tokens"} & body.keys()
    for name in lengths:
        given = body[name]
        endless = name == "n_predict" and given == -1 or given is None and case.operation.path != "/v1/messages"
        if endless or isinstance(given, int) and not isinstance(given, bool) and given > MOST:
            body[name] = MOST
    # Messages have to say how long they may be, which is among what is checked.
    says = length in body or isinstance(body.get("n_predict"), int) and not isinstance(body["n_predict"], bool)
    if case.operation.path != "/v1/messages" and not says:
        body[length] = MOST
