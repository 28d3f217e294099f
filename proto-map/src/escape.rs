//! One topic level to one subject token and back: a bijection between all valid levels and all valid tokens.
//! How levels are joined, wildcards and limits are not here: see `topic`.
//!
//! A *chain* is a special character written with a depth. Depth 0 is the character itself, depth 1 is `%XX`, depth 2
//! is `%25XX`, depth 3 is `%2525XX`, and so on; `XX` is the character in upper-case hexadecimal. Everything that is
//! not a chain stands for itself. What the mapping does with a chain depends on where its character can stand:
//!
//! | character | can stand in | level to token | token to level |
//! |---|---|---|---|
//! | space, tab, CR, LF, FF | a level only | depth + 1 | depth − 1 |
//! | `+`, `#` | a token only | depth − 1 | depth + 1 |
//! | other control characters, DEL, `*`, `>` | both | 0 ⇄ 1, others stay | the same |
//! | `*`, `>` as the whole level | a level only | depth + 1 | depth − 1 |
//! | `/` | a token only, and pairs of it mean `.` | depth − 1, see below | depth + 1 |
//!
//! `/` in a token is a dot per pair, as nats-server has it, and an odd one is the last of its run. So a chain of `/`
//! keeps its depth on both sides when a `/` follows it in the token, or when it is the whole of one of several
//! tokens: there a lone `/` already means the empty level.

/// Depth and character of a chain, or a character that stands for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Plain(char),
    Chain(u8, usize),
    /// A maximal run of `/` in a token.
    Slashes(usize),
}

/// Where a special character can stand unescaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Level,
    Token,
    Both,
}

/// The place of a special character; `None` when it is not special.
const fn place(byte: u8) -> Option<Place> {
    match byte {
        b' ' | b'\t' | b'\n' | b'\r' | 0x0C => Some(Place::Level),
        b'/' | b'+' | b'#' => Some(Place::Token),
        0x01..=0x1F | 0x7F | b'*' | b'>' => Some(Place::Both),
        _ => None,
    }
}

/// What a byte means to a scan that looks for a reason to leave the fast path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Stands for itself on both sides.
    Plain,
    /// `.`
    Dot,
    /// `/`
    Slash,
    /// `%`, special characters other than `/`, and NUL.
    Special,
}

/// Class of every byte.
pub(crate) static CLASS: [Class; 256] = {
    let mut table = [Class::Plain; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte as usize] = match byte {
            b'.' => Class::Dot,
            b'/' => Class::Slash,
            0 | b'%' => Class::Special,
            _ if place(byte).is_some() => Class::Special,
            _ => Class::Plain,
        };
        byte += 1;
    }
    table
};

const fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The chain that `text`, which begins with `%`, begins with: character, depth and length in bytes.
fn chain_at(text: &[u8]) -> Option<(u8, usize, usize)> {
    let (mut at, mut depth) = (1, 1);
    loop {
        let (high, low) = (hex(*text.get(at)?)?, hex(*text.get(at + 1)?)?);
        at += 2;
        match high << 4 | low {
            b'%' => depth += 1,
            byte => return place(byte).map(|_| (byte, depth, at)),
        }
    }
}

/// Takes the items of a level or token apart.
fn items(text: &str) -> Vec<Item> {
    let mut items = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(character) = text[at..].chars().next() {
        let (item, length) = match character {
            '%' => match chain_at(&text.as_bytes()[at..]) {
                Some((byte, depth, length)) => (Item::Chain(byte, depth), length),
                None => (Item::Plain('%'), 1),
            },
            '/' => {
                let run = text[at..].bytes().take_while(|byte| *byte == b'/').count();
                (Item::Slashes(run), run)
            }
            _ => match u8::try_from(character).ok().filter(|byte| place(*byte).is_some()) {
                Some(byte) => (Item::Chain(byte, 0), 1),
                None => (Item::Plain(character), character.len_utf8()),
            },
        };
        items.push(item);
        at += length;
    }
    items
}

