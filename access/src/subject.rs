//! Subjects with wildcards, as permissions have them: which are valid, and which holds which. Matching of a whole list is in
//! `matcher`.

/// Whether a text is a subject that a permission can have: tokens separated by `.`, none empty, `>` as the last only, and no
/// white space of ASCII. As nats-server's `IsValidSubject`.
#[must_use]
pub fn is_valid(subject: &str) -> bool {
    let mut ended = false;
    !subject.is_empty()
        && subject.split('.').all(|token| {
            let valid = !ended && !token.is_empty() && !token.contains(['\t', '\n', '\x0C', '\r', ' ']);
            ended = token == ">";
            valid
        })
}

/// Whether a subject or filter has its tokens in order: none is empty. What is not is never allowed.
#[must_use]
pub(crate) fn has_tokens(subject: &[u8]) -> bool {
    !subject.is_empty() && subject.split(|byte| *byte == b'.').all(|token| !token.is_empty())
}

/// Whether a token of the subject is `*` or `>`.
#[must_use]
pub fn has_wildcard(subject: &str) -> bool {
    subject.split('.').any(|token| matches!(token, "*" | ">"))
}

/// Whether everything that matches `filter` matches `pattern`.
#[must_use]
pub fn is_subset(filter: &str, pattern: &str) -> bool {
    let mut tokens = filter.split('.');
    let mut of_pattern = pattern.split('.').peekable();
    while let Some(part) = of_pattern.next() {
        let Some(token) = tokens.next().filter(|token| !token.is_empty()) else { return false };
        let fits = match part {
            ">" => return of_pattern.peek().is_none() && tokens.all(|token| !token.is_empty()),
            "*" => token != ">",
            _ => token == part,
        };
        if !fits {
            return false;
        }
    }
    tokens.next().is_none()
}

/// Subject and queue of an entry such as `jobs.> workers`, separated by white space, as nats-server reads it; `None` when it
/// is neither a subject nor that.
#[must_use]
pub(crate) fn split_queue(entry: &str) -> Option<(&str, Option<&str>)> {
    let mut fields = entry.split_whitespace();
    let subject = fields.next().filter(|subject| is_valid(subject))?;
    let queue = fields.next();
    (fields.next().is_none() && queue.is_none_or(is_valid)).then_some((subject, queue))
}

#[cfg(test)]
mod tests {
    use super::{has_wildcard, is_subset, is_valid, split_queue};

    #[test]
    fn valid_subjects() {
        for subject in
            ["a", "a.b", "*", ">", "a.*.b", "a.>", "*.>", "a>", "a*.b", ">a.b", "$SYS.x", "ä.ö", "a\u{a0}b", "/./"]
        {
            assert!(is_valid(subject), "{subject}");
        }
        for subject in ["", ".", "a.", ".a", "a..b", ">.a", "a.>.b", "a b", " ", "a\t", "a.\n", "a.\x0C.b", "a\r"] {
            assert!(!is_valid(subject), "{subject:?}");
        }
    }

    #[test]
    fn subsets() {
        for (filter, pattern, expected) in [
            ("foo", "foo", true),
            ("foo", "foo.>", false),
            ("foo.bar", "foo.>", true),
            ("foo.>", "foo.>", true),
            ("foo.>", "foo.*", false),
            ("foo.*", "foo.>", true),
            ("foo.*", "foo.*", true),
            ("foo.*.*", "foo.*", false),
            ("*", ">", true),
            (">", "*", false),
            (">", ">", true),
            ("*.x", "foo.*", false),
            ("*.*", "foo.*", false),
            ("foo.bar", "*.bar", true),
            ("foo.*x", "foo.*", true),
            ("foo.y", "foo.*x", false),
            ("", ">", false),
            ("a..b", "a.*.b", false),
            ("a.b..c", "a.>", false),
            ("a.b.", "a.>", false),
            ("a.b", "a.>.b", false),
        ] {
            assert_eq!(is_subset(filter, pattern), expected, "{filter} in {pattern}");
        }
    }

    #[test]
    fn queue_entries() {
        assert_eq!(split_queue("a.>"), Some(("a.>", None)));
        assert_eq!(split_queue("a.> q"), Some(("a.>", Some("q"))));
        assert_eq!(split_queue("  a.>\tq.* "), Some(("a.>", Some("q.*"))));
        for entry in ["", " ", "a b c", "a..b q", "a q..r"] {
            assert_eq!(split_queue(entry), None, "{entry:?}");
        }
        assert!(has_wildcard("w.*") && has_wildcard(">") && !has_wildcard("w*.x>"));
    }
}
