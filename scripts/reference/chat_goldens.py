"""Golden chat renderings: transformers' apply_chat_template.

    pip install -r requirements.txt
    python chat_goldens.py OUT.json NAME=MODEL.gguf ...

Made with transformers 5.2.0, jinja2 3.1.6, tokenizers 0.22.2, gguf 0.19.0.

OUT.json: {"models": [{"model", "messages", "tools", "add_generation_prompt", "text", "ids"}],
"templates": [{"template", "messages", "tools", "variables", "add_generation_prompt", "text" or "error"}]}.
The first list uses each model's own template (read from the model, not committed) and its
tokenizer; the second uses the templates below, written to visit what chat templates use of Jinja.
`error` stands where the template raises an exception itself.
"""

import json
import pathlib
import sys

import gguf
import jinja2
from transformers import PreTrainedTokenizerFast

from tokenizers_from_gguf import field, tokenizer_from_gguf

SYSTEM = {"role": "system", "content": "You are terse.\nAnswer in one line."}
USER = {"role": "user", "content": "  What is 2 + 2?  "}
ASSISTANT = {"role": "assistant", "content": "4 — naïve, \"quoted\" & <b>bold</b> 🙂"}
AGAIN = {"role": "user", "content": "And {{ 3 }} {% if x %}* 3{% endif %}?\n\n```py\nprint(9)\n```"}
CONVERSATIONS = [
    [USER],
    [SYSTEM, USER],
    [USER, ASSISTANT, AGAIN],
    [SYSTEM, USER, ASSISTANT, AGAIN],
    [SYSTEM, USER, ASSISTANT],
    [{"role": "user", "content": ""}],
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather <now> & \"here\": é 天 🙂 / \\ \t \u2028",
            "parameters": {
                "type": "object",
                "properties": {"zip": {"type": "integer"}, "city": {"type": "string", "enum": ["A", "B"]}},
                "required": ["city"],
                "x": [1, 2.0, 0.5, 1e22, 1.5e-7, -3, True, None, [], {}, 12345678901234567890],
            },
        },
    }
]
TOOL_TURNS = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": {"zip": 1, "city": "A"}}}],
    },
    {"role": "tool", "content": "{\"t\": 20}"},
    {"role": "tool", "content": "second"},
]

