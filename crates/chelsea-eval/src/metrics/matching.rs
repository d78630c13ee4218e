//! Whether something is named in an answer.

/// Share of `expected` for which `found` holds; 0 of none.
pub(super) fn share(expected: &[String], found: impl Fn(&str) -> bool) -> f64 {
    expected.iter().filter(|e| found(e)).count() as f64 / expected.len().max(1) as f64
}

/// Whether `text` contains `part`, case aside.
pub(super) fn contains(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}

/// Whether `text` contains `part`, case aside, with neither end run on: next to digits no digit may stand, next to
/// anything else no letter, digit or hyphen.
pub(super) fn stands_whole(text: &str, part: &str) -> bool {
    let (text, part) = (text.to_lowercase(), part.to_lowercase());
    if part.is_empty() {
        return false;
    }
    let number = part.chars().all(|c| c.is_ascii_digit());
    let runs_on = |c: char| if number { c.is_ascii_digit() } else { c.is_alphanumeric() || c == '-' };
    text.match_indices(&part).any(|(at, _)| {
        let after = &text[at + part.len()..];
        !text[..at].chars().next_back().is_some_and(runs_on) && !after.chars().next().is_some_and(runs_on)
    })
}

/// Classes named in the answer share the point, if the right one is among them. A class whose name is merely a part
/// of the right one's does not count as named.
pub(super) fn classification(answer: &str, expected: &str, classes: &[String]) -> f64 {
    let named: Vec<&str> = classes.iter().map(String::as_str).filter(|class| answer.contains(class)).collect();
    let named: Vec<&str> = named.into_iter().filter(|c| *c == expected || !expected.contains(c)).collect();
    if named.contains(&expected) { 1.0 / named.len() as f64 } else { 0.0 }
}

/// The letter that a text chooses, and how many bytes it takes to say so: the first letter from A to J that stands alone,
/// a capital, or small and followed by a bracket or a full stop.
fn chosen(text: &str) -> Option<(char, usize)> {
    let mut before = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let after = chars.peek().map(|&(_, c)| c);
        let alone = !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric);
        let marked = matches!(after, Some(')' | '.' | ':' | ']'));
        // "A" may be an article: then words follow.
        let article = c == 'A' && after == Some(' ') && text[at + 2..].starts_with(char::is_lowercase);
        if alone && (('A'..='J').contains(&c) && !article || marked && ('a'..='j').contains(&c)) {
            return Some((c.to_ascii_uppercase(), at + 1));
        }
        before = Some(c);
    }
    None
}

/// The letter that a text chooses of several.
pub(crate) fn choice(text: &str) -> Option<char> {
    chosen(text).map(|(letter, _)| letter)
}

/// Whether what follows the text changes nothing of what it chooses.
pub(super) fn has_chosen(text: &str) -> bool {
    chosen(text).is_some_and(|(_, end)| text[end..].chars().next().is_some_and(|c| !c.is_alphanumeric() && c != ' '))
}

/// Runs of digits.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty())
}

/// Share of the answer's numbers that are the one in `expected` ("Paragraph 12").
pub(super) fn retrieval(answer: &str, expected: &str) -> f64 {
    numbers(expected).next().map_or(0.0, |right| count(answer, right))
}

/// Share of the answer's numbers that are `expected`.
pub(super) fn count(answer: &str, expected: &str) -> f64 {
    let (mut right, mut all) = (0, 0);
    for number in numbers(answer) {
        all += 1;
        right += usize::from(number == expected.trim());
    }
    right as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_a_letter_that_stands_alone() {
        for (text, letter) in [
            ("B", Some('B')),
            ("(C) They all knew", Some('C')),
            ("The answer is D.", Some('D')),
            ("b) because", Some('B')),
            ("A. inaccurate", Some('A')),
            ("A dog is meant, so (B)", Some('B')),
            ("Because of DNA", None),
            ("i do not know", None),
            ("", None),
        ] {
            assert_eq!(choice(text), letter, "{text}");
        }
        assert!(has_chosen("(C) ") && has_chosen("B\n") && !has_chosen("B") && !has_chosen("A "));
    }

    #[test]
    fn a_value_stands_whole_or_not_at_all() {
        assert!(stands_whole("The code is 1234567.", "1234567"));
        assert!(stands_whole("no1234567x", "1234567"), "letters do not make another number");
        for cut in ["12345678", "01234567", "123 4567", ""] {
            assert!(!stands_whole(cut, "1234567"), "{cut}");
        }
        assert!(stands_whole("12345678 or 1234567", "1234567"), "a second place counts");
        assert!(stands_whole("It is Warm-Lake.", "warm-lake"));
        assert!(!stands_whole("warm-lakeside", "warm-lake") && !stands_whole("very-warm-lake", "warm-lake"));
        assert!(!stands_whole("anything", ""));
    }

    #[test]
    fn naming_more_classes_is_worth_less() {
        let classes: Vec<String> = ["person", "place", "date", "birth date"].map(String::from).into();
        assert_eq!(classification("It is a place", "place", &classes), 1.0);
        assert_eq!(classification("person or place", "place", &classes), 0.5);
        assert_eq!(classification("person", "place", &classes), 0.0);
        // "date" occurs inside the right class and is no second guess.
        assert_eq!(classification("birth date", "birth date", &classes), 1.0);
        assert_eq!(classification("birth date", "date", &classes), 0.5);
    }

    #[test]
    fn numbers_of_an_answer_share_the_point() {
        assert_eq!(retrieval("Paragraph 12", "Paragraph 12"), 1.0);
        assert_eq!(retrieval("Paragraph 12 or 13", "Paragraph 12"), 0.5);
        assert_eq!(retrieval("no idea", "Paragraph 12"), 0.0);
        assert_eq!(retrieval("12", "no number"), 0.0);
        assert_eq!(count("I count 3, 3 and 4", "3"), 2.0 / 3.0);
    }
}
