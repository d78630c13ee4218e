//! Rules for the form of an answer that anyone can check.

/// Whether `answer` keeps `rule`: `begins TEXT`, `ends TEXT`, `has TEXT`, `lacks TEXT` (case aside, the last two as whole
/// words), `small` (no capital letter), `capitals` (no small letter), `one-line` or `words-at-most N`. No answer keeps a rule
/// that is none of these, and an empty answer keeps no rule.
pub(super) fn kept(rule: &str, answer: &str) -> bool {
    let (name, rest) = rule.split_once(' ').unwrap_or((rule, ""));
    let (answer, rest) = (answer.trim(), rest.trim());
    if answer.is_empty() {
        return false;
    }
    let small = |text: &str| text.to_lowercase();
    let cased = || answer.chars().any(char::is_alphabetic);
    match name {
        "begins" if !rest.is_empty() => small(answer).starts_with(&small(rest)),
        "ends" if !rest.is_empty() => small(answer).ends_with(&small(rest)),
        "has" if !rest.is_empty() => super::matching::stands_whole(answer, rest),
        "lacks" if !rest.is_empty() => !super::matching::stands_whole(answer, rest),
        "small" => cased() && !answer.chars().any(char::is_uppercase),
        "capitals" => cased() && !answer.chars().any(char::is_lowercase),
        "one-line" => !answer.contains('\n'),
        "words-at-most" => rest.parse().is_ok_and(|most: usize| answer.split_whitespace().count() <= most),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_tells_those_that_keep_it_from_those_that_do_not() {
        let cases = [
            ("begins Report:", "report: it rained.", "A report: it rained."),
            ("ends over", " It rained. Over\n", "It is over."),
            ("has teal", "A teal door, and more.", "A steal."),
            ("lacks the", "Theirs alone", "It is the door"),
            ("small", "it rained.", "It rained."),
            ("capitals", "IT RAINED 3 TIMES.", "IT rained."),
            ("one-line", "one line\n", "two\nlines"),
            ("words-at-most 3", "no more words", "some more words here"),
        ];
        for (rule, keeps, breaks) in cases {
            assert!(kept(rule, keeps), "{rule}: {keeps}");
            assert!(!kept(rule, breaks), "{rule}: {breaks}");
            assert!(!kept(rule, " \n"), "{rule}: an empty answer");
        }
    }

    #[test]
    fn what_is_no_rule_is_never_kept() {
        for rule in ["", "begin x", "begins", "has ", "words-at-most", "words-at-most many", "rhymes"] {
            assert!(!kept(rule, "begin x has many"), "{rule}");
        }
        assert!(!kept("small", "123") && !kept("capitals", "123"), "no letter has a case");
    }
}
