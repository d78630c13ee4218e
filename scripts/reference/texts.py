"""The fixed texts the logits references are made on.

`PASSAGE` is short and mixed (prose, code, figures, other scripts) so that 64
positions meet many kinds of token. `long_text` writes as many plain sentences as
asked for from word lists and a 64-bit linear congruential generator: the same seed
gives the same text on every machine, and nothing has to be committed.
"""

PASSAGE = (
    "The tide tables for the northern harbour were printed in 1907, and nobody has "
    "corrected them since. Each spring the keeper compares the paper with the water, "
    "writes down the difference in minutes, and closes the book.\n\n"
    "def mean(values: list[float]) -> float:\n"
    "    total = sum(values)\n"
    "    return total / len(values)\n\n"
    "Zwölf Boote lagen im Hafen; 十二艘船停在港口。 When the lamp was lit, "
    "they counted 3 ships, 27 gulls and 1 very tired dog."
)

NEEDLE = "Remember this well: the number carved above the lighthouse door is 7301946.\n\n"
QUESTION = "\n\nNow the question. The number carved above the lighthouse door is"

ADJECTIVES = "old quiet narrow distant careful bright heavy patient hollow wooden silver early".split()
NOUNS = (
    "gardener harbour letter bridge teacher lantern river engine captain window market "
    "orchard painter valley machine traveller"
).split()
VERBS = "watched repaired followed remembered painted carried measured described".split()
PLACES = (
    "near the station|behind the library|across the field|under the arches|"
    "before the storm|after the long winter|beside the canal|at the edge of town"
).split("|")


class Lcg:
    """Knuth's MMIX constants; the upper 31 bits are used."""

    def __init__(self, seed: int):
        self.state = seed

    def below(self, n: int) -> int:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % n

    def choose(self, words: list[str]) -> str:
        return words[self.below(len(words))]


def long_text(seed: int, sentences: int) -> str:
    """`sentences` sentences, a paragraph break after about every sixth."""
    rng = Lcg(seed)
    out = []
    for _ in range(sentences):
        out.append(
            f"The {rng.choose(ADJECTIVES)} {rng.choose(NOUNS)} {rng.choose(VERBS)} "
            f"the {rng.choose(ADJECTIVES)} {rng.choose(NOUNS)} {rng.choose(PLACES)}."
        )
        out.append("\n\n" if rng.below(6) == 0 else " ")
    return "".join(out)
