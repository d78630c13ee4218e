//! Words that an answer and the right answer have in common.

use std::collections::{HashMap, HashSet};

/// Lower case, without punctuation and articles.
fn normalised(text: &str) -> Vec<String> {
    let text: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    text.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the")).map(String::from).collect()
}

/// F1 of two bags of words.
fn f1(answer: &[String], expected: &[String]) -> f64 {
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in expected {
        *left.entry(word).or_default() += 1;
    }
    let mut same = 0;
    for word in answer {
        if let Some(n) = left.get_mut(word.as_str()).filter(|n| **n > 0) {
            *n -= 1;
            same += 1;
        }
    }
    // 2pr / (p + r), with both shares written out.
    if same == 0 { 0.0 } else { 2.0 * f64::from(same) / (answer.len() + expected.len()) as f64 }
}

/// F1 of the words of both.
pub(super) fn qa_f1(answer: &str, expected: &str) -> f64 {
    f1(&normalised(answer), &normalised(expected))
}

/// F1 of the characters of both, punctuation and spaces aside.
pub(super) fn qa_f1_chars(answer: &str, expected: &str) -> f64 {
    let chars = |text: &str| -> Vec<String> {
        text.to_lowercase().chars().filter(|c| c.is_alphanumeric()).map(String::from).collect()
    };
    f1(&chars(answer), &chars(expected))
}

/// The characters of a text with spaces between them: words, where none are written.
pub(super) fn spaced(text: &str) -> String {
    let chars: Vec<String> = text.chars().filter(|c| !c.is_whitespace()).map(String::from).collect();
    chars.join(" ")
}

/// Sentences as lists of words.
fn sentences(text: &str) -> Vec<Vec<&str>> {
    text.split('.').map(|s| s.split_whitespace().collect()).filter(|s: &Vec<_>| !s.is_empty()).collect()
}

/// ROUGE-L of a summary: of each pair of sentences the longest common subsequence, all of them united, each word
/// once; recall against the distinct words of `expected`, precision against those of `answer`.
pub(super) fn rouge_l(answer: &str, expected: &str) -> f64 {
    let (answer, expected) = (sentences(answer), sentences(expected));
    let mut common = HashSet::new();
    for right in &expected {
        for said in &answer {
            common.extend(common_subsequence(right, said));
        }
    }
    let distinct = |sentences: &[Vec<&str>]| sentences.iter().flatten().collect::<HashSet<_>>().len();
    if common.is_empty() {
        return 0.0;
    }
    let recall = common.len() as f64 / distinct(&expected) as f64;
    let precision = common.len() as f64 / distinct(&answer) as f64;
    2.0 * precision * recall / (precision + recall)
}

/// A longest common subsequence. Of several, the one that is found going back from the ends and giving up words of
/// `b` first.
fn common_subsequence<'a>(a: &[&'a str], b: &[&'a str]) -> Vec<&'a str> {
    let width = b.len() + 1;
    let mut longest = vec![0u32; (a.len() + 1) * width];
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            longest[(i + 1) * width + j + 1] = if x == y {
                longest[i * width + j] + 1
            } else {
                longest[i * width + j + 1].max(longest[(i + 1) * width + j])
            };
        }
    }
    let (mut i, mut j, mut out) = (a.len(), b.len(), Vec::new());
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            out.push(a[i - 1]);
            (i, j) = (i - 1, j - 1);
        } else if longest[(i - 1) * width + j] > longest[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn articles_case_and_punctuation_do_not_matter() {
        assert_eq!(normalised("The cat, an ANT; it's a bee!"), ["cat", "ant", "its", "bee"]);
        assert_eq!(qa_f1("The Eiffel Tower.", "eiffel tower"), 1.0);
    }

    #[test]
    fn f1_counts_each_word_as_often_as_both_have_it() {
        // Of four words and three, two in common: precision 1/2, recall 2/3.
        assert!(near(qa_f1("red red blue sky", "red blue green"), 4.0 / 7.0));
        assert_eq!(qa_f1("", "x"), 0.0);
        assert_eq!(qa_f1("the", "a"), 0.0);
    }

    #[test]
    fn characters_serve_where_words_are_not_written() {
        assert!(near(qa_f1_chars("北京市。", "北京"), 4.0 / 5.0));
        assert_eq!(spaced("北 京"), "北 京");
    }

    #[test]
    fn a_summary_is_measured_by_its_longest_common_subsequences() {
        assert_eq!(rouge_l("the cat sat", "the cat sat"), 1.0);
        // "police the gunman" and "police gunman": the subsequence has 2 words; r = 2/3, p = 2/3.
        assert!(near(rouge_l("police kill gunman", "police the gunman"), 2.0 / 3.0));
        // Sentences are matched one by one: "a b" from the first, "d" from the second. r = 3/4, p = 3/5.
        assert!(near(rouge_l("a b x. y d", "a b c. d"), 2.0 / 3.0));
        // "fox ran", "It was fast" and, across sentences, "red": 6 of 9 distinct words and of 8.
        let (said, right) = ("The fox ran. It was fast and it was red.", "A red fox ran. It was very fast.");
        assert!(near(rouge_l(said, right), 12.0 / 17.0));
        // A word said twice counts once.
        assert_eq!(rouge_l("go go go", "go"), 1.0);
        for (a, b) in [("", "x"), ("x", ""), ("...", "x"), ("x", "y")] {
            assert_eq!(rouge_l(a, b), 0.0);
        }
    }

    #[test]
    fn the_common_subsequence_keeps_the_order() {
        assert_eq!(common_subsequence(&["a", "b", "c", "d"], &["b", "d", "c"]).len(), 2);
        assert!(common_subsequence(&["a"], &[]).is_empty());
    }
}
