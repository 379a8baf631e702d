//! Makes inputs of inputs: bits flipped, pieces cut, doubled, moved from one to another, numbers and words that parsers
//! stumble over.

/// What parsers of JSON, TOML and HTTP stumble over.
const WORDS: [&str; 24] = [
    "null",
    "-1",
    "0",
    "18446744073709551616",
    "1e999",
    "-0.0",
    "{}",
    "[]",
    "\"\"",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "\u{202e}",
    "9223372036854775807",
    "true",
    "\r\n",
    "\n",
    "[[",
    "..",
    "%00",
    "\"\"\"",
    "inf",
    "../../etc",
    "\u{1f980}",
];
/// No input grows over this.
const BYTES_MAX: usize = 64 * 1024;
const EDITS_MAX: usize = 6;

/// One of the corpus, changed in up to six places.
pub(crate) fn mutated(corpus: &[Vec<u8>], chance: &mut fastrand::Rng) -> Vec<u8> {
    let mut input = corpus[chance.usize(..corpus.len())].clone();
    for _ in 0..chance.usize(1..=EDITS_MAX) {
        edit(&mut input, corpus, chance);
        input.truncate(BYTES_MAX);
    }
    input
}

fn edit(input: &mut Vec<u8>, corpus: &[Vec<u8>], chance: &mut fastrand::Rng) {
    let at = chance.usize(..=input.len());
    let end = (at + chance.usize(1..=16)).min(input.len());
    match chance.u8(..8) {
        0 if at < input.len() => input[at] ^= 1 << chance.u8(..8),
        1 if at < input.len() => input[at] = chance.u8(..),
        2 => {
            input.drain(at..end);
        }
        3 => {
            let piece = input[at..end].to_vec();
            input.splice(at..at, piece);
        }
        4 => {
            // Deep or long: the same piece many times.
            let piece = input[at..end.min(at + 2)].repeat(chance.usize(1..=2_000));
            input.splice(at..at, piece);
        }
        5 => {
            let other = &corpus[chance.usize(..corpus.len())];
            let from = chance.usize(..=other.len());
            let to = (from + chance.usize(1..=256)).min(other.len());
            input.splice(at..end, other[from..to].iter().copied());
        }
        6 => input.truncate(at),
        _ => {
            let word = WORDS[chance.usize(..WORDS.len())];
            input.splice(at..end, word.bytes());
        }
    }
}
