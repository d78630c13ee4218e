//! How many characters have to change.

/// 1 less the edit distance (insert, delete, replace) divided by the longer length; 1 for two empty texts.
pub(super) fn similarity(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let longer = a.len().max(b.len());
    if longer == 0 {
        return 1.0;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    1.0 - row[b.len()] as f64 / longer as f64
}

/// Twice the longest common subsequence of characters divided by both lengths, in whole percent.
fn ratio(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let mut row = vec![0usize; b.len() + 1];
    for x in &a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    (200.0 * row[b.len()] as f64 / (a.len() + b.len()) as f64).round() / 100.0
}

/// Similarity of the answer's first line that is code (no comment, no fence) with the right line.
pub(super) fn code_similarity(answer: &str, expected: &str) -> f64 {
    let mut lines = answer.trim_start_matches('\n').split('\n');
    let line = lines.find(|line| !line.contains('`') && !line.contains('#') && !line.contains("//"));
    line.map_or(0.0, |line| ratio(line, expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        // kitten -> sitting takes three.
        assert!((similarity("kitten", "sitting") - 4.0 / 7.0).abs() < 1e-12);
        assert_eq!(similarity("", ""), 1.0);
        assert_eq!(similarity("", "abc"), 0.0);
        assert_eq!(similarity("naïve", "naïve"), 1.0);
    }

    #[test]
    fn code_is_the_first_line_that_is_no_comment() {
        assert_eq!(code_similarity("```python\n# a loop\nfor x in y:\n  pass", "for x in y:"), 1.0);
        assert_eq!(code_similarity("// only\n# comments", "x"), 0.0);
        // Six of 7 + 7 characters in common: 2 * 6 / 14 = 86 in whole percent.
        assert_eq!(code_similarity("\nabcdefg", "abcdefh"), 0.86);
        assert_eq!(code_similarity("", "x"), 0.0);
    }
}
