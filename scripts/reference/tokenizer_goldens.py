"""Golden token ids: `tokenizers` on tokenizers_from_gguf.py's pipelines, over texts meant to hurt.

    pip install -r requirements.txt
    python tokenizer_goldens.py MODEL.gguf OUT.json

Made with transformers 5.2.0, tokenizers 0.22.2, gguf 0.19.0, sentencepiece 0.2.3. A SentencePiece vocabulary is
judged by the `sentencepiece` library itself, and has no rows to decode.

OUT.json: {"encode": [{"text", "ids", "special": ids or null}], "decode": [{"ids", "text", "skipped"}]}.
`ids` spells control tokens out, `special` (null where it is the same) parses them. The ids
to decode are drawn at random with a fixed seed, so that most byte sequences are broken;
`text` keeps control tokens, `skipped` (null where it is the same) leaves them out.
"""

import json
import pathlib
import random
import sys

import gguf

from tokenizers_from_gguf import SentencePieceTokenizer, field, tokenizer_from_gguf
from texts import PASSAGE, long_text

CORPUS = [
    "",
    " ",
    "a",
    "Hello, world!",
    " Hello  world   three    four",
    "The quick brown fox jumps over the lazy dog. THE QUICK BROWN FOX.",
    "I'm sure they've said we'll go; he'd SAY IT'S DON'T'S, they'RE. 'tis 'Twas ''s 'ſ it'ſ",
    "don’t “smart quotes” — en–dash … ellipsis",
    "0 1 12 123 1234 12345 1234567890 3.14159 1,000,000 0x1F 1e-9 ½ ² ③ Ⅻ ٣٤٥ १२३ 一二三",
    "a1b2c3 x123y 99bottles v2.0.1-rc3 2024-11-23T04:05:06Z 192.168.0.1:8080",
    "\n",
    "\n\n\n",
    "\r\n",
    "line one\nline two\r\nline three\rline four\n\n  indented\n\n\n\ttabbed\n",
    "   leading and trailing   ",
    "tabs\t\t\tand spaces \t \t mixed \n \n  \n",
    "end with newline and spaces \n   ",
    "a" + " " * 100 + "b" + "\n" * 30 + "c" + "\t" * 17,
    "nbsp\u00a0thin\u2009em\u2003ideographic\u3000zwsp\u200bzwj\u200dzwnj\u200cbom\ufeffls\u2028ps\u2029nel\u0085vt\u000bff\u000cogham\u1680mvs\u180e",
    "\u00a0 \u00a0  \u3000\u3000 x",
    "nul\u0000 bell\u0007 esc\u001b[31m del\u007f unit\u001f",
    "def fib(n: int) -> int:\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n\n\nprint([fib(i) for i in range(10)])  # 55?\n",
    'fn main() {\n\tlet v: Vec<&\'static str> = vec!["a", "b"];\n\tprintln!("{:?} {{}}", v.iter().map(|s| s.len()).sum::<usize>());\n}\n',
    '#include <stdio.h>\nint main(void){ for(int i=0;i<10;++i){ printf("%d\\n", i*i); } return 0; } /* ok */ // done',
    "SELECT a.id, COUNT(*) AS n FROM t1 a LEFT JOIN t2 b ON a.id=b.id WHERE a.x>=10 GROUP BY 1 HAVING n!=0;",
    '{"key": [1, 2.5, null, true], "nested": {"a\\nb": "\\u00e9"}}',
    "<html><body class='x'>&amp; &lt;tag/&gt; <!-- c --></body></html>",
    "$ ls -la | grep -v '^d' && rm -rf ./target/* || echo \"$HOME\" > /dev/null 2>&1",
    "x^2 + y_1 \\leq \\frac{a}{b} \\sum_{i=0}^{n} ∑ ∫ √2 ≠ ≤ ∞ ∂ ∇ ⊕ ℝ π≈3.14",
    "camelCaseWord snake_case_word kebab-case-word SCREAMING_SNAKE PascalCase HTTPServerError iPhone15Pro",
    "https://example.org/path/to/page?query=value&x=%20y#fragment user.name+tag@example.co.uk",
    "!!! ??? ... ,,, ;;; ::: --- ___ *** /// \\\\\\ ((())) [[[]]] {{{}}} <<<>>> ||| &&& ^^^ ~~~ ``` \"\"\" '''",
    "==> <== -> => :: ?? !! ?. ... ..= += -= *= /= %= <<= >>= **",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. ÄÖÜ ß ẞ",
    "Portez ce vieux whisky au juge blond qui fume : œuvre, naïveté, cœur, Noël, l'été, aujourd'hui",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío, ¿añoraba? ¡Sí!",
    "Pchnąć w tę łódź jeża lub ośm skrzyń fig. Příliš žluťoučký kůň. Ő Ű ğ ı İ ş",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Ґанок, їжак, ѣ",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. ΆΈΉΊΌΎΏ ς",
    "עברית: דג סקרן שט בים מאוכזב. שָׁלוֹם",
    "العربية: نص حكيم له سر قاطع وذو شأن عظيم. مُحَمَّد ـــ",
    "हिन्दी: ऋषियों को सताने वाले दुष्ट राक्षसों के राजा। क्षत्रिय",
    "ไทย: เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "தமிழ் తెలుగు ಕನ್ನಡ മലയാളം বাংলা ગુજરાતી ਪੰਜਾਬੀ සිංහල ភាសាខ្មែរ ລາວ မြန်မာ ქართული հայերեն አማርኛ",
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。中文English混排123测试。",
    "いろはにほへと ちりぬるを。カタカナ、ひらがな、漢字。ｶﾞｷﾞｸﾞ ＡＢＣ１２３",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. 한글",
    "Tiếng Việt: Con sói nâu nhảy qua con chó lười biếng.",
    "decomposed: e\u0301 a\u0308 o\u0302\u0323 n\u0303 A\u030a \u1100\u1161\u11a8 \u0064\u0307\u0323 ≮ <\u0338 Å \u212b Ω \u2126 ﬁ ﬀ ſt",
    "zalgo: h̷̢̛e̸̡͝ ̶c̵͎̈o̶m̴̨̛ȩ̷͠s̵̰̈",
    "😀😃😄 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ❤️ ☃ ✈️ 1️⃣ 🧑🏿‍🚀 🤷‍♀️ text🙂text 🙂 🙂🙂",
    "𝕸𝖆𝖙𝖍 𝒻𝒶𝓃𝒸𝓎 𝟙𝟚𝟛 𐍈𐌰𐌹 𓀀𓁐 𒀀 𠜎𠜱 🀄 🂡 \U0001f9ff \U000e0041",
    "private \ue000\uf8ff noncharacter \ufdd0\ufffe replacement \ufffd",
    "a\u0300\u0301\u0302b \u0301start ́",
    "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|endoftext|> <|im_end|>x<|im_end|> y <|im_start|>",
    "<|im_start <|im_start| |im_start|> <|IM_START|> <|im_end|><|im_end <||im_end|>>",
    "<tool_call>\n{\"name\": \"f\"}\n</tool_call> <tool_call >",
    "<|fim_prefix|>def f():<|fim_suffix|>return 1<|fim_middle|> <repo_name>x<file_sep>y <filename>",
    "<s>[INST] hi [/INST]</s> <unk> <0x0A> [PAD151665] ▁under▁score Ġbyte Ċ level Ã©",
    "Lorem ipsum dolor sit amet, " * 12,
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis Donaudampfschifffahrtsgesellschaft",
    "qzxjkvbpwmyfgh QZXJKVB zzxxyy wxyz1qaz2wsx",
    PASSAGE,
    long_text(seed=7, sentences=12),
]

