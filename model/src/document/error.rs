//! What is wrong with a file.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileError {
    /// The line it stands in, or that of the table it is missing from [1 and up].
    pub line: usize,
    /// The key, with the tables it stands in: `region.agent.mesh`; or `syntax`.
    pub key: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// Everything that is wrong with a file, in the order of its lines. Displays as one line per error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FileErrors {
    /// The file, as the caller named it.
    pub file: String,
    /// At least one.
    pub errors: Vec<FileError>,
}

impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, FileError { line, key, message }) in self.errors.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{}:{line}: {key}: {message}", self.file)?;
        }
        Ok(())
    }
}

/// Words that differ more than this in length are not compared.
const MISSPELT_BYTES_MAX: usize = 12;

/// The nearest of `known` to a misspelt `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near_enough = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .filter(|candidate| word.len().abs_diff(candidate.len()) <= MISSPELT_BYTES_MAX)
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= near_enough)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many characters must be typed, deleted, replaced or swapped with their neighbour to turn one word into the other
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            let least = replaced.min(row[j - 1] + 1).min(rows[i - 1][j] + 1);
            row.push(if swapped { least.min(rows[i - 2][j - 2] + 1) } else { least });
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slip is recognised, another word is not.
    #[test]
    fn slips() {
        let known = ["name", "latitude", "east", "eu-west"];
        for (word, meant) in [("nmae", "name"), ("latitud", "latitude"), ("esat", "east"), ("euwest", "eu-west")] {
            assert_eq!(nearest(word, known), Some(meant));
        }
        for word in ["node", "", "x", "priority"] {
            assert_eq!(nearest(word, known), None, "{word}");
        }
    }
}
