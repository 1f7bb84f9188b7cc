//! Words the user wrote: shown in a message, and the known word that was probably meant.

/// The beginning of what the user wrote, short enough for a message of one line.
pub(super) fn excerpt(text: &str) -> String {
    const MAX_CHARACTERS: usize = 60;
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The known word that was probably meant, else all of them: "known keys are …".
pub(crate) fn suggest(written: &str, known: &[&str], known_words: &str) -> String {
    if let Some(word) = nearest(written, known) {
        return format!("did you mean `{word}`?");
    }
    if known.is_empty() {
        return "there are none".to_owned();
    }
    let quoted: Vec<_> = known.iter().map(|word| format!("`{word}`")).collect();
    format!("{known_words} are {}", quoted.join(", "))
}

/// The known word that was probably meant, if there is one.
pub(crate) fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    // A third of the letters wrong is still a slip, and so is a word cut short; more is another word.
    let slips = (written.chars().count() / 3).clamp(1, 3);
    let distance = |word: &str| match word.strip_prefix(written) {
        Some(_) if written.len() >= 3 => 1,
        _ => edit_distance(written, word),
    };
    let nearest = known.iter().map(|word| (distance(word), *word)).min();
    nearest.filter(|(distance, _)| *distance <= slips).map(|(_, word)| word)
}

/// How many letters must be inserted, removed, replaced or swapped with their neighbour to get from one word to the
/// other (optimal string alignment).
fn edit_distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replaced = last[j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut least = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::{edit_distance, suggest};

    #[test]
    fn a_slip_is_one_letter_or_two_swapped() {
        for (from, to, distance) in [
            ("model", "model", 0),
            ("modle", "model", 1),
            ("mode", "model", 1),
            ("modell", "model", 1),
            ("nodel", "model", 1),
            ("", "model", 5),
            ("llama", "gpt", 5),
        ] {
            assert_eq!(edit_distance(from, to), distance, "{from} {to}");
            assert_eq!(edit_distance(to, from), distance, "{to} {from}");
        }
    }

    #[test]
    fn only_what_is_near_is_suggested() {
        let suggest = |written| suggest(written, &["model", "connect_ms"], "known keys");
        assert_eq!(suggest("modle"), "did you mean `model`?");
        assert_eq!(suggest("connect"), "did you mean `connect_ms`?");
        assert_eq!(suggest("conect_sm"), "did you mean `connect_ms`?");
        assert_eq!(suggest("region"), "known keys are `model`, `connect_ms`");
    }
}
