//! A value that is one token of a subject.

/// The text is not one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one token of a subject: empty, a wildcard, or with a dot, white space or a control character")]
pub struct NotAToken;

/// One token of a subject, and no wildcard: what is safe to put into a permission, whoever chose it. What comes from a device
/// or an identity provider is mapped first, as one level of a topic (`esp.1` becomes `esp//1`), which `proto-map` does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(String);

impl Token {
    /// Checks a text.
    ///
    /// # Errors
    /// It is empty, `*` or `>`, or has a dot, a control character or white space, also of Unicode: nats-server ends the subject
    /// of a permission there.
    pub fn new(text: impl Into<String>) -> Result<Self, NotAToken> {
        let text = text.into();
        let is_wildcard = matches!(text.as_str(), "" | "*" | ">");
        let is_token = !is_wildcard && !text.contains(|c: char| c == '.' || c.is_whitespace() || c.is_control());
        is_token.then_some(Self(text)).ok_or(NotAToken)
    }

    /// The token.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Token;

    #[test]
    fn tokens() {
        for text in ["a", "esp//1", "a*", "*a", ">>", "**", "ä", "{{name()}}", "$SYS"] {
            assert!(Token::new(text).is_ok(), "{text}");
        }
        for text in ["", "*", ">", "a.b", ".", " ", "a b", "a\t", "\u{a0}", "a\u{3000}b", "\0", "a\u{7f}", "\u{85}"] {
            assert!(Token::new(text).is_err(), "{text:?}");
        }
    }
}