fn write_chain(out: &mut String, byte: u8, depth: usize) {
    if depth == 0 {
        out.push(char::from(byte));
        return;
    }
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    for _ in 1..depth {
        out.push_str("25");
    }
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

fn write(out: &mut String, items: impl Iterator<Item = Item>) {
    for item in items {
        match item {
            Item::Plain(character) => out.push(character),
            Item::Chain(byte, depth) => write_chain(out, byte, depth),
            Item::Slashes(run) => out.extend(std::iter::repeat_n('/', run)),
        }
    }
}

/// Depth 0 and depth 1 change places.
const fn swapped(depth: usize) -> usize {
    match depth {
        0 => 1,
        1 => 0,
        other => other,
    }
}

/// Appends the token of a level. `alone` says that it is the only level of its topic. The level has no `/`, no U+0000
/// and no wildcard, and is not empty when it is alone.
pub(crate) fn push_token(out: &mut String, level: &str, alone: bool) {
    if level.is_empty() {
        out.push('/');
        return;
    }
    if level.bytes().all(|byte| CLASS[usize::from(byte)] == Class::Plain) {
        out.push_str(level);
        return;
    }
    let mut items = items(level);
    if let [Item::Chain(byte, depth)] = items[..] {
        match byte {
            b'*' | b'>' => return write_chain(out, byte, depth + 1),
            b'/' if !alone => return write_chain(out, byte, depth),
            _ => {}
        }
    }
    let mut slash_follows = false;
    for item in items.iter_mut().rev() {
        *item = token_item(*item, slash_follows);
        slash_follows = matches!(item, Item::Slashes(_));
    }
    write(out, items.into_iter());
}

fn token_item(item: Item, slash_follows: bool) -> Item {
    match item {
        Item::Plain('.') => Item::Slashes(2),
        Item::Chain(b'/', 1) if !slash_follows => Item::Slashes(1),
        Item::Chain(b'/', depth) if slash_follows => Item::Chain(b'/', depth),
        Item::Chain(byte, depth) => match place(byte) {
            Some(Place::Level) => Item::Chain(byte, depth + 1),
            // A character that cannot stand in a level has no depth 0 there.
            Some(Place::Token) => Item::Chain(byte, depth.saturating_sub(1)),
            _ => Item::Chain(byte, swapped(depth)),
        },
        other => other,
    }
}

/// Appends the level of a token. `alone` says that it is the only token of its subject. The token is not empty and has
/// no character that no token can have, and is not `*` or `>`.
pub(crate) fn push_level(out: &mut String, token: &str, alone: bool) {
    if token.bytes().all(|byte| CLASS[usize::from(byte)] == Class::Plain) {
        out.push_str(token);
        return;
    }
    let items = items(token);
    match items[..] {
        [Item::Slashes(1)] if !alone => return,
        [Item::Chain(byte @ (b'*' | b'>'), depth)] => return write_chain(out, byte, depth.saturating_sub(1)),
        [Item::Chain(b'/', depth)] if !alone => return write_chain(out, b'/', depth),
        _ => {}
    }
    for (index, item) in items.iter().enumerate() {
        match *item {
            Item::Plain(character) => out.push(character),
            Item::Slashes(run) => {
                out.extend(std::iter::repeat_n('.', run / 2));
                if run % 2 == 1 {
                    write_chain(out, b'/', 1);
                }
            }
            Item::Chain(b'/', depth) if matches!(items.get(index + 1), Some(Item::Slashes(_))) => {
                write_chain(out, b'/', depth);
            }
            Item::Chain(byte, depth) => match place(byte) {
                Some(Place::Level) => write_chain(out, byte, depth.saturating_sub(1)),
                Some(Place::Token) => write_chain(out, byte, depth + 1),
                _ => write_chain(out, byte, swapped(depth)),
            },
        }
    }
}

/// Whether a byte can stand nowhere in a subject: the protocol of NATS would end the subject there.
pub(crate) const fn is_outside_subjects(byte: u8) -> bool {
    byte == 0 || matches!(place(byte), Some(Place::Level))
}