# (template, messages, tools, variables, add_generation_prompt)
TEMPLATES = [
    # What can be iterated over: not none, which is how templates ask whether there are tools.
    (
        "{% if tools is iterable and tools | length > 0 %}{{ tools | length }} tools{% else %}no tools{% endif %} "
        "{{ none is iterable }} {{ messages is iterable }} {{ 'text' is iterable }} {{ 3 is iterable }} "
        "{{ unheard_of is iterable }}",
        CONVERSATIONS[0], None, {}, False,
    ),
    # Blocks trimmed and stripped; the loop variable; a trailing newline dropped.
    (
        "{% for m in messages %}\n    {% if loop.first %}\n[first]\n    {% endif %}\n"
        "  {{ loop.index }}/{{ loop.length }} {{ m.role|upper }}: {{ m['content']|trim }}\n{% endfor %}\nend\n",
        CONVERSATIONS[3], None, {}, False,
    ),
    # Namespaces, loop controls, slices, and the Python methods templates call.
    (
        "{%- set ns = namespace(n=0, last=none) -%}{%- for m in messages[1:] -%}{%- if m.role == 'assistant' -%}"
        "{%- continue -%}{%- endif -%}{%- set ns.n = ns.n + 1 -%}{%- set ns.last = m -%}{%- if ns.n > 5 -%}"
        "{%- break -%}{%- endif -%}{%- endfor -%}{{ ns.n }} {{ ns.last.content.strip().split('\\n')[0].upper() }} "
        "{{ messages[::-1][0].content.startswith('And') }} {{ 'a-b'.replace('-', '+') }} {{ 'x,y'.split(',')[-1] }} "
        "{{ messages[0].get('name', 'nobody') }} {{ messages[0].items()|list|length }} {{ '  l'.lstrip() }}{{ 'r\\n'.rstrip() }}",
        CONVERSATIONS[3], None, {}, False,
    ),
    # JSON as Python writes it.
    (
        "{{ tools|tojson }}\n{{ tools[0]|tojson(indent=2) }}\n{{ tools[0].function.name|tojson }}\n"
        "{%- for k, v in tools[0].function.parameters.items() %}{{ k }}={{ v|tojson }};{% endfor %}",
        CONVERSATIONS[0], TOOLS, {}, False,
    ),
    # Variables, tests, undefined values, macros, generation tags.
    (
        "{%- macro turn(m) -%}<{{ m.role }}>{% generation %}{{ m.content }}{% endgeneration %}</{{ m.role }}>{%- endmacro -%}"
        "{{ bos_token }}{%- for m in messages %}{{ turn(m) }}{% endfor -%}"
        "{%- if enable_thinking is defined and enable_thinking is false %}[no thinking]{% endif -%}"
        "{%- if tools is none or not tools %}[no tools]{% endif -%}{{ missing or 'default' }}{{ missing|default('d') }}"
        "{%- if messages[0].content is string and messages is iterable and messages[0] is mapping %}[types]{% endif -%}"
        "{%- if add_generation_prompt %}{{ '<assistant>' }}{% endif -%}{{ eos_token }}",
        CONVERSATIONS[2], None, {"enable_thinking": False}, True,
    ),
    # Filters.
    (
        "{{ messages|map(attribute='role')|join('|') }} {{ messages|selectattr('role', 'equalto', 'user')|list|length }} "
        "{{ messages|rejectattr('role', 'equalto', 'user')|map(attribute='content')|first|length }} {{ [3,1,2]|sort|last }} "
        "{{ 'abc'|capitalize }} {{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 5 }} {{ 1.0 + 2 }} {{ 'a' ~ 1 ~ true }} {{ none }} "
        "{{ [1, 'two', none, true] }} {{ {'a': 1} }} {{ 'in' if 'er' in 'user' else 'out' }} {{ range(3)|list }}",
        CONVERSATIONS[3], None, {}, False,
    ),
    # The template's own refusal.
    (
        "{%- if messages[0].role == 'system' -%}{{ raise_exception('System role not supported') }}{%- endif -%}ok",
        CONVERSATIONS[1], None, {}, False,
    ),
    ("{%- if messages[0].role == 'system' -%}{{ raise_exception('no') }}{%- endif -%}ok", CONVERSATIONS[0], None, {}, False),
]


def main() -> None:
    out = pathlib.Path(sys.argv[1])
    models, templates = [], []
    plain = None
    for argument in sys.argv[2:]:
        name, path = argument.split("=", 1)
        template = field(gguf.GGUFReader(path), "tokenizer.chat_template")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer_from_gguf(pathlib.Path(path)))
        plain = plain or tokenizer
        cases = [(c, None, g) for c in CONVERSATIONS for g in (False, True)]
        if "tools" in template:
            cases.append((TOOL_TURNS, TOOLS, True))
        for messages, tools, generation in cases:
            text = tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=template, tokenize=False, add_generation_prompt=generation
            )
            ids = tokenizer(text, add_special_tokens=False).input_ids
            models.append(
                {"model": name, "messages": messages, "tools": tools, "add_generation_prompt": generation,
                 "text": text, "ids": ids}
            )
    plain.bos_token, plain.eos_token = "<bos>", "<eos>"
    for template, messages, tools, variables, generation in TEMPLATES:
        row = {"template": template, "messages": messages, "tools": tools, "variables": variables,
               "add_generation_prompt": generation}
        try:
            row["text"] = plain.apply_chat_template(
                messages, tools=tools, chat_template=template, tokenize=False, add_generation_prompt=generation, **variables
            )
        except jinja2.exceptions.TemplateError as error:
            row["error"] = error.message
        templates.append(row)
    def block(rows):
        return ",\n".join(json.dumps(row, ensure_ascii=True) for row in rows)
    out.write_text('{"models":[\n' + block(models) + '\n],"templates":[\n' + block(templates) + "\n]}\n")
    print(f"{out}: {len(models)} + {len(templates)} renderings")
    for row in templates:
        print(repr(row.get("text", row.get("error"))))


if __name__ == "__main__":
    main()
