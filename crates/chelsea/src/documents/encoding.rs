//! What bytes that should be UTF-8 look like, and the command that makes UTF-8 of them.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::Encoding;
use std::path::Path;

/// What a file's bytes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looks {
    /// UTF-8.
    Utf8,
    /// UTF-8 in which `bad` bytes are not, the first of them at `first`.
    Damaged { bad: usize, first: usize },
    /// Another encoding of single bytes or of one to four, by the name that `iconv` knows it by. `bad` bytes are not
    /// UTF-8, the first of them at `first`.
    Encoded { name: &'static str, bad: usize, first: usize },
    /// Text in units of two or four bytes.
    Wide(&'static str),
    /// No text, but what else.
    Binary(&'static str),
}

/// How files begin that are often given for the text in them, and what they are.
const KNOWN: [(&[u8], &str); 7] = [
    (b"%PDF-", "a PDF file: take its text out first, for instance with `pdftotext`"),
    (b"PK\x03\x04", "a ZIP archive (documents of office programs and e-books are such): save it as plain text first"),
    (b"\x1f\x8b", "a gzip archive: unpack it first with `gunzip`"),
    (b"\xd0\xcf\x11\xe0", "an old office document: save it as plain text first"),
    (b"{\\rtf", "a rich text file: save it as plain text first"),
    (b"\x89PNG", "a picture"),
    (b"GGUF", "a GGUF model: models are given with -m"),
];

impl Looks {
    /// Looks at all of a file.
    pub fn of(bytes: &[u8]) -> Looks {
        if let Some((_, what)) = KNOWN.iter().find(|(magic, _)| bytes.starts_with(magic)) {
            return Looks::Binary(what);
        }
        // Its letters are valid UTF-8 as well, with NULs between them.
        if let Some(name) = wide(bytes) {
            return Looks::Wide(name);
        }
        let Err(error) = std::str::from_utf8(bytes) else { return Looks::Utf8 };
        let (mut bad, mut broken, mut whole) = (0, 0, 0);
        for chunk in bytes.utf8_chunks() {
            whole += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
            broken += usize::from(!chunk.invalid().is_empty());
            bad += chunk.invalid().len();
        }
        let first = error.valid_up_to();
        // Text in another encoding has hardly a character that happens to be one of UTF-8.
        if whole >= 2 * broken {
            return Looks::Damaged { bad, first };
        }
        if bytes.contains(&0) {
            return Looks::Binary("a binary file");
        }
        match detected(bytes) {
            Some(encoding) => Looks::Encoded { name: encoding.name(), bad, first },
            None => Looks::Damaged { bad, first },
        }
    }

    /// What is wrong with a document that is no UTF-8, and what to do about it. `file` is none for standard input; `lossy`
    /// says whether the verb has that flag.
    pub fn advice(&self, bytes: &[u8], name: &str, file: Option<&Path>, lossy: bool) -> String {
        let place = |first: usize| {
            let line = 1 + bytes[..first].iter().filter(|&&b| b == b'\n').count();
            format!("byte {first}, in line {line}, is not")
        };
        let convert = |encoding: &str| match file {
            Some(file) => {
                let to = file.with_extension("utf8.txt");
                let quoted = |path: &Path| shell_quoted(&path.display().to_string());
                format!("`iconv -f {encoding} -t UTF-8 {} > {}`", quoted(file), quoted(&to))
            }
            None => format!("`... | iconv -f {encoding} -t UTF-8 | chelsea ...`"),
        };
        match *self {
            Looks::Utf8 => format!("{name} is UTF-8 text"),
            Looks::Damaged { bad, first } => {
                let way = if lossy { "--lossy reads it with U+FFFD in its place" } else { "correct it there" };
                format!("{name} is UTF-8 text but for {} ({}): {way}", count(bad), place(first))
            }
            Looks::Encoded { name: encoding, first, .. } => {
                let or =
                    if lossy { ", or read it with --lossy, which puts U+FFFD in the place of what is not" } else { "" };
                format!(
                    "{name} is not UTF-8 text ({}). It looks like {encoding}: convert it with {}{or}",
                    place(first),
                    convert(encoding)
                )
            }
            Looks::Wide(encoding) => {
                format!("{name} is not UTF-8 text. It looks like {encoding}: convert it with {}", convert(encoding))
            }
            Looks::Binary(what) => format!("{name} is not a text but {what}"),
        }
    }
}

/// UTF-16 or UTF-32, by a byte order mark or by where its NULs are.
fn wide(bytes: &[u8]) -> Option<&'static str> {
    // With a mark, `iconv` finds out the order and leaves the mark out.
    let marks: [(&[u8], &str); 4] = [
        (&[0xff, 0xfe, 0, 0], "UTF-32"),
        (&[0, 0, 0xfe, 0xff], "UTF-32"),
        (&[0xff, 0xfe], "UTF-16"),
        (&[0xfe, 0xff], "UTF-16"),
    ];
    if let Some((_, name)) = marks.iter().find(|(mark, _)| bytes.starts_with(mark)) {
        return Some(name);
    }
    // Texts in most languages have spaces and line ends; in bytes of their own NUL never occurs.
    let head = &bytes[..bytes.len().min(1 << 16) & !3];
    let mut nuls = [0usize; 4];
    head.iter().enumerate().filter(|(_, byte)| **byte == 0).for_each(|(i, _)| nuls[i % 4] += 1);
    let units = head.len() / 4;
    if units == 0 || !bytes.len().is_multiple_of(2) {
        return None;
    }
    let whole = bytes.len().is_multiple_of(4);
    let (mostly, hardly) = (|n: usize| 10 * n >= 9 * units, |n: usize| 10 * n < units);
    match nuls {
        [a, _, c, d] if whole && hardly(a) && mostly(c) && mostly(d) => Some("UTF-32LE"),
        [a, b, _, d] if whole && mostly(a) && mostly(b) && hardly(d) => Some("UTF-32BE"),
        [a, b, c, d] if a + c < (b + d) / 8 && 10 * (b + d) >= units => utf16(head, u16::from_le_bytes, "UTF-16LE"),
        [a, b, c, d] if b + d < (a + c) / 8 && 10 * (a + c) >= units => utf16(head, u16::from_be_bytes, "UTF-16BE"),
        _ => None,
    }
}

/// The name, if all units are characters.
fn utf16(head: &[u8], unit: fn([u8; 2]) -> u16, name: &'static str) -> Option<&'static str> {
    let units = head.chunks_exact(2).map(|two| unit([two[0], two[1]]));
    // Half a pair may stand at the end of what is looked at.
    let broken = char::decode_utf16(units).filter(Result::is_err).count();
    (broken <= 1).then_some(name)
}

/// The encoding that browsers would guess, if the bytes are text in it.
fn detected(bytes: &[u8]) -> Option<&'static Encoding> {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(bytes, true);
    let encoding = detector.guess(None, Utf8Detection::Deny);
    encoding.decode_without_bom_handling_and_without_replacement(bytes).map(|_| encoding)
}

/// `1 byte`, `2 bytes`.
pub fn count(bytes: usize) -> String {
    format!("{bytes} byte{}", if bytes == 1 { "" } else { "s" })
}

/// A name as a shell takes it.
fn shell_quoted(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ',' | ':' | '@');
    if !name.is_empty() && name.chars().all(plain) {
        name.to_owned()
    } else {
        format!("'{}'", name.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GERMAN: &str = "Die Bürger müssen für größere Gärten zahlen; das ist schön. Fünf Mäuse, zwölf Bären.\n";
    const JAPANESE: &str =
        "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で。\n";
    const CHINESE: &str = "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦。及秦灭之后，楚、汉分争。\n";
    const RUSSIAN: &str =
        "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n";

    fn utf16_bytes(text: &str, big: bool) -> Vec<u8> {
        text.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
    }

    #[test]
    fn encodings_are_told_by_what_is_in_them() {
        let in_encoding = |name: &str, text: &str| {
            let (bytes, used, lost) = Encoding::for_label(name.as_bytes()).expect("known").encode(text);
            assert!(!lost && used.name().eq_ignore_ascii_case(name), "{name}");
            Looks::of(&bytes)
        };
        for (name, text) in
            [("windows-1252", GERMAN), ("Shift_JIS", JAPANESE), ("EUC-JP", JAPANESE), ("windows-1251", RUSSIAN)]
        {
            assert!(matches!(in_encoding(name, text), Looks::Encoded { name: found, .. } if found == name), "{name}");
        }
        let chinese = in_encoding("gb18030", CHINESE);
        assert!(matches!(chinese, Looks::Encoded { name: "GBK" | "gb18030", .. }), "{chinese:?}");
        for text in [GERMAN, JAPANESE, CHINESE, "plain", ""] {
            assert_eq!(Looks::of(text.as_bytes()), Looks::Utf8);
        }
    }

    #[test]
    fn wide_characters_are_told_with_and_without_a_mark() {
        for (text, big) in [GERMAN, RUSSIAN, "A short one"].into_iter().flat_map(|text| [(text, false), (text, true)]) {
            let bytes = utf16_bytes(text, big);
            assert_eq!(Looks::of(&bytes), Looks::Wide(if big { "UTF-16BE" } else { "UTF-16LE" }), "{text}");
            assert_eq!(Looks::of(&utf16_bytes(&format!("\u{feff}{text}"), big)), Looks::Wide("UTF-16"), "{text}");
            let wide = |c: char| if big { (c as u32).to_be_bytes() } else { (c as u32).to_le_bytes() };
            let bytes: Vec<u8> = text.chars().flat_map(wide).collect();
            assert_eq!(Looks::of(&bytes), Looks::Wide(if big { "UTF-32BE" } else { "UTF-32LE" }), "{text}");
        }
    }

    #[test]
    fn one_bad_byte_does_not_make_another_encoding() {
        let text = GERMAN.repeat(3);
        let damaged = [text.as_bytes(), b"\xff"].concat();
        assert_eq!(Looks::of(&damaged), Looks::Damaged { bad: 1, first: text.len() });
        let cut = &text.as_bytes()[..text.find('ß').expect("there") + 1];
        assert_eq!(Looks::of(cut), Looks::Damaged { bad: 1, first: cut.len() - 1 });
        let said = Looks::of(&damaged).advice(&damaged, "a.txt", Some(Path::new("a.txt")), true);
        assert!(said.contains("line 4") && said.contains("--lossy"), "{said}");
    }

    #[test]
    fn what_is_no_text_is_called_by_its_name() {
        for (bytes, word) in
            [(&b"%PDF-1.7\n\xe2\xe3"[..], "pdftotext"), (b"PK\x03\x04", "ZIP"), (b"a\xff\0\0b", "binary")]
        {
            assert!(Looks::of(bytes).advice(bytes, "x", None, true).contains(word), "{word}");
        }
    }

    /// The command that is named works, where there is such a command.
    #[test]
    #[cfg(unix)]
    fn the_advice_makes_utf8_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("it's a text.txt");
        let latin = encoding_rs::WINDOWS_1252.encode(GERMAN).0.into_owned();
        let japanese = encoding_rs::SHIFT_JIS.encode(JAPANESE).0.into_owned();
        let (marked, unmarked) = (utf16_bytes(&format!("\u{feff}{GERMAN}"), false), utf16_bytes(GERMAN, true));
        for (bytes, text) in [(latin, GERMAN), (japanese, JAPANESE), (marked, GERMAN), (unmarked, GERMAN)] {
            std::fs::write(&file, &bytes).expect("written");
            let said = Looks::of(&bytes).advice(&bytes, "it", Some(&file), true);
            let command = said.split('`').nth(1).expect("a command");
            let Ok(done) = std::process::Command::new("sh").args(["-c", command]).output() else { return };
            if String::from_utf8_lossy(&done.stderr).contains("not found") {
                return;
            }
            assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
            assert_eq!(std::fs::read_to_string(file.with_extension("utf8.txt")).expect("read"), text, "{command}");
        }
    }
}
