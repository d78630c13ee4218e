"""Questions over several documents in the format of LongBench, from the development sets of SQuAD and HotpotQA.

A context is the paragraphs that belong to a question, filled up with paragraphs of other questions to a given number
of tokens, in an order drawn by the seed. Questions are drawn by the seed too; those whose own paragraphs do not fit
are passed over.
"""

import json
import pathlib
import random

import long_context_eval
import tokenizers

import samples

TEXTS = pathlib.Path(long_context_eval.__file__).parent / "data" / "synthetic" / "json"


def squad() -> list[dict]:
    found = []
    for article in json.loads((TEXTS / "squad.json").read_text())["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                if not question["is_impossible"]:
                    answers = sorted({answer["text"] for answer in question["answers"]})
                    own = [f"{article['title'].replace('_', ' ')}\n{paragraph['context']}"]
                    found.append({"id": question["id"], "input": question["question"], "answers": answers, "own": own})
    return found


def hotpotqa() -> list[dict]:
    return [
        {
            "id": entry["_id"],
            "input": entry["question"],
            "answers": [entry["answer"]],
            "own": [f"{title}\n{''.join(sentences)}" for title, sentences in entry["context"]],
        }
        for entry in json.loads((TEXTS / "hotpotqa.json").read_text())
    ]


def make(name: str, questions: list[dict], args, count) -> list[dict]:
    rng = random.Random(f"{name} {args.seed}")
    order = list(range(len(questions)))
    rng.shuffle(order)
    pool = sorted({paragraph for question in questions for paragraph in question["own"]})
    lines = []
    for at in order:
        if len(lines) == args.samples:
            break
        question = questions[at]
        documents, room = list(question["own"]), args.length
        room -= sum(count(document) for document in documents)
        if room < 0:
            continue
        while len(documents) < len(pool):
            other = rng.choice(pool)
            if other in documents:
                continue
            room -= count(other)
            if room < 0:
                break
            documents.append(other)
        rng.shuffle(documents)
        context = "\n\n".join(f"Passage {i + 1}:\n{document}" for i, document in enumerate(documents))
        more = {"max_length": args.length}
        lines.append(
            samples.longbench(name, question["id"], question["input"], context, question["answers"], **more)
        )
    assert len(lines) == args.samples, f"only {len(lines)} questions of {name} fit into {args.length} tokens"
    return lines


def main() -> None:
    args = samples.arguments().parse_args()
    tokenizer = tokenizers.Tokenizer.from_file(args.tokenizer)

    def count(document: str) -> int:
        # With its heading and the empty line after it.
        return len(tokenizer.encode(f"Passage 10:\n{document}\n\n", add_special_tokens=False).ids)

    for name, questions in (("squad", squad()), ("hotpotqa", hotpotqa())):
        samples.write(args.out, name, make(name, questions, args, count))


if __name__ == "__main__":
    main()