# Runs of spaces, tabs and line ends are tokens of their own in Gemma's vocabulary.
MORE_SPACES = [
    "  a", "   a  b   ", "x" + " " * 31 + "y" + " " * 33, "\t\tx\t\t\t", "a\n\n  b\n\n\n   ",
    "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "<bos>a<eos> <unk> <pad><unused7>",
    "<table><tr><td>1</td></tr></table> <h1>T</h1>", "[multimodal] <start_of_image> x",
]


def write(out: pathlib.Path, lines: list[dict], decode: list[dict]) -> None:
    with out.open("w", encoding="utf-8") as f:
        def block(rows):
            return ",\n".join(json.dumps(row, ensure_ascii=True, separators=(",", ":")) for row in rows)
        f.write('{"encode":[\n' + block(lines) + '\n],"decode":[\n' + block(decode) + "\n]}\n")
    print(f"{out}: {len(lines)} texts, {sum(len(l['ids']) for l in lines)} ids")


def sentence_piece(path: pathlib.Path, out: pathlib.Path) -> None:
    tokenizer = SentencePieceTokenizer(path)
    lines = []
    for text in CORPUS + MORE_SPACES:
        literal, parsed = tokenizer.encode(text), tokenizer.encode_parsed(text)
        lines.append({"text": text, "ids": literal, "special": parsed if parsed != literal else None})
    write(out, lines, [])


def main() -> None:
    path, out = map(pathlib.Path, sys.argv[1:3])
    if field(gguf.GGUFReader(path), "tokenizer.ggml.model") == "llama":
        return sentence_piece(path, out)
    tokenizer = tokenizer_from_gguf(path)

    def encode(text: str, special: bool) -> list[int]:
        tokenizer.encode_special_tokens = not special
        return tokenizer.encode(text, add_special_tokens=False).ids

    lines = []
    for text in CORPUS:
        literal, parsed = encode(text, False), encode(text, True)
        lines.append({"text": text, "ids": literal, "special": parsed if parsed != literal else None})
    rng = random.Random(11)
    size = tokenizer.get_vocab_size()
    bytes_only = [tokenizer.token_to_id(chr(c)) for c in range(0xA1, 0x144) if tokenizer.token_to_id(chr(c)) is not None]
    special = [id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    decode = []
    for kind in range(12):
        pool = [rng.randrange(size) for _ in range(16)] if kind % 3 else [rng.choice(bytes_only) for _ in range(24)]
        if kind % 2:
            pool.insert(rng.randrange(len(pool)), rng.choice(special))
        text, skipped = (tokenizer.decode(pool, skip_special_tokens=skip) for skip in (False, True))
        decode.append({"ids": pool, "text": text, "skipped": skipped if skipped != text else None})
    write(out, lines, decode)


if __name__ == "__main__":
    main()
