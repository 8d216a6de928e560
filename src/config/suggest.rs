//! Suggestions for misspelled names.

/// Returns `; did you mean `…`?` with the candidate that `word` is most likely a misspelling of, or
/// an empty string if none is similar.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |it| format!("; did you mean `{it}`?"))
}

/// Returns the candidate with the smallest edit distance to `word`, if that is at most a third of
/// the length of `word`.
fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    let tolerance = (length / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= tolerance && distance < length)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Returns the optimal string alignment distance of `a` and `b`, ignoring case: the number of
/// insertions, deletions, substitutions and transpositions of adjacent characters.
fn distance(a: &str, b: &str) -> usize {
    let lower = |s: &str| s.chars().flat_map(char::to_lowercase).collect::<Vec<_>>();
    let (a, b) = (lower(a), lower(b));
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substituted = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substituted.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelled_names_are_recognized() {
        let names = ["Bailey", "Bona", "Campbell", "Clark", "Jaquez"];
        assert_eq!(nearest("bona", names), Some("Bona"));
        assert_eq!(nearest("Jacquez", names), Some("Jaquez"));
        assert_eq!(nearest("Cambpell", names), Some("Campbell"));
        assert_eq!(nearest("Clarks", names), Some("Clark"));
        assert_eq!(nearest("Goloman", names), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest("B", ["A"]), None, "a different word, not a misspelling");
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("abc", "acb"), 1);
        assert_eq!(distance("abc", "ab"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
