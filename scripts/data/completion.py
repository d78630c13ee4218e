"""The next line of a Python module, which calls something that another module defines: cross-file completion in the
format of LongBench's repobench-p, from the package llama-index-core as `packages.txt` pins it.

A context is the module that holds the definition, filled up with other modules of the package to a given number of
tokens, in an order drawn by the seed. The input is the imports of the module under completion and the lines before
the first call, so what the call looks like has to come from the context.
"""

import ast
import importlib.util
import pathlib
import random

import tokenizers

import samples

DATASET = "repobench-p"
ROOT = "llama_index"
# Lines of the module before the one that is asked for, its imports not counted.
BEFORE = 24


def modules() -> dict[str, str]:
    """Sources by the name they are imported by."""
    folder = pathlib.Path(next(iter(importlib.util.find_spec(ROOT).submodule_search_locations))) / "core"
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = (ROOT, "core", *path.relative_to(folder).with_suffix("").parts)
        if not any(part.startswith("_") for part in parts):
            found[".".join(parts)] = path.read_text()
    return found


def definitions(tree: ast.Module) -> set[str]:
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}


def calls(tree: ast.Module, names: set[str]):
    """The first call of each name that is a statement of one line, with the line it is on."""
    seen = set()
    statements = [node for node in ast.walk(tree) if isinstance(node, (ast.Assign, ast.Return, ast.Expr))]
    used = sorted(
        (node.lineno, node.id) for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in names
    )
    for line, name in used:
        if name in seen:
            continue
        seen.add(name)
        whole = [s for s in statements if s.lineno == line == s.end_lineno]
        called = [n for s in whole for n in ast.walk(s) if isinstance(n, ast.Call)]
        if any(isinstance(call.func, ast.Name) and call.func.id == name and call.args + call.keywords for call in called):
            yield name, line


def questions(sources: dict[str, str]) -> list[dict]:
    trees = {name: ast.parse(text) for name, text in sources.items()}
    defined = {name: definitions(tree) for name, tree in trees.items()}
    found = []
    for module, tree in trees.items():
        imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        origin = {
            alias.name: node.module
            for node in imports
            if isinstance(node, ast.ImportFrom) and not node.level and node.module in sources
            for alias in node.names
            if alias.asname is None and alias.name in defined[node.module]
        }
        lines = sources[module].splitlines()
        head = [line for node in imports for line in lines[node.lineno - 1 : node.end_lineno]]
        for name, at in calls(tree, set(origin)):
            answer = lines[at - 1].strip()
            before = lines[max(0, at - 1 - BEFORE) : at - 1]
            if 20 <= len(answer) <= 120:
                text = "\n".join([f"# {module}", *head, "...", *before])
                found.append({"id": f"{module}:{at}", "own": origin[name], "in": module, "input": text, "answer": answer})
    return found


def main() -> None:
    args = samples.arguments().parse_args()
    tokenizer = tokenizers.Tokenizer.from_file(args.tokenizer)
    sources = modules()

    def shown(module: str) -> str:
        return f"# {module}\n{sources[module].strip()}"

    def count(text: str) -> int:
        return len(tokenizer.encode(f"{text}\n\n\n", add_special_tokens=False).ids)

    length = {module: count(shown(module)) for module in sources}
    rng = random.Random(f"{DATASET} {args.seed}")
    order = questions(sources)
    rng.shuffle(order)
    lines = []
    for question in order:
        if len(lines) == args.samples:
            break
        room = args.length - length[question["own"]] - count(question["input"])
        if room < 0:
            continue
        chosen = [question["own"]]
        others = [module for module in sources if module not in (question["own"], question["in"])]
        rng.shuffle(others)
        for module in others:
            if length[module] <= room:
                room -= length[module]
                chosen.append(module)
        rng.shuffle(chosen)
        context = "\n\n\n".join(shown(module) for module in chosen)
        more = {"max_length": args.length, "defined_in": question["own"]}
        lines.append(
            samples.longbench(DATASET, question["id"], question["input"], context, [question["answer"]], **more)
        )
    assert len(lines) == args.samples, f"only {len(lines)} calls fit into {args.length} tokens"
    samples.write(args.out, DATASET, lines)


if __name__ == "__main__":
    main()
